"""The join on Beam state by hand: bundles that fail halfway, rebuilt engines, timers as Beam carries them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders.coders import TimestampCoder
from apache_beam.utils.timestamp import Timestamp

from monobeam.join.cold import ColdWrite, MemoryCold
from monobeam.join.settings import JoinSettings
from monobeam.join.shards import rejects_block
from monobeam.logs import block
from monobeam.transforms import join as transform
from monobeam.transforms.join import Join
from tests.transforms.test_join import SECOND, SETTINGS, T0, impressions, labels, like

COLD = "memory:of this test"


class FailingCold(MemoryCold):
    """Cannot write, once."""

    failed = False

    def write(self, change: ColdWrite) -> None:
        if not self.failed:
            self.failed = True
            raise OSError("disk full")
        super().write(change)


class Value:
    """A ReadModifyWriteState."""

    def __init__(self) -> None:
        self.value: Any = None

    def read(self) -> Any:
        return self.value

    def write(self, value: Any) -> None:
        self.value = value


class Bag:
    """A BagState."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def read(self) -> list[bytes]:
        return list(self.entries)

    def add(self, entry: bytes) -> None:
        self.entries.append(entry)

    def clear(self) -> None:
        self.entries.clear()


class Timer:
    """An event-time timer, whose time goes through Beam's coder."""

    fires = Timestamp()
    _coder = TimestampCoder()

    def set(self, time: Timestamp) -> None:
        self.fires = self._coder.decode(self._coder.encode(time))


class Key:
    """What Beam keeps for one key, and the DoFn."""

    def __init__(self, settings: JoinSettings = SETTINGS) -> None:
        self._do = transform._JoinBlocks({0: settings}, COLD, tailed=True)
        self._state = (Bag(), Value(), Value())
        self.timer = Timer()

    def process(self, keyed: tuple[int, bytes]) -> list[Any]:
        return list(self._do.process(keyed, *self._state, self.timer))

    def fire(self, time: Timestamp | None = None) -> list[Any]:
        """The examples that leave when the timer fires."""
        outputs = self._do.advance(0, self.timer.fires if time is None else time, *self._state, self.timer)
        return [labels(run) for run in outputs if not isinstance(run, beam.pvalue.TaggedOutput)]

    def counters(self) -> dict[str, int]:
        return transform._engines._cached[self._do._job, 0].engine.counters


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingCold]:
    cold = FailingCold()
    monkeypatch.setitem(transform._engines._cold, COLD, cold)
    return cold


def test_a_bundle_that_failed_halfway_leaves_no_trace(cold: FailingCold) -> None:
    key, late = Key(), Timestamp(micros=T0 + 60 * SECOND)
    key.process(impressions(1, 2))
    key.process(like(2, 1.0))
    with pytest.raises(OSError, match="disk full"):
        key.fire(late)
    assert key.fire(late) == [[("i1", 0.0)], [("i2", 1.0)]]


def test_a_block_that_cannot_be_added_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, cold: FailingCold) -> None:
    cold.failed = True
    key, add = Key(), transform.JoinEngine.add
    key.process(impressions(1))

    def half(engine: Any, batch: Any) -> None:
        add(engine, batch)
        monkeypatch.setattr(transform.JoinEngine, "add", add)
        raise MemoryError("once")

    monkeypatch.setattr(transform.JoinEngine, "add", half)
    with pytest.raises(MemoryError):
        key.process(impressions(2))
    key.process(impressions(2))
    assert key.fire(Timestamp(micros=T0 + 60 * SECOND)) == [[("i1", 0.0)], [("i2", 0.0)]]
    assert key.counters()["impressions"] == 2


def test_timers_that_are_no_whole_milliseconds_fire_when_something_is_due(cold: FailingCold) -> None:
    cold.failed = True
    key = Key(replace(SETTINGS, tick_us=1500, window_us=1000, retention_us=1000))
    key.process(impressions(1))
    assert key.timer.fires.micros % 1000 == 0
    assert key.fire() == [[("i1", 0.0)]]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_counters_obey_the_law_whether_engines_are_kept_or_rebuilt(
    rebuilt: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rebuilt:
        monkeypatch.setattr(transform._engines, "get", lambda job, shard, token, rebuild: rebuild())
    blocks = [impressions(1, 2), like(1, 0.5), like(9, 0.5), rejected("actions", 2), impressions(2)]
    pipeline = beam.Pipeline(runner="FnApiRunner")
    created = pipeline | beam.Create(blocks).with_output_types(tuple[int, bytes])
    created | Join({0: SETTINGS}, f"lmdb:{tmp_path}", tailed=False)
    result = pipeline.run()
    result.wait_until_finish()
    found = {counter.key.metric.name: counter.result for counter in result.metrics().query()["counters"]}
    shown = {"impressions": 3, "examples": 2, "negatives": 1, "impressions_duplicated": 1}
    done = {"actions": 4, "joined": 1, "unmatched": 1, "actions_rejected": 2}
    assert {name: count for name, count in found.items() if count} == shown | done


def rejected(kind: str, count: int) -> tuple[int, bytes]:
    return 0, block.encode(rejects_block(kind, count, "log", 0, 0))
