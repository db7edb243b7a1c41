"""A stepped clock is wrong for monobeam's modules and for nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks._faults.clock import Clock

ASKED = """\
import sys, time, types
from pathlib import Path
from benchmarks._faults import clock

true = time.time_ns
clock.use(Path(sys.argv[1]))
other = types.ModuleType("other")
exec("import time\\ndef now(): return time.time_ns()\\ndef now_s(): return time.time()", other.__dict__)
ours = types.ModuleType("monobeam.store.ours")
exec("import time\\ndef now(): return time.time_ns()\\ndef now_s(): return time.time()", ours.__dict__)
for module in (other, ours):
    print(round((module.now() - true()) / 1e9), round(module.now_s() - true() / 1e9))
"""


def test_steps_add_up_and_are_for_our_modules_alone(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    clock.step(3600)
    clock.step(-60.0)
    done = subprocess.run(
        [sys.executable, "-c", ASKED, str(clock.path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "0", "3540", "3540"]
