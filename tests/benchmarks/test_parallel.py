"""Trainers in parallel on a small MovieLens of our own making, through the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import parallel


def test_figures_of_a_small_run(movielens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parallel.main([f"--data={movielens}", "--ratings=800", "--seeds=2", "--trainers", "2"])
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert list(found["trainers"]) == [parallel.ALONE, "2 sharing a store"]
    shared = found["trainers"]["2 sharing a store"]
    assert shared["examples_per_second"] > 0
    for measure in ("online_auc", "last_auc"):
        at = shared[measure]
        assert 0 < at["mean"] < 1
        assert at["low"] <= at["difference"] <= at["high"]
    assert found["trainers"][parallel.ALONE]["online_auc"]["difference"] == 0
    assert "2 sharing a store" in out


@pytest.mark.parametrize("option", ["--seeds=1", "--trainers=0"])
def test_options_that_cannot_be(option: str, movielens: Path) -> None:
    with pytest.raises(SystemExit):
        parallel.main([f"--data={movielens}", option])
