"""Against a real server process, over HTTP."""

from __future__ import annotations

import signal
import threading
from collections import Counter

import httpx
import numpy as np

from monobeam.logs.columns import impressions
from monobeam.logs.log import open_log, records
from tests.serving.world import ServerProcess, World, request, running

MALFORMED: list[tuple[object, int, str]] = [
    (b"", 400, "the body is empty"),
    (b"not json", 400, "the body is no JSON"),
    (b'{"candidates": [{"price": NaN}]}', 400, "NaN is no JSON number"),
    (b'{"candidates": [{"price": 1e999}]}', 422, "price = Infinity"),
    ([], 422, "the request = []: must be an object"),
    ({}, 422, "candidates: missing"),
    ({"candidates": []}, 422, "candidates = []"),
    ({"candidates": [{"item_id": 1}] * 1001}, 422, "1001 of them; at most 1000"),
    ({"candidates": [{"colour": "red"}]}, 422, '"colour": unknown feature; allowed: age, country'),
    ({"candidates": [{"price": "cheap"}]}, 422, 'candidates[0].price = "cheap": must be a number'),
    ({"candidates": [{"item_id": [[1]]}]}, 422, "candidates[0].item_id = [[1]]"),
    ({"candidates": [{"\ud800": 1}]}, 422, '"\\ud800": unknown feature'),
    ({"candidates": [{"tags": ["a"] * 1001}]}, 422, "candidates[0].tags: 1001 items; at most 1000"),
    ({"candidates": [{}], "top_k": -1}, 422, "top_k = -1"),
    ({"candidates": [{}], "verbose": 1}, 422, '"verbose": unknown key'),
    (b'{"candidates": "' + b"x" * (4 << 20) + b'"}', 413, "at most 4194304 are read"),
]


def test_a_server_answers_learns_logs_and_refuses(world: World) -> None:
    world.step(1)
    with running(world) as server:
        server.until_epoch(world)
        one = request(1, 10)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)
        before = server.scores(one)
        for seed in (2, 3):
            world.step(seed)
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)
        assert not np.allclose(server.scores(one), before, rtol=1e-4)

        check_the_answer(server)
        for body, status, message in MALFORMED:
            answer = server.rank(body)
            assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
        check_the_other_addresses(server)
        assert server.end() == 0
    check_the_served_log(world)


def check_the_answer(server: ServerProcess) -> None:
    answer = server.rank(request(4, 10, request_id="mine", top_k=3)).json()
    assert (answer["request_id"], answer["model"], answer["dense_version"]) == ("mine", "test", 3)
    assert answer["trained"] is True
    assert answer["staleness_ms"] >= 0
    results = answer["results"]
    assert [result["position"] for result in results] == [0, 1, 2]
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert len({result["impression_id"] for result in results}) == 3
    silent = server.rank(request(4, 5, log=False)).json()["results"]
    assert [result["impression_id"] for result in silent] == [None] * 5
    unknown = server.rank({"features": {"user_id": -5}, "candidates": [{"item_id": -1}, {"item_id": -2}], "log": False})
    assert (unknown.status_code, unknown.json()["unknown_fids"]) == (200, 3)


def check_the_other_addresses(server: ServerProcess) -> None:
    assert server.client.get("/health").status_code == 200
    assert server.client.get("/ready").status_code == 200
    wrong = server.client.get("/rank")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json() == {"error": "MethodNotAllowed", "detail": '"/rank": not with GET'}
    nothing = server.client.get("/nothing")
    assert (nothing.status_code, nothing.json()) == (
        404,
        {"error": "NotFound", "detail": '"/nothing": nothing is here'},
    )
    metrics = server.client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert lines['monobeam_requests_total{status="422"}'] == "12.0"
    assert lines['monobeam_sync_gaps_total{shard="0"}'] == "0.0"
    assert float(lines['monobeam_request_seconds_bucket{le="+Inf"}']) == float(lines["monobeam_request_seconds_count"])
    assert float(lines["monobeam_freshness_seconds_count"]) > 0
    page = server.client.get("/")
    assert "monobeam" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]


def check_the_served_log(world: World) -> None:
    log = open_log(world.uri("served"))
    chunks = log.read(0, 0, 1_000_000)
    found = records(chunks)
    mine = [record for record in found if record["request_id"] == "mine"]
    assert [record["position"] for record in mine] == [0, 1, 2]
    asked = request(4, 10)
    assert all(record["user_id"] == asked["features"]["user_id"] for record in mine)
    assert {record["item_id"] for record in mine} <= {item["item_id"] for item in asked["candidates"]}
    assert len(found) == 4 * 10 + 3  # nothing of "log": false, of refused requests or of the cut-off candidates
    decoded = [impressions(chunk, "served", now_us=int(2e15)) for chunk in chunks]
    assert sum(part.batch.num_rows for part in decoded) == len(found)
    assert not any(part.rejects for part in decoded)


def test_a_killed_server_comes_back_as_the_store_is(world: World) -> None:
    world.step(1)
    one = request(7, 50, log=False)
    with running(world) as server:
        server.until_epoch(world)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    world.step(2)
    world.commit(3)  # this event never reaches the log
    with running(world) as server:
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)
        server.until(lambda: server.stats()["replica"]["rows"] == world.store.rows, "every row")


def test_from_no_commit_over_a_gap_to_a_store_that_is_away(world: World) -> None:
    one = request(9, 50, log=False)
    with running(world) as server:
        server.until(lambda: server.rank(one).status_code == 200, "an answer before the first commit")
        assert server.client.get("/ready").status_code == 503
        before = server.rank(one).json()
        assert (before["epoch"], before["trained"]) == (0, False)
        server.until(lambda: server.stats()["state"]["name"] == "untrained", "the state")

        world.step(1)
        server.until_epoch(world)
        world.commit(2)  # this event never reaches the log
        world.step(3)
        server.until_epoch(world)
        before = server.scores(one)
        np.testing.assert_allclose(before, world.expected(one), rtol=1e-6)
        server.until(lambda: server.stats()["replica"]["gaps"] == 2, "one gap for each shard")

        for name in ("store", "sync"):
            (world.folder / name).rename(world.folder / f"{name}-away")
        looks = 2500  # milliseconds: the follower looks at the log every 20 and at the store every 1000
        server.until(lambda: server.client.get("/ready").json()["staleness_ms"] > looks, "the staleness")
        assert (server.scores(one) == before).all()
        for name in ("store", "sync"):
            (world.folder / f"{name}-away").rename(world.folder / name)
        world.step(4)
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)


def test_a_sync_log_that_is_deleted_and_begun_anew(world: World) -> None:
    """Meanwhile the server reads the store; it needs no new start, and bears one."""
    one = request(5, 50, log=False)
    with running(world) as server:
        world.step(1)
        server.until_epoch(world)
        world.delete_sync()
        world.commit(2)  # into the store alone, as by a trainer that writes to what is deleted
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)
        world.step(3, rows=200)  # more than the old log had
        server.until_epoch(world)
        server.until(lambda: server.client.get("/ready").json()["error"] is None, "the new log")
        by_events = server.stats()["replica"]["events"]
        world.step(4)
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)
        server.until(lambda: server.stats()["replica"]["events"] > by_events, "an event of the new log")
        server.end()
    with running(world) as server:
        server.until_epoch(world)
        world.step(5)
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(one), world.expected(one), rtol=1e-6)


def test_too_many_requests_at_once_are_told_to_come_back(world: World) -> None:
    world.step(1)
    with running(world, "--max-waiting=2", "--max-candidates=5000") as server:
        server.until_epoch(world)
        large = request(1, 3000, log=False)
        statuses: Counter[int] = Counter()
        headers: set[str | None] = set()

        def ask() -> None:
            answer = httpx.post(f"{server.url}/rank", json=large, timeout=30)
            statuses[answer.status_code] += 1
            if answer.status_code == 503:
                headers.add(answer.headers.get("retry-after"))

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 503}
        assert headers == {"1"}
        assert server.rank(request(1, 3)).status_code == 200
        server.until(lambda: server.stats()["requests"]["overloaded"] == statuses[503], "the count")
