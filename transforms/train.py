"""Train on the examples log, each example exactly once (DESIGN 8).

The trainer is its own reader: for every partition of the examples log a splittable DoFn seeks to the position that
the store's last commit includes, whatever the runner's checkpoint says, trains in log order, and ends its bundle only
after the next commit. So the order of training is the order of the log, and a crash costs a replay of what was not
committed, never an example.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.timestamp import Duration

from monobeam.logs import block, schemas
from monobeam.logs import log as logs
from monobeam.logs.log import records
from monobeam.models.config import Config
from monobeam.models.trainer import Trainer
from monobeam.models.window import BlockReport
from monobeam.store import sync
from monobeam.store.backend import AwayError
from monobeam.store.heap import keep_freed_memory
from monobeam.store.parameters import ParameterStore
from monobeam.store.store import is_remote, open_store
from monobeam.transforms import resources
from monobeam.transforms.append import Run, run_of
from monobeam.transforms.measures import measure
from monobeam.transforms.tracker import END_OF_TIME, Ranges, RangesTracker

METRICS = "metrics"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
COUNTED = ("examples", "corrections", "skipped", "repeated", "forgotten", "passed_over", "positives", "ids")


@dataclass(frozen=True)
class TrainSettings:
    """What a training step needs besides the model: addresses, and how often to commit (microseconds)."""

    config: Config
    examples: str
    store: str
    commit_every_us: int
    poll_us: int


@dataclass
class ExamplePartitions(beam.PTransform[Any, Any]):
    """The numbers of partitions of the examples log, from the start of the job."""

    numbers: Sequence[int]

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[int]:
        """Wire an impulse to the numbers."""
        return (
            root
            | "Impulse" >> beam.Impulse()
            | "Numbers" >> beam.FlatMap(lambda _: list(self.numbers)).with_output_types(int)
        )


@dataclass
class Train(beam.PTransform[Any, Any]):
    """Partitions of the examples log to sync events.

    Input: partition numbers. Main output: ``Run`` for the sync log (partition = shard), one per shard and commit.
    Output ``metrics``: ``Run`` of training metrics. With ``tailed`` it follows the log, otherwise it ends where the log
    ends when the step begins.
    """

    settings: TrainSettings
    tailed: bool

    def expand(self, partitions: beam.PCollection[int]) -> Any:
        """Wire the one reader; where trainers work in parallel, let workers share the partitions."""
        if self.settings.config.training.parallel:
            partitions = partitions | "Spread" >> beam.Reshuffle()
        trainer = _TailExamples(self.settings) if self.tailed else _ReadExamples(self.settings)
        steps = beam.ParDo(trainer).with_output_types(Run, **{METRICS: Run})
        return partitions | "Examples" >> steps.with_outputs(METRICS, main="sync")


_LOGGER = logging.getLogger(__name__)
_lock = threading.Lock()
_trainers: dict[tuple[str, int | None], Trainer] = {}  # by store and, where they work in parallel, partition


def _trainer(settings: TrainSettings, partition: int) -> Trainer:
    """The trainer of a partition in this process: the only one, or its own, whatever DoFn instances there are."""
    own = partition if settings.config.training.parallel else None
    with _lock:
        while (trainer := _trainers.get((settings.store, own))) is None:
            keep_freed_memory()
            _open(settings, own)
        return trainer


def _open(settings: TrainSettings, own: int | None) -> None:
    """A new trainer; none, if the store that it shares with others was dropped meanwhile."""
    store, shared = _store(settings, own)
    with store.lock:
        if shared and not _trainers_of(store):
            return
        try:
            _trainers[settings.store, own] = Trainer(settings.config, store, own)
        except BaseException:
            if not shared:
                store.close()
            raise


def _store(settings: TrainSettings, own: int | None) -> tuple[ParameterStore, bool]:
    """A store of this process, which its trainers share, or a session of the trainer's own in shard servers.

    And whether it is one that another trainer has opened.
    """
    if not is_remote(settings.store):
        for (uri, _), trainer in list(_trainers.items()):
            if uri == settings.store:
                return trainer.store, True
    return open_store(settings.config.store_spec(), settings.store, None if own is None else [own]), False


def _trainers_of(store: ParameterStore) -> list[tuple[str, int | None]]:
    return [key for key, trainer in list(_trainers.items()) if trainer.store is store]


def _position(trainer: Trainer, partition: int) -> int:
    """Offset of the next block of the partition to train on."""
    return trainer.positions.get(partition, 0)


def _drop(store: ParameterStore) -> None:
    """Close a store, and forget its trainers. By whoever holds the store's lock: who waits for it must not go on."""
    for key in _trainers_of(store):
        _trainers.pop(key, None)
    store.close()


def close_all() -> None:
    """Close the stores of this process without a commit (the end of a pipeline, or of a test)."""
    while trainers := list(_trainers.values()):
        _drop(trainers[0].store)


@contextmanager
def _held(settings: TrainSettings, partition: int) -> Iterator[Trainer]:
    """The trainer, with its store locked; on any exception it is dropped, as what it has in memory is half a block."""
    while True:
        trainer = _trainer(settings, partition)
        with trainer.store.lock:
            if trainer not in _trainers.values():  # dropped while this thread waited for it
                continue
            try:
                yield trainer
            except BaseException:
                _drop(trainer.store)
                raise
            return


class _Examples(beam.DoFn, beam.transforms.core.RestrictionProvider):
    MAX_BLOCKS = 64
    TAILED = False

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings

    def initial_restriction(self, partition: int) -> Ranges:
        log = resources.reader(self._settings.examples, partition)
        return Ranges((0,), (END_OF_TIME if self.TAILED else resources.patiently(lambda: log.end(partition)),))

    def create_tracker(self, restriction: Ranges) -> RangesTracker:
        return RangesTracker(restriction)

    def restriction_size(self, partition: int, restriction: Ranges) -> int:
        try:
            end = resources.reader(self._settings.examples, partition).end(partition)
        except logs.AwayError:  # it is only asked to know how much work is left
            return 0
        return max(0, min(restriction.stops[0], end) - restriction.starts[0])

    def _train(self, partition: int, stop: int) -> tuple[int, list[Any]]:
        """Train up to one commit; while the store or the log is away, wait, and begin again at the store's position."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._train_once(partition, stop)
            except (AwayError, logs.AwayError) as error:
                what = "store" if isinstance(error, AwayError) else "log"
                _LOGGER.warning("partition %d waits for the %s: %s", partition, what, error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _train_once(self, partition: int, stop: int) -> tuple[int, list[Any]]:
        """Train on what the log holds from the store's position on, up to one commit.

        Gives the next offset and what to emit: only then, as others wait for the store meanwhile.
        """
        log = resources.reader(self._settings.examples, partition)
        with _held(self._settings, partition) as trainer:
            deadline = time.monotonic() + self._settings.commit_every_us / 1e6
            offset = first = _position(trainer, partition)
            away = None
            while offset < stop:
                try:
                    chunks = log.read(partition, offset, min(self.MAX_BLOCKS, stop - offset))
                except logs.AwayError as error:  # what was trained until now need not wait for it
                    away = error
                    break
                for chunk in chunks:
                    for place, record in enumerate(records([chunk])):
                        _count(trainer.train(block.decode(record["block"]), partition, chunk.offset + place))
                    offset = chunk.end
                if not chunks or time.monotonic() > deadline:
                    break
            outputs = self._commit(trainer, partition, final=offset >= stop)
        if away is not None and offset == first:
            raise away
        return offset, outputs

    def _commit(self, trainer: Trainer, partition: int, *, final: bool) -> list[Any]:
        started = time.monotonic()
        now_us = time.time_ns() // 1000
        events, metrics = trainer.commit(now_us, final=final)
        if "epoch" not in metrics["values"]:  # there was nothing to commit
            return []
        commit_ms = (time.monotonic() - started) * 1e3
        measure("train", "commit_ms", commit_ms)
        measure("train", "commit_examples", metrics["values"]["examples"])
        if events and len(events[0].arrivals):
            measure("train", "freshness_ms", time.time_ns() / 1e6 - events[0].arrivals.min() / 1e3)
        record = {
            "component": "train",
            "key": str(partition),
            "position": _position(trainer, partition),
            "time": now_us,
            "values": metrics["values"] | {"commit_ms": commit_ms},
            "arrays": metrics["arrays"],
        }
        runs = [run_of(event.shard, sync.SYNC, event.to_record()) for event in events]
        own = partition if self._settings.config.training.parallel else 0  # one process appends to a partition
        return [*runs, beam.pvalue.TaggedOutput(METRICS, run_of(own, schemas.METRICS, record))]


def _count(report: BlockReport) -> None:
    for name in COUNTED:
        if count := getattr(report, name):
            Metrics.counter("monobeam.train", name).inc(count)


class _ReadExamples(_Examples):
    """Trains to the end that the log had when the step began."""

    def process(self, partition: int, tracker: Any = beam.DoFn.RestrictionParam()) -> Iterator[Any]:
        (stop,) = tracker.current_restriction().stops
        before = -1
        while True:
            reached, outputs = self._train(partition, stop)
            yield from outputs
            if reached >= stop:
                break
            if reached == before:
                raise OSError(
                    f"{self._settings.examples}: partition {partition} ended at {reached}, {stop} was promised"
                )
            before = reached
        tracker.try_claim((0, stop))


class _TailExamples(_Examples):
    """Follows the log for ever; the claims mark progress for the runner, the store's position is what counts."""

    TAILED = True

    @beam.DoFn.unbounded_per_element()
    def process(self, partition: int, tracker: Any = beam.DoFn.RestrictionParam()) -> Iterator[Any]:
        resources.warn_of_unread(self._settings.examples, self._settings.config.join.shards)
        reached, outputs = self._train(partition, END_OF_TIME)
        yield from outputs
        tracker.try_claim((0, reached))
        tracker.defer_remainder(Duration(micros=self._settings.poll_us))
