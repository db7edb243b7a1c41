"""The collision experiment on a small MovieLens of our own making, through the command itself."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import collisions
from benchmarks._collision_runs import Examples, exact_auc, run
from benchmarks._contestants import BASELINE, CONTESTANTS, Contestant, Ints, hashed_rows, shared
from benchmarks._experiment import t_quantile
from examples.movielens.dataset import read
from tests.benchmarks.conftest import ITEMS, USERS

EPOCHS = collisions.QUICK["epochs"]
COUNTS = {"rows", "ids_sharing", "ids_lost", "examples_sharing"}
MEASURES = {
    "online_auc",
    "online_log_loss",
    "last_auc_epoch_1",
    f"last_auc_epoch_{EPOCHS}",
    "random_auc_epoch_1",
    f"random_auc_epoch_{EPOCHS}",
}


@pytest.fixture(scope="module")
def examples(movielens: Path) -> Examples:
    return Examples.of(read(movielens))


def command(movielens: Path, out: Path) -> tuple[dict[str, Any], str]:
    """The JSON of the last line, and everything before it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        collisions.main(["--quick", "--data", str(movielens), "--out", str(out)])
    text, _, last = printed.getvalue().rstrip("\n").rpartition("\n")
    return json.loads(last), text


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def printed(movielens: Path, out: Path) -> tuple[dict[str, Any], str]:
    return command(movielens, out)


def test_the_last_line_has_every_figure_of_every_contestant(printed: tuple[dict[str, Any], str]) -> None:
    found, _ = printed
    assert set(found["contestants"]) == {contestant.name for contestant in CONTESTANTS}
    for of in found["contestants"].values():
        assert set(of) == COUNTS | MEASURES
        assert all(set(of[key]) == {"mean", "sd", "difference", "low", "high"} for key in MEASURES)
        assert all(of[key]["low"] <= of[key]["difference"] <= of[key]["high"] for key in MEASURES)
    assert found["examples"] == collisions.QUICK["ratings"]
    assert found["contestants"][BASELINE.name]["rows"] == found["users"] + found["items"]


def test_table_and_curves_are_kept(printed: tuple[dict[str, Any], str], out: Path) -> None:
    found, text = printed
    assert (out / "table.txt").read_text().strip() in text
    kept = json.loads((out / "figures.json").read_text())
    curve = kept.pop("curves")[BASELINE.name]
    assert kept == found
    assert curve["online"]["mean"][-1] == found["contestants"][BASELINE.name]["online_auc"]["mean"]
    assert len(curve["last"]["mean"]) == EPOCHS


def test_a_plot_is_drawn(printed: tuple[dict[str, Any], str], out: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (out / "collisions.png").read_bytes().startswith(b"\x89PNG")


def test_equal_seeds_give_equal_figures_and_without_matplotlib_there_is_a_hint_instead_of_a_plot(
    movielens: Path, printed: tuple[dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "benchmarks._collision_plot", raising=False)
    found, text = command(movielens, tmp_path)
    assert found == printed[0]
    assert "matplotlib is not installed (make setup" in text
    assert (tmp_path / "table.txt").exists()
    assert not (tmp_path / "collisions.png").exists()


def test_a_table_of_as_many_rows_and_no_collision_gives_the_collisionless_result_bit_for_bit(
    examples: Examples,
) -> None:
    def permuted(slot: str, ids: Sequence[str], seed: int) -> Ints:
        return np.random.default_rng(seed).permutation(len(ids))

    perfect = run(Contestant("perfect", permuted), examples, 1, EPOCHS, 10)
    baseline = run(BASELINE, examples, 1, EPOCHS, 10)
    assert perfect.rows == baseline.rows == USERS + ITEMS
    assert perfect.ids_sharing == perfect.examples_sharing == 0
    assert perfect.online_log_loss == baseline.online_log_loss
    for curve in ("online", "last", "random"):
        np.testing.assert_array_equal(getattr(perfect, curve), getattr(baseline, curve))


def test_collisions_are_counted(examples: Examples) -> None:
    def halves(slot: str, ids: Sequence[str], seed: int) -> Ints:
        """The first two users share a row; nobody else does."""
        rows = np.arange(len(ids))
        rows[1] = 0 if slot == "user" else 1
        return rows

    done = run(Contestant("halves", halves), examples, 1, 1, 1)
    touched = np.isin(examples.places["user"], [0, 1]).mean()
    assert done.rows == USERS + ITEMS - 1
    assert done.ids_sharing == 2 / (USERS + ITEMS)
    assert done.ids_lost == pytest.approx(1 / (USERS + ITEMS))
    assert done.examples_sharing == touched
    assert 0 < touched < 1


def test_hashed_ids_fall_into_their_table_as_chance_would_have_it() -> None:
    ids = [str(number) for number in range(20_000)]
    per_id = {"user": 0.5, "item": 1.0}
    rows = hashed_rows(per_id, "user", ids, 1)
    assert rows.min() >= 0
    assert rows.max() < 10_000
    used = len(np.unique(rows)) / 10_000
    assert used == pytest.approx(1 - np.exp(-2), abs=0.01)
    assert not np.array_equal(rows, hashed_rows(per_id, "user", ids, 2))
    assert not np.array_equal(hashed_rows(per_id, "item", ids, 1) // 2, rows)


def test_a_row_is_named_after_the_first_id_in_it() -> None:
    contestant = Contestant("three", lambda slot, ids, seed: np.array([2, 0, 2, 1, 0]))
    owners = contestant.owners("user", list("abcde"), 1)
    np.testing.assert_array_equal(owners, [0, 1, 0, 3, 1])
    np.testing.assert_array_equal(shared(owners), [True, True, True, False, True])


def test_auc_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 20, 200).astype(np.float32), (rng.random(200) < 0.4).astype(np.float32)
    pairs = scores[labels > 0.5][:, None] - scores[labels < 0.5][None, :]
    assert exact_auc(scores, labels) == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean(), abs=1e-12)
    with pytest.raises(ValueError, match="0 positives and 200 negatives"):
        exact_auc(scores, labels * 0)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (4, 2.7764), (9, 2.2622), (100, 1.9840)])
def test_quantiles_are_those_of_the_printed_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=1e-4)


def test_differences_are_paired() -> None:
    found = collisions.summary([0.8, 0.6, 0.7], [0.7, 0.5, 0.6])
    assert found["difference"] == pytest.approx(0.1)
    assert found["high"] - found["low"] == pytest.approx(0, abs=1e-5)
    assert found["sd"] == pytest.approx(0.1)


def test_a_verdict_needs_the_whole_interval() -> None:
    def of(low: float, high: float) -> dict[str, float]:
        return {"low": low, "difference": (low + high) / 2, "high": high}

    measured = {"online_log_loss": of(0.1, 0.2)}
    others = ("last_auc_epoch_1", "random_auc_epoch_1")
    worse = measured | {"online_auc": of(-0.2, -0.1)} | {name: of(0.1, 0.2) for name in others}
    unclear = measured | {"online_auc": of(-0.1, 0.2)} | {name: of(-0.1, 0.2) for name in others}
    auc, loss, last, _ = collisions.verdicts({BASELINE.name: {}, "a": worse, "b": unclear}, 1)
    assert auc.endswith("worse: a | undecided: b")
    assert loss.endswith("worse: all")
    assert last.endswith("better: a | undecided: b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds 1: must be at least 2"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--ratings", "7"], "--ratings 7: must be at least 100"),
        (["--data", "/nowhere"], "--data /nowhere: not there; make data"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        collisions.main(arguments)
    assert message in capsys.readouterr().err
