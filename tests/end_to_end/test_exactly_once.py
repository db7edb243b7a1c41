"""Every example exactly once: across runs, crashes, replays, block splits and orders, with real processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.end_to_end import reference, traffic
from tests.end_to_end.run import Run, kill, law

COUNT = 1500


@pytest.fixture(scope="module")
def made() -> traffic.Traffic:
    return traffic.make(seed=1, count=COUNT)


@pytest.fixture(scope="module")
def raw(made: traffic.Traffic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    traffic.write(made, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A backfill that nothing happened to."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "undisturbed", raw)
    run.backfill()
    return run


def check(run: Run, made: traffic.Traffic) -> None:
    """The examples are the reference's, and each was trained once: update counts equal id counts, id by id."""
    examples, counts = reference.join(made)
    assert reference.as_set(run.examples()) == examples
    assert run.update_counts() == dict(run.ids())
    found = run.counters()
    law(found)
    assert {name: found.get(name, 0) for name in counts} == counts


def test_backfill_is_the_reference_join(undisturbed: Run, made: traffic.Traffic) -> None:
    check(undisturbed, made)
    assert undisturbed.counters()["pending"] == undisturbed.counters()["waiting"] == 0
    letters = undisturbed.dead_letters()
    _, counts = reference.join(made)
    refused = counts["unmatched"] + counts["impressions_rejected"] + counts["actions_rejected"]
    assert sum(letter["count"] for letter in letters) == refused
    assert all(letter["reason"] for letter in letters)


def test_streaming_gives_what_backfill_gives(
    undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "streaming", raw)
    wanted = len(undisturbed.examples())
    with run.streaming() as job:
        run.wait(job, lambda: run.settled(wanted))
    check(run, made)
    assert run.parameters() == undisturbed.parameters()


def test_killed_again_and_again(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "killed", raw)
    wanted = len(undisturbed.examples())
    rng, total = random.Random(3), sum(undisturbed.ids().values())
    for share in (rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.8)):
        with run.streaming() as job:
            run.wait(job, lambda share=share: run.updates_so_far() > share * total)
            kill(job)
    with run.streaming() as job:
        run.wait(job, lambda: run.settled(wanted))
    check(run, made)
    assert run.parameters() == undisturbed.parameters()


def test_every_bundle_replayed(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "replayed", raw)
    run.backfill("--direct_runner_bundle_repeat=2")
    assert len(run.blocks()) > len(undisturbed.blocks())
    check(run, made)
    assert run.parameters() == undisturbed.parameters()


@pytest.mark.parametrize(("partitions", "block"), [(1, 7), (3, 200)])
def test_other_blocks_and_orders(
    undisturbed: Run, made: traffic.Traffic, tmp_path: Path, partitions: int, block: int
) -> None:
    traffic.write(made, tmp_path / "raw", partitions=partitions, block=block, seed=5)
    run = Run.create(tmp_path / "run", tmp_path / "raw")
    run.backfill()
    check(run, made)
    assert run.parameters() == undisturbed.parameters()


def test_several_shards_give_the_same_set(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "sharded", raw, shards=3)
    run.backfill()
    check(run, made)
    assert run.examples() == undisturbed.examples()


def test_batch_hands_over_to_streaming(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "handover", raw)
    at = traffic.START + COUNT // 2 * traffic.SECOND // 200 + 12_345
    run.backfill(f"--until={at}")
    pending = run.counters()
    law(pending)
    assert pending["pending"] > 0
    assert max(row["_decided"] for row in run.examples().values()) < at
    wanted = len(undisturbed.examples())
    with run.streaming(f"--since={at}") as job:
        run.wait(job, lambda: run.settled(wanted))
    examples, _ = reference.join(made)
    assert reference.as_set(run.examples()) == examples
    assert run.update_counts() == dict(run.ids())
    assert run.parameters() == undisturbed.parameters()
