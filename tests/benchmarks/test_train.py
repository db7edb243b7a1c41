"""The benchmark of training runs whole, on few blocks; its figures are not looked at."""

from __future__ import annotations

import json

import pytest

from benchmarks import train


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    train.main(["--blocks", "4", "--rounds", "2"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["examples"] == 4 * train.ROWS
    assert result["examples_per_cpu_second"] > 0
    assert result["ratio_to_bare_loop"] > 0
    assert set(result["bare_loop_examples_per_cpu_second"]) == {"plain", "tuned"}


def test_the_faster_bare_loop_is_the_measure() -> None:
    spent = {"ours": [1.0, 3.0], "plain": [4.0, 4.0], "tuned": [1.0, 2.0]}
    found = train.summary(spent, examples=12)
    assert found["faster_bare_loop"] == "tuned"
    assert found["examples_per_cpu_second"] == 3
    assert found["bare_loop_examples_per_cpu_second"] == {"plain": 1.5, "tuned": 4}
    assert found["ratio_to_bare_loop"] == 0.75
    assert found["median_round_ratio"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-3)
    assert found["goal"] == {"at_least": 0.9, "met": False}


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--blocks", "3", "--rounds", "4"]])
def test_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(arguments)
    assert f"--rounds {arguments[-1]}: must be from 1 to --blocks" in capsys.readouterr().err
