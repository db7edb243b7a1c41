"""The comparison of tails on a small MovieLens of our own making, through the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tails
from benchmarks._experiment import half_width

CONTESTANTS = {"all"} | {f"{admitted}, {tail}" for admitted in ("3", "never") for tail in ("none", "compose", "narrow")}


def test_the_last_line_has_every_figure_of_every_contestant(
    movielens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tails.main(["--data", str(movielens), "--ratings", "300", "--seeds", "2", "--admit", "3", "--rows", "4"])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=refuse)
    assert set(found) == CONTESTANTS
    figures = {"auc", "auc_difference", "interval", "log_loss", "rows", "row_bytes", "share"}
    assert all(set(of) == figures for of in found.values())
    assert found["all"]["auc_difference"] == found["all"]["interval"] == 0
    assert found["never, none"]["rows"] < found["3, none"]["rows"] < found["all"]["rows"]
    assert found["never, compose"]["rows"] > found["never, none"]["rows"]


def test_the_interval_of_many_seeds_is_students() -> None:
    differences = np.repeat([0.0, 1.0], 6)
    assert half_width(differences) == pytest.approx(2.2010 * 0.5222 / np.sqrt(12), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds 1: must be at least 2"),
        (["--ratings", "7"], "--ratings 7: must be at least 100"),
        (["--data", "/nowhere"], "--data /nowhere: not there; make data"),
        (["--admit", "20", "1"], '--admit [20, 1] --rows 100 --tail-dim 4: slots[0].tail = "compose"'),
        (["--tail-dim", "11"], "--tail-dim 11: model.tail_dim = 11"),
    ],
)
def test_refuses(arguments: list[str], message: str, movielens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tails.main(["--data", str(movielens), *arguments])
    assert message in capsys.readouterr().err
