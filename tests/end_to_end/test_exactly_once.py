"""Every example exactly once: across runs, crashes, replays, block splits and orders, with real processes."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from examples.movielens import checks
from tests.end_to_end import reference, traffic
from tests.end_to_end.run import DECIDED, Run, kill, law, wait_until

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
    with run.streaming() as job:
        run.wait(job, lambda: run.settled(undisturbed))
    check(run, made)
    assert run.parameters() == undisturbed.parameters()


def test_killed_again_and_again(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "killed", raw)
    rng, total = random.Random(3), sum(undisturbed.ids().values())
    for share in (rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.8)):
        with run.streaming() as job:
            run.wait(job, lambda share=share: run.updates_so_far() > share * total)
            kill(job)
    with run.streaming() as job:
        run.wait(job, lambda: run.settled(undisturbed))
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


def test_tails_go_on_after_a_restart_where_they_were(made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    """Sightings that were counted by the first process admit ids in the second."""
    whole, halves = (Run.create(tmp_path / name, raw, config=traffic.TAILED) for name in ("whole", "halves"))
    whole.backfill()
    halves.backfill(f"--until={half(made)}")
    assert 0 < halves.updates_so_far() < whole.updates_so_far()
    halves.backfill(f"--since={half(made)}")
    parameters = halves.parameters()
    assert parameters == whole.parameters()
    assert checks.updates_in_store(halves.config, halves.store) == sum(halves.ids().values())
    assert {table for table, _ in parameters["rows"]} == {"embeddings", "narrow", "sightings"}


def half(made: traffic.Traffic) -> int:
    """A time in the middle, on no tick."""
    return traffic.START + COUNT // 2 * traffic.SECOND // 200 + 12_345


def check_continued(run: Run, first: dict[str, int], undisturbed: Run, made: traffic.Traffic) -> None:
    """Two runs did what one would have: the same examples, parameters, counters in sum, and dead letters."""
    examples, _ = reference.join(made)
    assert reference.as_set(run.examples()) == examples
    assert run.update_counts() == dict(run.ids())
    assert run.parameters() == undisturbed.parameters()
    second, whole = run.counters(), undisturbed.counters()
    law(second)
    assert {name: first[name] + second[name] for name in DECIDED} == {name: whole[name] for name in DECIDED}
    assert unmatched(run) == unmatched(undisturbed)


def unmatched(run: Run) -> list[tuple[str, int, int, str]]:
    """The actions among the dead letters. Both runs may name what nobody can read; an action belongs to one of them."""
    return sorted(
        (Path(letter["log"]).name, letter["partition"], letter["offset"], letter["reason"])
        for letter in run.every_dead_letter()
        if letter["reason"].startswith("unmatched")
    )


def test_batch_hands_over_to_streaming(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    run, at = Run.create(tmp_path / "handover", raw), half(made)
    run.backfill(f"--until={at}")
    first = run.counters()
    law(first)
    assert first["pending"] > 0
    assert max(row["_decided"] for row in run.examples().values()) < at
    with run.streaming(f"--since={at}") as job:
        run.wait(job, lambda: run.settled(undisturbed, first))
    check_continued(run, first, undisturbed, made)
    assert {place(letter) for letter in run.dead_letters()} == {place(letter) for letter in undisturbed.dead_letters()}


def test_a_backfill_in_slices_is_killed_and_goes_on(
    undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path
) -> None:
    run, slices = Run.create(tmp_path / "sliced", raw), "--slice=1500ms"
    with subprocess.Popen(run.command("backfill", slices), cwd=run.folder, start_new_session=True) as process:
        wait_until(lambda: run.updates_so_far() > 0.4 * sum(undisturbed.ids().values()))
        kill(process)
    assert process.returncode == -signal.SIGKILL
    last = run.backfill(slices)["join"]
    law(last)
    assert last["examples"] < 0.7 * undisturbed.counters()["examples"]  # it goes on where it was
    examples, _ = reference.join(made)
    assert reference.as_set(run.examples()) == examples
    assert run.update_counts() == dict(run.ids())
    assert run.parameters() == undisturbed.parameters()
    assert {place(letter) for letter in run.dead_letters()} == {place(letter) for letter in undisturbed.dead_letters()}


def test_slices_in_one_go_count_as_one_run(undisturbed: Run, raw: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "sliced", raw)
    found = run.backfill("--slice=3s")["join"]
    assert found == {name: undisturbed.counters()[name] for name in found}


def test_slices_that_are_done_stay_done(undisturbed: Run, made: traffic.Traffic, raw: Path, tmp_path: Path) -> None:
    """A command that ends before them does nothing, and the next one goes on after them."""
    run, at = Run.create(tmp_path / "sliced", raw), half(made)
    first = run.backfill("--slice=3s", f"--until={at}")["join"]
    for until in (at, at - 3_000_000):
        again = run.backfill("--slice=3s", f"--until={until}")
        assert not any([*again["join"].values(), *again["train"].values()])
    rest = run.backfill("--slice=3s")["join"]
    assert first["examples"] + rest["examples"] == undisturbed.counters()["examples"]
    assert run.update_counts() == dict(run.ids())


def place(letter: dict[str, Any]) -> tuple[str, int, int]:
    return letter["log"], letter["partition"], letter["offset"]


def test_actions_that_come_after_a_hand_over_count_for_the_impressions_before_it(
    undisturbed: Run, made: traffic.Traffic, tmp_path: Path
) -> None:
    """The logs end with the first run, with windows open; what was done in them is logged later."""
    at, raw = half(made), tmp_path / "raw"
    logged = at + traffic.DISORDER  # so that everything before `at` is there
    traffic.write(made.between(0, logged), raw)
    run = Run.create(tmp_path / "run", raw)
    run.backfill(f"--until={at}")
    first = run.counters()
    open_ids = {record["impression_id"] for _, record in made.impressions if record and record["time"] < at}
    traffic.write(made.between(logged, 1 << 62), raw)
    run.backfill(f"--since={at}")
    positive = {row["_id"] for row in run.examples().values() if row["_decided"] >= at and row["_label.like"]}
    assert positive & open_ids
    check_continued(run, first, undisturbed, made)
