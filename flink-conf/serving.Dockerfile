# A server: answers /rank and follows the sync log. Mount the configuration and the logs; say where in the arguments:
#   docker build -f flink-conf/serving.Dockerfile -t monobeam-serving .
#   docker run -p 8080:8080 -v /srv/monobeam:/srv/monobeam monobeam-serving --config=/srv/monobeam/model.toml
# It listens inside its container on all addresses and asks nobody who he is: publish the port to those who may ask.
FROM python:3.11.13-slim-bookworm AS built
RUN apt-get update && apt-get install -y --no-install-recommends g++=4:12.2.0-3 && rm -rf /var/lib/apt/lists/*
WORKDIR /monobeam
COPY constraints.txt pyproject.toml setup.py README.md ./
COPY native native
COPY logs logs
COPY join join
COPY store store
COPY models models
COPY transforms transforms
COPY pipelines pipelines
COPY serving serving
RUN pip wheel --no-cache-dir --no-deps -w /wheels .

FROM python:3.11.13-slim-bookworm
ARG TORCH_INDEX=""
COPY --from=built /wheels /wheels
COPY constraints.txt /wheels/
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c /wheels/constraints.txt --index-url "$TORCH_INDEX" torch; fi \
  && pip install --no-cache-dir -c /wheels/constraints.txt /wheels/*.whl && useradd --create-home server
USER server
EXPOSE 8080
HEALTHCHECK --interval=5s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health')"]
ENTRYPOINT ["python", "-m", "monobeam.serving", "--host=0.0.0.0", "--port=8080"]
