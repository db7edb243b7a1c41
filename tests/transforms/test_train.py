"""Training as a DoFn: each example once, whatever raises, waits or comes late."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import fastavro
import numpy as np
import pytest

from monobeam.logs import block, schemas
from monobeam.logs.log import open_log
from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder
from monobeam.models.trainer import Trainer
from monobeam.store import dense
from monobeam.store.backend import OwnedError, open_backend
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.sync import SYNC
from monobeam.transforms import resources, train
from monobeam.transforms.tracker import RangesTracker
from tests.models import streams
from tests.store.counts import update_count_sum
from tests.store.servers import served

CONFIG = streams.config(["user"], "dim = 2\nhidden = [4]")
SECOND = 1_000_000
HOUR = 3600 * SECOND


class Clock:
    """In place of ``time``: moves on by ``step_s`` whenever it is asked."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = 1_700_000_000.0, step_s

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def time_ns(self) -> int:
        return int(self.monotonic() * 1e9)


class Tracker(RangesTracker):
    """As the runner wraps it."""

    def defer_remainder(self, delay: object) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=clock.monotonic, time_ns=clock.time_ns))
    return clock


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    train.close_all()
    resources.close_all()


def append(folder: Path, partition: int, *numbers: int) -> None:
    """Blocks of four examples of partition and number."""
    with open_log(f"file:{folder}/examples").appender(partition, schemas.EXAMPLES) as appender:
        for number in numbers:
            key = 1 + 4 * number + 1000 * partition
            made = streams.block([1, 0, 1, 0], {"user": [f"u{key + i}" for i in range(4)]}, key)
            appender.append([{"shard": partition, "tick": number, "count": 4, "block": block.encode(made)}])


def settings(folder: Path, config: Config = CONFIG) -> train.TrainSettings:
    return train.TrainSettings(config, f"file:{folder}/examples", f"lmdb:{folder}/store", SECOND, SECOND)


def read(given: train.TrainSettings, partition: int = 0) -> list[Any]:
    """One bundle of a bounded run."""
    reader = train._ReadExamples(given)
    return list(reader.process((partition,), Tracker(reader.initial_restriction((partition,)))))


def tail(given: train.TrainSettings) -> list[Any]:
    """One bundle of a streaming run."""
    reader = train._TailExamples(given)
    return list(reader.process((0,), Tracker(reader.initial_restriction((0,)))))


def updates(given: train.TrainSettings) -> int:
    return update_count_sum(train._trainer(given, 0).store)


def dense_is_published(given: train.TrainSettings) -> bool:
    """Whether serving can get the weights as they are now."""
    trainer = train._trainer(given, 0)
    backend = open_backend(given.store)
    try:
        published = backend.dense_values()
    finally:
        backend.close()
    assert published is not None
    found, now = dense.decode(published.values), trainer._dense.values()
    return all(np.array_equal(found[name], now[name]) for name in now)


def fail_once(trainer: Trainer, call: int) -> None:
    """The model raises, for once, on its ``call``-th block from now."""
    forward, calls = trainer.model.forward, iter(range(1, 1000))

    def failing(*arguments: Any) -> Any:
        if next(calls) == call:
            raise MemoryError("once")
        return forward(*arguments)

    trainer.model.forward = failing


@pytest.mark.parametrize("call", [1, 2])
def test_a_bundle_that_is_tried_again_after_an_exception_trains_every_example_once(folder: Path, call: int) -> None:
    given = settings(folder)
    append(folder, 0, 0, 1, 2)
    fail_once(train._trainer(given, 0), call)
    with pytest.raises(MemoryError, match="once"):
        read(given)
    read(given)
    ids = 3 * len(FeatureEncoder(CONFIG).encode(streams.block([1] * 4, {"user": list("abcd")})).bags.keys)
    assert updates(given) == ids
    assert train._trainer(given, 0).positions == {0: 3}


def test_a_commit_that_fails_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(folder)
    append(folder, 0, 0, 1)
    monkeypatch.setattr(train._trainer(given, 0).store._head._backend, "commit", lambda commit: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(given)
    read(given)
    assert updates(given) == 8


def test_who_waited_for_a_trainer_that_failed_goes_on_with_the_next(folder: Path) -> None:
    given = settings(folder)
    append(folder, 0, 0)
    append(folder, 1, 0)
    failed = train._trainer(given, 0)
    with pytest.raises(MemoryError), train._held(given, 0):
        waiting = ThreadPoolExecutor(1).submit(read, given, 1)
        raise MemoryError
    waiting.result()
    assert train._trainer(given, 0) is not failed
    read(given, 0)
    assert updates(given) == 8


def test_however_long_others_hold_the_store_a_bundle_reads_something(folder: Path, clock: Clock) -> None:
    given = settings(folder)
    append(folder, 0, *range(200))
    clock.step_s = 10.0  # longer than a commit's interval
    read(given)
    assert updates(given) == 800


def test_nothing_is_emitted_while_the_store_is_held(folder: Path) -> None:
    given = settings(folder)
    append(folder, 0, 0)
    reader = train._ReadExamples(given)
    outputs = reader.process((0,), Tracker(reader.initial_restriction((0,))))
    next(outputs)
    assert ThreadPoolExecutor(1).submit(is_free, train._trainer(given, 0).store.lock).result()


def test_a_bounded_run_publishes_the_dense_weights_that_it_ends_with(folder: Path, clock: Clock) -> None:
    given = settings(folder, replace(CONFIG, store=replace(CONFIG.store, dense_sync_every_us=HOUR)))
    append(folder, 0, *range(200))
    clock.step_s = 10.0
    outputs = read(given)
    assert len(events(outputs)) > 2
    assert events(outputs)[-1]["dense"] is not None
    assert dense_is_published(given)
    assert read(given) == []


def test_a_streaming_run_publishes_when_it_is_due_although_nothing_comes(folder: Path, clock: Clock) -> None:
    given = settings(folder, replace(CONFIG, store=replace(CONFIG.store, dense_sync_every_us=HOUR)))
    for number in range(2):
        append(folder, 0, number)
        tail(given)
    assert not dense_is_published(given)
    assert tail(given) == []
    clock.now_s += 3601
    (event,) = events(tail(given))
    assert event["dense"] is not None
    assert dense_is_published(given)
    assert tail(given) == []


def test_a_log_that_ends_before_it_promised_is_an_error(folder: Path) -> None:
    given = settings(folder)
    append(folder, 0, 0)
    with pytest.raises(OSError, match="ended at 1, 3 was promised"):
        list(train._ReadExamples(given).process((0,), Tracker(train.Ranges((0,), (3,)))))


def test_a_store_that_is_away_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served(LmdbBackend(folder / "served", durable=False), range(1)) as server:
        given = replace(settings(folder), store=server.uri)
        append(folder, 0, 0, 1)
        assert events(read(given))
        append(folder, 0, 2)
        server.ownership.close()
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                server.ownership.step(0.0)

        now = {"monotonic": time.monotonic, "time_ns": time.time_ns}
        monkeypatch.setattr(train, "time", SimpleNamespace(sleep=sleep, **now))
        (event,) = events(read(given))
        assert event["previous_epoch"] > 0
        assert pauses[:3] == [0.1, 0.2, 0.4]
        assert "partition 0 waits for the store: flight://" in caplog.text
        train.close_all()
    backend = LmdbBackend(folder / "served")
    manifest = backend.manifest()
    assert manifest is not None
    assert manifest.positions == {0: 3}
    backend.close()


def test_one_reader_has_all_partitions_unless_trainers_work_in_parallel() -> None:
    assert train.readers(range(3), parallel=False) == [(0, 1, 2)]
    assert train.readers(range(3), parallel=True) == [(0,), (1,), (2,)]


def test_a_reader_of_several_partitions_comes_to_each_in_its_turn(folder: Path, clock: Clock) -> None:
    """A bundle ends when a commit is due, and the next one goes on with the partition after."""
    given = settings(folder)
    for partition in range(3):
        append(folder, partition, *range(200))
    clock.step_s = 10.0
    reader = train._TailExamples(given)
    for reached in ([64, 0, 0], [64, 64, 0], [64, 64, 64], [128, 64, 64]):
        list(reader.process((0, 1, 2), Tracker(reader.initial_restriction((0, 1, 2)))))
        positions = train._trainer(given, 0).positions
        assert [positions.get(partition, 0) for partition in range(3)] == reached
    clock.step_s = 0.0
    list(reader.process((0, 1, 2), Tracker(reader.initial_restriction((0, 1, 2)))))
    assert updates(given) == 3 * 800


def test_the_last_reader_that_goes_closes_the_store(folder: Path) -> None:
    """As where a runner moves a reader to another worker, and this process lives on."""
    given = settings(folder)
    append(folder, 0, 0)
    one, other = train._ReadExamples(given), train._ReadExamples(given)
    one.setup()
    other.setup()
    read(given)
    one.teardown()
    with pytest.raises(OwnedError):
        LmdbBackend(folder / "store").own(range(1), "")
    other.teardown()
    backend = LmdbBackend(folder / "store")
    backend.own(range(1), "")
    backend.close()


def is_free(lock: Any) -> bool:
    """Whether this thread could have the lock now."""
    if found := lock.acquire(blocking=False):
        lock.release()
    return bool(found)


def events(outputs: list[Any]) -> list[dict[str, Any]]:
    """The sync events among what a DoFn emitted."""
    schema = fastavro.parse_schema(SYNC)
    runs = [output for output in outputs if not isinstance(output, beam.pvalue.TaggedOutput)]
    return [fastavro.schemaless_reader(io.BytesIO(run[2]), schema, None) for run in runs]  # type: ignore[misc]
