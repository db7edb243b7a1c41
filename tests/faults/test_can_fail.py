"""The campaign sees what is broken: each of these breaks one thing on purpose, and the law against it says so."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks._faults import kinds
from benchmarks._faults.campaign import Campaign
from benchmarks._faults.nursery import Nursery
from benchmarks._faults.plan import Plan
from benchmarks._faults.world import World
from monobeam.logs.log import open_log, records
from monobeam.models.tails import TABLE
from monobeam.models.trainer import Trainer
from monobeam.store.backend import open_backend
from monobeam.store.store import Store

NO_ARRIVALS = np.empty(0, np.int64)


@contextmanager
def opened_at_rest(world: World) -> Iterator[Store]:
    """The store, when its trainer has come to the end of the log and given it back."""
    world.grow(False)
    world.wait("the whole archive to be trained", world.is_trained)
    world.wait("the trainer to end", lambda: not world.trainer.is_running)
    store = Store(world.config.store_spec(), open_backend(world.deployment.store))
    try:
        yield store
    finally:
        store.close()


def delete_a_row(world: World, rng: random.Random) -> None:
    with opened_at_rest(world) as store:
        store.erase(TABLE, np.array([next(iter(world.archive.ids))], np.uint64))
        store.commit({}, None, None, NO_ARRIVALS, time.time_ns() // 1000, store.meta())


def train_a_block_again(world: World, rng: random.Random) -> None:
    """As if its keys had been forgotten and the store's position had gone back."""
    with opened_at_rest(world) as store:
        (end,) = store.positions().values()
        last = world.archive.blocks[0][-1]
        keys = pa.array(np.asarray(last.column("_key")) + np.uint64(1 << 40))
        trainer = Trainer(world.config, store)
        trainer.train(last.set_column(last.schema.get_field_index("_key"), "_key", keys), 0, end)
        store.commit({0: end}, None, None, NO_ARRIVALS, time.time_ns() // 1000, store.meta())


def skip_a_block(world: World, rng: random.Random) -> None:
    """The position goes on and the block was never trained."""
    with opened_at_rest(world) as store:
        world.archive.grow()
        world.archive.grow()
        ends = world.archive.ends
        store.commit(ends, None, None, NO_ARRIVALS, time.time_ns() // 1000, store.meta())


def forge_an_event(world: World, rng: random.Random) -> None:
    """Servers learn of a change that the store does not have."""
    with opened_at_rest(world):
        pass
    log = open_log(world.deployment.log("sync"))
    event = records(log.read(0, log.end(0) - 1, 1))[-1]
    manifest = world.manifest()
    assert manifest is not None
    (epoch,) = manifest.epochs
    world.wait("all to be served", lambda: all(world.epoch_of(name) >= epoch for name in world.ports))
    tables = [table | {"values": bytes(len(table["values"]))} for table in event["tables"]]
    world.relay.send(0, event | {"previous_epoch": epoch, "epoch": epoch + 1, "tables": tables})
    world.wait("it to be served", lambda: all(world.epoch_of(name) > epoch for name in world.ports))


def serve_nobody(world: World, rng: random.Random) -> None:
    world.visitors.patience_s = 0.3
    with world.keeper.lock:
        for role in world.serving:
            assert role.child is not None
            role.child.kill()
        errors = world.visitors.errors
        world.wait("a request without an answer", lambda: world.visitors.errors > errors)


BROKEN: dict[Callable[[World, random.Random], None], set[str]] = {
    delete_a_row: {"exactly once", "reference fold"},
    train_a_block_again: {"exactly once", "reference fold"},
    skip_a_block: {"exactly once", "reference fold"},
    forge_an_event: {"replica", "answers"},
    serve_nobody: {"served throughout"},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_reported(
    broken: Callable[[World, random.Random], None],
    nursery: Nursery,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what is left of a round with violations is kept
    monkeypatch.setitem(kinds.FAULTS, broken.__name__, broken)
    said: list[str] = []
    campaign = Campaign(nursery, "", "", said.append)
    campaign.round(Plan(1, "lmdb", False, "in_process", "plain", 1, 1, 50, (broken.__name__, "kill_trainer")))
    violations = campaign.report.violations
    assert {violation.law for violation in violations} == BROKEN[broken], violations
    assert {(violation.seed, violation.number, violation.kind) for violation in violations} == {(1, 0, broken.__name__)}
    assert campaign.report.by_kind == {broken.__name__: 1}, "the round goes on after a violation"
    assert "VIOLATION" in said[0]
