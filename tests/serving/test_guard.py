"""Pages of other sites, open in a browser on the same machine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from monobeam.serving.guard import Guard
from tests.serving.world import World, request, running


async def app(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("inside")(scope, receive, send)


def status(guard: Guard, method: str, **headers: str) -> int:
    """What is answered to a request with these headers."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    asyncio.run(guard({"type": "http", "method": method, "headers": raw}, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("listening", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:8080", 200),
        ("127.0.0.1", "LOCALHOST", 200),
        ("127.0.0.1", "[::1]:8080", 200),
        ("127.0.0.1", "ranker.internal:80", 200),
        ("127.0.0.1", "evil.example:8080", 400),
        ("127.0.0.1", "localhost.evil.example", 400),
        ("127.0.0.1", "10.0.0.7", 400),
        ("127.0.0.1", "", 400),
        ("127.0.0.1", "[::1", 400),
        ("10.0.0.7", "10.0.0.7:8080", 200),
        ("::", "[fd00::7]:8080", 200),
        ("0.0.0.0", "10.0.0.7:8080", 200),
        ("0.0.0.0", "evil.example", 400),
    ],
)
def test_only_a_name_of_the_server_leads_to_it(listening: str, host: str, expected: int) -> None:
    guard = Guard(app, listening, ["Ranker.internal"])
    assert status(guard, "GET", host=host) == expected
    assert status(Guard(app, listening, ["*"]), "GET", host=host) == 200


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8080", 200),
        ("http://localhost:3000", 403),
        ("https://evil.example", 403),
        ("http://[", 403),
        ("null", 403),
    ],
)
def test_only_its_own_page_may_write(origin: str, expected: int) -> None:
    guard = Guard(app, "127.0.0.1", [])
    assert status(guard, "POST", host="localhost:8080", origin=origin) == expected
    assert status(guard, "GET", host="localhost:8080", origin=origin) == 200
    assert status(guard, "POST", host="localhost:8080") == 200


def test_a_foreign_page_writes_nothing(world: World) -> None:
    world.step(1)
    with running(world, "--allowed-host=ranker.internal") as server:
        server.until_epoch(world)
        asked = request(1, 3)
        foreign = server.client.post("/rank", json=asked, headers={"Origin": "https://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]) == (403, "Forbidden")
        assert foreign.json()["detail"] == 'origin "https://evil.example": pages of other sites may not write here'
        rebound = server.client.post("/rank", json=asked, headers={"Host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]) == (400, "UnknownHost")
        for headers in ({}, {"Host": "ranker.internal"}, {"Origin": server.url}):
            assert server.client.post("/rank", json=asked, headers=headers).status_code == 200
        server.until(lambda: server.stats()["served"]["logged"] == 9, "the impressions")
