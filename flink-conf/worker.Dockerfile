# The Python worker of a job, for --environment_type=DOCKER --environment_config=IMAGE, or as the sidecar of a TaskManager
# that --environment_type=EXTERNAL finds (arguments: --worker_pool). Build it from the folder above:
#   docker build -f flink-conf/worker.Dockerfile -t monobeam-worker .
# PyPI's torch brings CUDA (5 GB): --build-arg TORCH_INDEX=... takes it from the index that pytorch.org names for "CPU".
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

# Beam's own image: its boot is the entry point, and it has Beam's packages.
FROM apache/beam_python3.11_sdk:2.77.0
ARG TORCH_INDEX=""
COPY --from=built /wheels /wheels
COPY constraints.txt /wheels/
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c /wheels/constraints.txt --index-url "$TORCH_INDEX" torch; fi \
  && pip install --no-cache-dir -c /wheels/constraints.txt /wheels/*.whl && useradd --create-home worker
ENV OMP_NUM_THREADS=1
USER worker
ENTRYPOINT ["/opt/apache/beam/boot"]
