"""The benchmark of shard servers runs whole, on few rows; its figures are not looked at."""

from __future__ import annotations

import json
import math
import subprocess
import sys

from benchmarks.shards import NAMES, ROOT


def test_a_quick_run() -> None:
    command = [sys.executable, "-m", "benchmarks.shards", "--rows=100", "--dim=4", "--shards=2", "--rounds=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    figures = [result[f"{name}_us"] for name in NAMES] + [result["ratio"], result["ratio_to_open_stream"]]
    assert all(math.isfinite(value) and value > 0 for value in figures)
    assert result["goal_met"] == (result["ratio"] <= 2)


def test_a_bad_option_is_quoted() -> None:
    command = [sys.executable, "-m", "benchmarks.shards", "--rows=0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--rows 0: at least 1" in done.stderr
