"""Messages to blocks: what each bundle gives, what is acknowledged when, and what comes again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from monobeam.logs import block, schemas
from monobeam.logs.log import Chunk, encode_records, records
from monobeam.transforms import pubsub
from monobeam.transforms.pubsub import Source, _GatherMessages, _ReceiveMessages, decoded
from monobeam.transforms.read import DEAD_LETTERS, Tail
from monobeam.transforms.tracker import END_OF_TIME, Ranges, RangesTracker
from tests.pubsub import PROJECT, Topic

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND
SCHEMA = json.dumps(schemas.impressions({"user": "string"}))
TAIL = Tail(disorder_us=SECOND, idle_after_us=10**12, poll_us=1000)
PATIENCE_S = 60


@dataclass(frozen=True)
class Delivered:
    """A message as Dataflow gives it."""

    message_id: str
    data: bytes


def datum(name: str, second: int = 0) -> bytes:
    return encode_records(SCHEMA, [{"impression_id": name, "time": T0 + second * SECOND, "user": "u"}])


def at(address: str) -> Source:
    return Source("impressions", address, SCHEMA)


def rows(outputs: list[Any]) -> dict[str, int]:
    """The ids in blocks, each with its offset."""
    found = {}
    for output in outputs:
        if isinstance(output, beam.pvalue.TaggedOutput):
            continue
        batch = block.decode(output.value[1])
        if block.kind(batch) == "impressions":
            found |= dict(zip(batch.column("_id").to_pylist(), batch.column("_offset").to_pylist(), strict=True))
    return found


def test_every_message_has_an_offset_of_its_own_and_a_bad_one_spoils_no_other() -> None:
    messages = [
        Delivered("71", datum("a")),
        Delivered("12", b"\xff\xff"),
        Delivered("99", datum("b")),
        Delivered("13", b""),
        Delivered("14", datum("")),
    ]
    found = decoded(at("pubsub://p-p/shown?schema=s"), messages, T0)
    assert found.batch.column("_id").to_pylist() == ["a", "b"]
    assert found.batch.column("_offset").to_pylist() == [71, 99]
    assert found.batch.schema.metadata
    assert {reject.offset: reject.count for reject in found.rejects} == {12: 1, 13: 1, 14: 1}
    assert found.batch.num_rows + len(found.rejects) == len(messages)


def test_a_schema_that_is_none_of_impressions_rejects_everything() -> None:
    plain = json.dumps({"type": "record", "name": "A", "fields": [{"name": "a", "type": "long"}]})
    found = decoded(Source("impressions", "pubsub://p-p/shown?schema=s", plain), [Delivered("5", b"\x02")] * 3, T0)
    assert [(reject.offset, reject.count) for reject in found.rejects] == [(5, 3)]


def test_a_bundle_of_dataflow_becomes_blocks() -> None:
    gather = _GatherMessages(at("pubsub://p-p/shown?schema=s"), 4)
    gather.start_bundle()
    for number in range(50):
        message = Delivered(str(number), datum(f"i{number}", number) if number != 7 else b"\xff")
        assert list(gather.process(message, Timestamp(1000 + (number + 20) % 50))) == []
    outputs = list(gather.finish_bundle())
    assert rows([each for each in outputs if isinstance(each, WindowedValue)]) == {
        f"i{number}": number for number in range(50) if number != 7
    }
    letters = [each for each in outputs if isinstance(each, beam.pvalue.TaggedOutput)]
    assert [letter.tag for letter in letters] == [DEAD_LETTERS]
    partition, count, payload = letters[0].value.value
    (letter,) = records([Chunk(partition, 0, count, json.dumps(schemas.DEAD_LETTERS), payload)])
    assert (letter["log"], letter["offset"]) == ("pubsub://p-p/shown", 7)
    stamps = {each.timestamp for each in outputs if isinstance(each, WindowedValue)}
    assert stamps == {Timestamp(1000)}, "a block is not behind the watermark"
    gather.start_bundle()
    assert list(gather.finish_bundle()) == []


def test_a_large_bundle_is_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "MOST_RECORDS", 20)
    gather = _GatherMessages(at("pubsub://p-p/shown?schema=s"), 1)
    gather.start_bundle()
    given = [len(list(gather.process(Delivered(str(n), datum(f"i{n}")), Timestamp(5)))) for n in range(50)]
    assert [number for number, count in enumerate(given) if count] == [19, 39]
    assert len(list(gather.finish_bundle())) == 1


class Finalizer:
    """What the runner calls when a bundle's results are durable."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def register(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def durable(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Tracker(RangesTracker):
    """As the runner wraps it."""

    def defer_remainder(self, delay: object) -> None:
        pass


class Bundles:
    """Bundles of a reader of one subscription."""

    def __init__(self, topic: Topic) -> None:
        self._sources = (at(f"pubsub://{PROJECT}/{topic.name}?schema=s"),)
        self._reader = _ReceiveMessages(1, TAIL)
        self.watermark: Timestamp | None = None
        self.given = 0
        self.finalizer = Finalizer()

    def run(self, commits: bool = True) -> dict[str, int]:
        """One bundle; the runner keeps what it commits."""
        tracker = Tracker(Ranges((self.given,), (END_OF_TIME,)))
        estimator = ManualWatermarkEstimator(self.watermark)
        finalizer = self.finalizer if commits else Finalizer()
        outputs = list(self._reader.process(self._sources, finalizer, tracker, estimator))
        if commits:
            self.given = int(tracker._reached[0])
            self.watermark = estimator.current_watermark()
        return rows(outputs)

    def until(self, count: int) -> dict[str, int]:
        """Bundles until they have given so many records."""
        found: dict[str, int] = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < count:
            assert time.monotonic() < deadline, f"{found} of {count} came"
            found |= self.run()
        return found


@pytest.fixture
def topic(new_topic: Callable[[], Topic]) -> Iterator[Topic]:
    yield new_topic()
    pubsub.close_all()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lose_memory() -> None:
    """As if a reader in another process went on. (What a process had comes again in the emulator after 10 to 30 s.)"""
    (reading,) = pubsub._readings.values()
    reading.given = -1


def test_messages_are_acknowledged_when_what_became_of_them_is_durable(topic: Topic) -> None:
    bundles = Bundles(topic)
    topic.publish(datum(f"i{number}", number) for number in range(30))
    given = bundles.until(30)
    assert len(given) == len(set(given.values())) == bundles.given == 30
    assert bundles.watermark == Timestamp(micros=T0 + 28 * SECOND)
    (reading,) = pubsub._readings.values()
    assert sum(len(held.messages) for held in reading._held) == 30
    bundles.finalizer.durable()
    assert len(reading.told()) == len(reading._held) > 0, "some may have ended after the checkpoint was taken"
    bundles.run()
    bundles.finalizer.durable()
    assert reading._held == []
    lose_memory()
    topic.publish([datum("last")])
    assert list(bundles.until(1)) == ["last"], "nothing that was acknowledged comes again"


def test_what_a_failed_bundle_gave_comes_again(topic: Topic) -> None:
    bundles = Bundles(topic)
    topic.publish([datum("first")])
    first = bundles.until(1)
    bundles.finalizer.durable()
    bundles.run()
    bundles.finalizer.durable()
    topic.publish([datum("second")])
    failed: dict[str, int] = {}
    wait(lambda: bool(failed.update(bundles.run(commits=False)) or failed))
    assert list(failed) == ["second"]
    assert bundles.given == len(first) == 1
    assert bundles.until(1) == failed, "the same message, with the same offset"


def test_event_time_stands_still_until_what_an_earlier_process_had_comes_again(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = Bundles(topic)
    topic.publish([datum("a", 10)])
    first = bundles.until(1)
    reached = bundles.watermark
    lose_memory()
    topic.publish([datum("b", 100)])
    assert bundles.until(2).items() > first.items()
    assert bundles.watermark == reached
    (reading,) = pubsub._readings.values()
    assert 0 < reading.held_until - time.monotonic() <= pubsub.LEASE_S
    monkeypatch.setattr(reading, "held_until", 0.0)
    bundles.run()
    assert bundles.watermark == Timestamp(micros=T0 + 99 * SECOND)


def test_the_schema_is_read_when_the_job_is_built(tmp_path: Any) -> None:
    (tmp_path / "shown.avsc").write_text(SCHEMA)
    found = pubsub.source("impressions", f"pubsub://p-p/shown?schema={tmp_path}/shown.avsc")
    assert found.schema == SCHEMA
    assert found.place.uri == "pubsub://p-p/shown"
    with pytest.raises(OSError, match="nowhere"):
        pubsub.source("impressions", f"pubsub://p-p/shown?schema={tmp_path}/nowhere.avsc")
