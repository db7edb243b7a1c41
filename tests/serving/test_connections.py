"""Clients that take their time, against a real server process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import cast
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from monobeam.serving.app import RankEndpoint
from monobeam.serving.service import Service, ServiceOptions
from monobeam.serving.state import RequestFigures
from tests.serving.world import ServerProcess, World, request, running

HEAD = b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


@contextmanager
def connected(server: ServerProcess, sent: bytes) -> Iterator[socket.socket]:
    """A connection by which this has been sent."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=15) as client:
        client.sendall(sent)
        yield client


def answer_of(client: socket.socket) -> tuple[bytes, dict[str, str]]:
    """Head and JSON of an answer that ends with the connection."""
    received = b""
    while part := client.recv(4096):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head.lower(), json.loads(body)


def test_a_request_that_does_not_come_is_refused_and_the_connection_closed(world: World) -> None:
    with running(world, "--read-timeout=0.3") as server, ExitStack() as stack:
        head, body = (stack.enter_context(connected(server, sent)) for sent in (HEAD, HEAD + b"\r\n{"))
        silent = stack.enter_context(connected(server, b""))
        unread = stack.enter_context(connected(server, HEAD.replace(b"POST /rank", b"GET /health") + b"\r\n{"))
        for client, detail in ((head, "head did not come within 0.3 s"), (body, "of the body 1 bytes came within")):
            received, error = answer_of(client)
            assert received.startswith(b"http/1.1 408 ")
            assert b"connection: close" in received
            assert error["error"] == "TooSlow"
            assert detail in error["detail"]
        assert silent.recv(1) == b""
        assert b" 200 " in unread.recv(4096)
        assert unread.recv(1) == b""
        server.until(lambda: server.stats()["requests"]["by_status"] == {"408": 1}, "the count")


def test_slow_clients_do_not_keep_others_out(world: World) -> None:
    world.step(1)
    with running(world, "--max-connections=60", "--read-timeout=60", "--max-waiting=2") as server, ExitStack() as stack:
        server.until_epoch(world)
        slow = [stack.enter_context(connected(server, HEAD + b"\r\n{" * (i % 2))) for i in range(200)]
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.post(f"{server.url}/rank", json=request(1, 3)).status_code == 200
        with suppress(ConnectionResetError):
            assert slow[0].recv(1) == b""  # made room


def test_bodies_that_are_being_read_are_bounded_together(world: World) -> None:
    world.step(1)
    with running(world, "--max-body=1000") as server, ExitStack() as stack:
        server.until_epoch(world)
        for _ in range(17):  # one more than are held; the last to come is refused
            stack.enter_context(connected(server, HEAD + b"\r\n" + b" " * 999))
        server.until(lambda: server.stats()["requests"]["overloaded"] == 1, "the refusal")
        assert server.rank(b"{}").status_code == 422


def test_too_many_waiting_are_refused_before_their_bodies_are_read() -> None:
    began, go_on = threading.Event(), threading.Event()

    def rank(body: bytes) -> bytes:
        began.set()
        assert go_on.wait(20)
        return body

    async def whole() -> Message:
        return {"type": "http.request", "body": b"{}"}

    async def never() -> Message:
        raise AssertionError("the body was asked for")

    async def both() -> tuple[Response, Response]:
        first = asyncio.create_task(endpoint(Request({"type": "http", "headers": []}, whole)))
        await asyncio.to_thread(began.wait, 20)
        second = await endpoint(Request({"type": "http", "headers": []}, never))
        go_on.set()
        return await first, second

    options = ServiceOptions("memory:", "file:sync", max_waiting=1)
    state = SimpleNamespace(requests=RequestFigures())
    endpoint = RankEndpoint(
        cast(Service, SimpleNamespace(options=options, ranker=SimpleNamespace(rank=rank), state=state))
    )
    first, second = asyncio.run(both())
    endpoint.close()
    assert (first.status_code, second.status_code) == (200, 503)
