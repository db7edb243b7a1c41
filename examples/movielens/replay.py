"""Replays MovieLens as live traffic into two raw logs, and asks the server for rankings all along.

Time in the logs is the wall clock of the replay; of the data set's own time the order and the hour of the day remain. A
machine that is too busy to keep up gets a longer replay, never records that are later than they claim.
"""

import argparse
import heapq
import json
import math
import queue
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.movielens.catalogue import ACTIONS, IMPRESSIONS, Catalogue, Questions
from examples.movielens.dataset import read
from examples.movielens.ledger import Ledger
from examples.movielens.plan import MALFORMED, OF_IMPRESSIONS, Kind, Plan, Settings, plan
from examples.movielens.visitors import Load, Requests, Server
from monobeam.logs import schemas
from monobeam.logs.log import Appender, Log, open_log
from monobeam.models.config import load

PARTITIONS = 1
RATINGS_PER_SECOND = 700  # more than that is no longer a demo for a laptop
METRICS_PARTITION = 2  # the pipeline writes 0, the frozen model 1: a partition of a file log has one writer
WARM_UP = 32
WARM_UP_S = 240.0  # until the first model is served
BATCH_S = 0.015  # records go out in small batches, as a web server's log does
BEHIND_US = 40_000  # further behind its schedule than this, the replay stretches

# A string that claims to be longer than the record is: no Avro reader gets beyond it.
GARBAGE = b"\xd0\x0f" + bytes(range(0xF0, 0x100))


@dataclass(frozen=True)
class Clock:
    """Time, so that a test can bring its own: microseconds since the epoch, and how to wait."""

    now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    sleep: Callable[[float], None] = time.sleep


class Replay:
    """Sends a plan's records to the two logs when they are due. One thread."""

    def __init__(
        self,
        todo: Plan,
        catalogue: Catalogue,
        impressions: Log,
        actions: Log,
        ledger: Ledger,
        clock: Clock | None = None,
        ask: Callable[[int], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Opens the logs for writing.

        Args:
            ask: has the server rank and log the item of a rating; the answer comes to ``served``.
            progress: hears after each batch how many records are sent, and the microseconds by which it stretched.
        """
        self._plan, self._catalogue, self._ledger = todo, catalogue, ledger
        self._clock = clock or Clock()
        self._ask = ask or (lambda rating: None)
        self._progress = progress or (lambda sent, stretched_us: None)
        self._impressions = [impressions.appender(partition, IMPRESSIONS) for partition in range(PARTITIONS)]
        self._actions = [actions.appender(partition, ACTIONS) for partition in range(PARTITIONS)]
        self._start_us = 0  # the wall clock at the plan's zero; moves when the replay stretches
        self.stretched_us = 0
        self._shown_us = np.zeros(len(catalogue.ratings), np.int64)  # wall clock; 0: not yet
        self._liked_us = np.zeros(len(catalogue.ratings), np.int64)
        self._served: queue.SimpleQueue[tuple[int, str, int]] = queue.SimpleQueue()
        self._served_likes: list[tuple[int, int, str, int]] = []  # heap: when, rating, impression id, when it was shown

    def served(self, rating: int, impression_id: str, time_us: int) -> None:
        """The server has ranked the item of this rating and logged it under this id. Any thread may say so."""
        self._served.put((rating, impression_id, time_us))

    def warm_up(self, count: int) -> None:
        """Shows the first items to people who do not react, so that there is something to train and to serve.

        It gives the processes behind the logs something to start on before the clock runs, and before anybody asks for
        a ranking.
        """
        batch, now_us = _Batch(), self._clock.now_us()
        for number in range(count):
            rating = number % len(self._catalogue.ratings)
            batch.impressions[number % PARTITIONS].append(self._impression(f"warmup{number}", now_us, rating))
            self._ledger.impression(f"warmup{number}")
        self._send(batch)

    def run(self) -> None:
        """Sends everything that is planned."""
        self._start_us = self._clock.now_us()
        sent = 0
        while sent < len(self._plan):
            behind_us = self._clock.now_us() - self._start_us - int(self._plan.send_us[sent])
            if behind_us > BEHIND_US:
                self._start_us += behind_us
                self.stretched_us += behind_us
            due = int(np.searchsorted(self._plan.send_us, self._clock.now_us() - self._start_us, side="right"))
            batch = _Batch()
            for row in range(sent, due):
                self._enter(row, batch)
            self._enter_served(batch)
            self._send(batch)
            sent = max(sent, due)
            self._progress(sent, self.stretched_us)
            self._clock.sleep(BATCH_S)

    def finish(self) -> None:
        """Sends the likes of what the server has served, after the last answer, and closes the logs."""
        while True:
            batch = _Batch()
            self._enter_served(batch)
            self._send(batch)
            if not self._served_likes and self._served.empty():
                break
            self._clock.sleep(BATCH_S)
        for appender in self._impressions + self._actions:
            appender.close()

    def _enter(self, row: int, batch: "_Batch") -> None:
        kind, rating = Kind(int(self._plan.kind[row])), int(self._plan.rating[row])
        partition, time_us = int(self._plan.partition[row]), int(self._plan.time_us[row])
        if kind == Kind.REQUEST:
            self._ask(rating)
        elif kind == Kind.IMPRESSION:
            batch.impressions[partition].append(self._impression(f"r{rating}", self._shown(rating, time_us), rating))
            self._ledger.impression(f"r{rating}")
        elif kind == Kind.LIKE:
            shown_us = self._shown(rating, time_us - int(self._plan.reaction_us[rating]))
            self._liked_us[rating] = self._liked_us[rating] or self._start_us + time_us
            liked_us = int(self._liked_us[rating])
            batch.actions[partition].append(_like(f"r{rating}", liked_us))
            self._ledger.like(f"r{rating}", liked_us - shown_us)
        elif kind == Kind.STRAY_LIKE:
            batch.actions[partition].append(_like(f"stray{row}", self._start_us + time_us))
            self._ledger.stray_like()
        else:
            self._enter_malformed(kind, row, batch)

    def _shown(self, rating: int, time_us: int) -> int:
        """When the item was shown: fixed when the impression, or a like that overtakes it, is first sent."""
        self._shown_us[rating] = self._shown_us[rating] or self._start_us + time_us
        return int(self._shown_us[rating])

    def _impression(self, impression_id: str, time_us: int, rating: int) -> dict[str, Any]:
        return {"impression_id": impression_id, "time": time_us, **self._catalogue.features(rating)}

    def _enter_malformed(self, kind: Kind, row: int, batch: "_Batch") -> None:
        assert kind in MALFORMED, kind
        partition, time_us = int(self._plan.partition[row]), self._start_us + int(self._plan.time_us[row])
        record_id = "" if kind in (Kind.EMPTY_ID_IMPRESSION, Kind.EMPTY_ID_LIKE) else f"malformed{row}"
        time_us = 0 if kind in (Kind.ZERO_TIME_IMPRESSION, Kind.ZERO_TIME_LIKE) else time_us
        if kind in (Kind.GARBAGE_IMPRESSION, Kind.GARBAGE_LIKE):
            batch.garbage.append((self._impressions if kind in OF_IMPRESSIONS else self._actions)[partition])
        elif kind in OF_IMPRESSIONS:
            batch.impressions[partition].append(self._impression(record_id, time_us, int(self._plan.rating[row])))
        else:
            value = math.inf if kind == Kind.INFINITE_LIKE else 1.0
            batch.actions[partition].append(_like(record_id, time_us, value))
        self._ledger.malformed(kind)

    def _enter_served(self, batch: "_Batch") -> None:
        """The server's impressions are in its own log already; their likes are due some time after the answer."""
        while not self._served.empty():
            rating, impression_id, shown_us = self._served.get()
            self._ledger.impression(impression_id)
            if reaction_us := int(self._plan.reaction_us[rating]):
                heapq.heappush(self._served_likes, (shown_us + reaction_us, rating, impression_id, shown_us))
        now_us = self._clock.now_us()
        while self._served_likes and self._served_likes[0][0] <= now_us:
            due_us, rating, impression_id, shown_us = heapq.heappop(self._served_likes)
            liked_us = due_us if now_us - due_us <= BEHIND_US else now_us
            batch.actions[rating % PARTITIONS].append(_like(impression_id, liked_us))
            self._ledger.like(impression_id, liked_us - shown_us)

    def _send(self, batch: "_Batch") -> None:
        for partition, records in batch.impressions.items():
            self._impressions[partition].append(records)
        now_us = self._clock.now_us()
        for partition, records in batch.actions.items():
            for record in records:
                record["ingest_time"] = now_us
            self._actions[partition].append(records)
        for appender in batch.garbage:
            appender.append_payload(1, GARBAGE)


class _Batch:
    """What goes out together: records by partition, and appenders that get garbage."""

    def __init__(self) -> None:
        self.impressions: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self.actions: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self.garbage: list[Appender] = []


def _like(impression_id: str, time_us: int, value: float = 1.0) -> dict[str, Any]:
    return {"impression_id": impression_id, "time": time_us, "type": "like", "value": value}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Entry point of ``python -m examples.movielens.replay``; returns (and writes) the report."""
    options = _parser().parse_args(argv)
    config = load(options.config)
    ratings = read(options.data)
    ratings = ratings.head(min(len(ratings), options.ratings or math.ceil(options.seconds * RATINGS_PER_SECOND)))
    settings = Settings(config.join.window_us, config.join.retention_us, config.logs.disorder_us)
    todo = plan(ratings.rating, options.seconds, options.seed, settings, PARTITIONS)
    catalogue, ledger = Catalogue.of(ratings), Ledger(config.join.window_us)
    servers = [Server(options.serving), Server(options.serving)]
    replay = Replay(
        todo,
        catalogue,
        open_log(options.impressions, partitions=PARTITIONS),
        open_log(options.actions, partitions=PARTITIONS),
        ledger,
        ask=lambda rating: requests.ask(rating),
        progress=_Progress(len(todo), servers, open_log(options.metrics) if options.metrics else None),
    )
    questions = Questions(catalogue, config)
    requests = Requests(servers[0], questions, replay.served)
    visitors = Load(servers[1], questions, options.requests_per_second, options.seed)
    replay.warm_up(WARM_UP)
    servers[0].wait_until_ready(WARM_UP_S)
    started = time.monotonic()
    requests.start()
    visitors.start()
    replay.run()
    requests.finish()
    replay.finish()
    visitors.stop()
    report = {
        "seconds": round(time.monotonic() - started, 3),
        "stretched_ms": replay.stretched_us // 1000,
        "seed": options.seed,
        "ratings": len(ratings),
        "records": len(todo),
        "malformed_injected": todo.count(*map(Kind, MALFORMED)),
        "expected": ledger.expected(),
        **_requests(servers),
    }
    Path(options.report).write_text(json.dumps(report, indent=2) + "\n")
    return report


class _Progress:
    """Says in the metrics log, about once a second, how far the replay is."""

    def __init__(self, records: int, servers: Sequence[Server], metrics: Log | None) -> None:
        self._records, self._servers = records, servers
        self._metrics = metrics.appender(METRICS_PARTITION, schemas.METRICS) if metrics else None
        self._next = 0.0

    def __call__(self, sent: int, stretched_us: int) -> None:
        if self._metrics is None or (time.monotonic() < self._next and sent < self._records):
            return
        self._next = time.monotonic() + 1
        values = {"sent": sent, "of": self._records, "stretched_ms": stretched_us / 1e3}
        values |= {name: value for name, value in _requests(self._servers).items() if name != "request_error_examples"}
        record = {"component": "replay", "key": "replay", "position": sent, "time": time.time_ns() // 1000}
        self._metrics.append([{**record, "values": {k: float(v) for k, v in values.items()}, "arrays": {}}])


def _requests(servers: Sequence[Server]) -> dict[str, Any]:
    """How the requests went, over both connections."""
    latencies = np.array([latency for server in servers for latency in server.latencies_ms] or [0.0])
    errors = [error for server in servers for error in server.errors]
    return {
        "requests": sum(len(server.latencies_ms) for server in servers),
        "request_errors": len(errors),
        "request_error_examples": errors[:3],
        "request_p50_ms": round(float(np.percentile(latencies, 50)), 3),
        "request_p99_ms": round(float(np.percentile(latencies, 99)), 3),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.movielens.replay", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("model.toml"), help="model.toml")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder or zip file with MovieLens in any known layout"
    )
    parser.add_argument("--impressions", required=True, help="log to write, e.g. file:DIR")
    parser.add_argument("--actions", required=True, help="log to write, e.g. file:DIR")
    parser.add_argument("--serving", required=True, help="address of the serving process, e.g. http://127.0.0.1:8080")
    parser.add_argument("--seconds", type=float, default=150, help="how long the replay takes")
    parser.add_argument("--ratings", type=int, help=f"how many ratings; default: {RATINGS_PER_SECOND} a second, or all")
    parser.add_argument("--requests_per_second", type=float, default=25, help="rankings of 100 items asked for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write at the end")
    parser.add_argument("--metrics", help="metrics log, to say in it about once a second how far the replay is")
    return parser


if __name__ == "__main__":
    main()
