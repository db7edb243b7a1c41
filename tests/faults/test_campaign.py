"""A short campaign: each kind of fault once, on LMDB and on Bigtable behind shard servers."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks._faults.campaign import Campaign
from benchmarks._faults.kinds import FAULTS
from benchmarks._faults.nursery import Nursery
from benchmarks._faults.plan import ANYWHERE, ON_BIGTABLE, ON_LMDB, WITH_SERVERS, Plan, kinds, plan


def run(planned: Plan, nursery: Nursery, emulator: str = "") -> Campaign:
    said: list[str] = []
    campaign = Campaign(nursery, emulator, "", said.append)
    campaign.round(planned)
    assert not campaign.report.violations, "\n".join(said)
    return campaign


def test_on_lmdb(nursery: Nursery) -> None:
    faults = ("kill_trainer", "lose_events", "fill_disk", "step_serving_clock", "kill_serving", "kill_everything")
    planned = Plan(11, "lmdb", False, "in_process", "expiry", 1, 1, 100, faults)
    report = run(planned, nursery).report
    assert report.by_kind == Counter(faults)
    assert report.requests > 100
    assert report.request_errors == 0
    assert report.repeated
    assert report.starts["serving0"] + report.starts["serving1"] >= 5
    assert report.starts["trainer"] > 3


def test_on_bigtable_behind_shard_servers(nursery: Nursery, emulator: str) -> None:
    faults = ("kill_server", "half_apply_writes", "lose_answers", "cut_connections", "pause_server", "reorder_events")
    planned = Plan(12, "bigtable", True, "in_process", "plain", 4, 1, 100, faults)
    report = run(planned, nursery, emulator).report
    assert report.by_kind == Counter(faults)
    assert report.request_errors == 0


def test_a_seed_gives_the_same_round_again() -> None:
    for seed in range(50):
        one, other = (plan(seed, ("lmdb", "bigtable"), 20) for _ in range(2))
        assert one == other
        assert one.store == ("lmdb", "bigtable")[seed % 2]
        assert len(one.faults) == 20
        assert one.rule == "plain" or one.in_order


def test_every_fault_has_its_turn() -> None:
    assert set(FAULTS) == {*ANYWHERE, *ON_LMDB, *ON_BIGTABLE, *WITH_SERVERS}
    for seed in range(20):
        planned = plan(seed, ("lmdb", "bigtable"), 100)
        counts = Counter(planned.faults)
        assert set(counts) == set(kinds(planned.store, planned.remote))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_every_configuration_can_be_read(seed: int) -> None:
    from monobeam.models.config import parse

    planned = plan(seed, ("lmdb",), 1)
    assert parse(planned.config).store.shards == planned.shards
