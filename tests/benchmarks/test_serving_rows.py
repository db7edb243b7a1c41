"""The comparison of row formats on a small MovieLens of our own making, through the command itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving_rows
from monobeam.store.spec import DTYPES, ROW_FORMATS


@pytest.fixture
def found(movielens: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The JSON of the last line, and everything before it."""
    serving_rows.main([f"--data={movielens}", "--seeds=2", "--rows=262144"])
    text, _, last = capsys.readouterr().out.strip().rpartition("\n")
    return json.loads(last), text


def test_what_formats_cost_and_save(found: tuple[dict[str, Any], str]) -> None:
    figures, text = found
    serving, training = figures["serving"], figures["training"]
    assert tuple(serving) == ROW_FORMATS
    assert tuple(training) == DTYPES
    for of in (serving, training):
        assert of["fp32"]["auc_difference"] == of["fp32"]["log_loss_difference"] == of["fp32"]["auc_interval"] == 0
        for name in of:
            assert 0.5 < of[name]["auc"] < 1
            assert abs(of[name]["auc_difference"]) < 0.02
            assert name in text
        for numbers in (11, 64):
            sizes = [of[name][f"bytes_per_row_{numbers}"] for name in of]
            assert sizes == sorted(sizes, reverse=True)
            assert of["fp16"][f"bytes_per_row_{numbers}"] < of["fp32"][f"bytes_per_row_{numbers}"]
    assert serving["int8"]["bytes_per_row_64"] < serving["fp16"]["bytes_per_row_64"]
    apart = [serving[name]["largest_score_difference"] for name in ROW_FORMATS]
    assert apart[0] == 0 < apart[1] < apart[2]
    assert apart[1] < apart[3]
    assert all(serving[name]["speed_to_fp32_64"] > 0 for name in ROW_FORMATS)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--seeds=1", "--seeds 1: must be at least 2"),
        ("--ratings=9", "--ratings 9: must be at least 100"),
        ("--rows=9", "--rows 9: must be at least 1000"),
        ("--data=/nonexistent", "--data /nonexistent: not there"),
    ],
)
def test_what_makes_no_sense_is_refused(argument: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving_rows.main([argument])
    assert said in capsys.readouterr().err
