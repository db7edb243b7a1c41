"""Children end with their parent, with all they started, and a death is noticed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.movielens.processes import ChildError, Children

# Starts a grandchild, prints its process id, and goes on; both pass over SIGTERM when told to.
FAMILY = """
import signal, subprocess, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(600)
"""


def children(folder: Path) -> Children:
    return Children(folder, folder, {})


def lines(folder: Path, name: str, count: int) -> list[str]:
    """The first lines that a child writes, as soon as they are there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(found := (folder / f"{name}.log").read_text().splitlines()) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{name} did not write {count} lines")


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 30
    while is_running(process):
        assert time.monotonic() < deadline, f"process {process} is still there"
        time.sleep(0.01)


def check_until_it_raises(family: Children) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        family.check()
        time.sleep(0.01)


def test_grandchildren_end_too(tmp_path: Path) -> None:
    with children(tmp_path) as family:
        family.start("family", [sys.executable, "-c", FAMILY])
        grandchild = next(int(line) for line in lines(tmp_path, "family", 2) if line != "up")
        family.check()
        assert is_running(grandchild)
    wait_until_gone(grandchild)


def test_what_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.movielens.processes.PATIENCE_S", 0.2)
    with children(tmp_path) as family:
        family.start("family", [sys.executable, "-c", FAMILY, "deaf"])
        grandchild = next(int(line) for line in lines(tmp_path, "family", 2) if line != "up")
    wait_until_gone(grandchild)


def test_a_death_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    with children(tmp_path) as family:
        family.start("steady", [sys.executable, "-c", "import time; time.sleep(600)"])
        family.start("brief", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])
        with pytest.raises(ChildError, match=r"brief ended with status 3(.|\n)*the reason"):
            check_until_it_raises(family)


def test_one_that_has_done_its_work_is_no_death(tmp_path: Path) -> None:
    with children(tmp_path) as family:
        family.start("work", [sys.executable, "-c", "pass"])
        while not family.ended("work"):
            time.sleep(0.01)
        family.check()


def test_an_interrupt_of_the_parent_ends_the_children(tmp_path: Path) -> None:
    parent = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from examples.movielens.processes import Children
with Children(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), {{}}) as family:
    family.start("family", [sys.executable, "-c", {FAMILY!r}])
    print("started", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        grandchild = next(int(line) for line in lines(tmp_path, "family", 2) if line != "up")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) != 0
    wait_until_gone(grandchild)
