"""The HTTP face: ``/rank``, ``/health``, ``/ready``, ``/metrics``, ``/stats.json`` and the live page at ``/``.

The event loop only speaks HTTP; ranking happens in one thread beside it, so that health checks and refusals are
prompt however much waits. At most ``max_waiting`` requests wait for that thread; the next ones are told to come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monobeam.serving import prometheus
from monobeam.serving.errors import (
    InternalError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ServingError,
    TooLarge,
    TooSlow,
    quote,
)
from monobeam.serving.guard import Guard, as_json
from monobeam.serving.service import Service

_LOGGER = logging.getLogger(__name__)
BODIES_AT_ONCE = 16  # so many of the largest size, or more smaller ones
FAILED = "the server failed; its log says why"
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/chart.js": ("chart.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
}
Endpoint = Callable[[Request], Awaitable[Response]]


class RankEndpoint:
    """``POST /rank``: bounds what is read and what waits."""

    def __init__(self, service: Service) -> None:
        options = service.options
        self._rank = service.ranker.rank
        self._requests = service.state.requests
        self._max_body = options.max_body_bytes
        self._max_waiting = options.max_waiting
        self._timeout_s = options.read_timeout_s
        self._waiting = 0
        self._buffered = 0  # bytes of bodies that are being read or wait
        # One thread: torch sums in a fixed order, and a ranking that has begun is never slowed by the next.
        self._thread = ThreadPoolExecutor(1, "rank", torch.set_num_threads, (1,))

    async def __call__(self, request: Request) -> Response:
        """A ranking, or the error as JSON."""
        try:
            answer = await self._answer(request)
        except ServingError as error:
            self._requests.by_status[error.status] += 1
            return as_json(error)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception:
            _LOGGER.exception("a request failed")
            self._requests.by_status[500] += 1
            return as_json(InternalError(FAILED))
        self._requests.by_status[200] += 1
        return Response(answer, media_type="application/json")

    def close(self) -> None:
        """Let what was begun end."""
        self._thread.shutdown()

    async def _answer(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        self._refuse_when_full()
        try:
            await self._read(request, chunks)
            self._refuse_when_full()
            self._waiting += 1
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._rank, b"".join(chunks))
            finally:
                self._waiting -= 1
        finally:
            self._buffered -= sum(map(len, chunks))

    def _refuse_when_full(self) -> None:
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait already; come back in a second")

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        """The body in chunks, unless it is too large or too slow: then no more of it is read than shows that."""
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_body:
            raise TooLarge(f"a body of {announced} bytes; at most {self._max_body} are read")
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._max_body:
                        raise TooLarge(f"a body of more than {self._max_body} bytes; no more are read")
                    if self._buffered + len(chunk) > BODIES_AT_ONCE * self._max_body:
                        raise Overloaded("too many large bodies at once; come back in a second")
                    chunks.append(chunk)
                    self._buffered += len(chunk)
        except TimeoutError:
            raise TooSlow(f"of the body {size} bytes came within {self._timeout_s:g} s, and not its end") from None


def create_app(service: Service) -> Starlette:
    """The application around one service, which starts and stops with it."""
    rank = RankEndpoint(service)
    metrics = prometheus.registry(service.state, service.now_us)
    replica = service.state.replica

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        rank.close()
        service.stop()

    async def rank_request(request: Request) -> Response:
        return await rank(request)

    async def health(request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def ready(request: Request) -> Response:
        figures = {
            "ready": replica.trained,
            "epoch": replica.epoch,
            "staleness_ms": replica.staleness_ms(service.now_us()),
            "error": replica.error,
        }
        return JSONResponse(figures, 200 if replica.trained else 503)

    async def scrape(request: Request) -> Response:
        return Response(prometheus.exposition(metrics), media_type=prometheus.CONTENT_TYPE)

    async def stats(request: Request) -> Response:
        return Response(service.dashboard.stats, media_type="application/json", headers={"Cache-Control": "no-store"})

    routes = [
        Route("/rank", rank_request, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", scrape),
        Route("/stats.json", stats),
    ]
    return Starlette(
        routes=routes + [Route(path, _page(name, kind)) for path, (name, kind) in _PAGE.items()],
        middleware=[Middleware(Guard, service.options.host, service.options.allowed_hosts)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=lifespan,
    )


async def _refused(request: Request, error: Exception) -> Response:
    """What no route takes, as JSON like everything else."""
    if isinstance(error, HTTPException) and error.status_code == MethodNotAllowed.status:
        answer = as_json(MethodNotAllowed(f"{quote(request.url.path)}: not with {request.method}"))
        answer.headers.update(error.headers or {})
        return answer
    return as_json(NotFound(f"{quote(request.url.path)}: nothing is here"))


async def _failed(request: Request, error: Exception) -> Response:
    return as_json(InternalError(FAILED))


def _page(name: str, media_type: str) -> Endpoint:
    content = (files("monobeam.serving") / "page" / name).read_bytes()

    async def page(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

    return page
