"""What a fresh clone relies on: the Makefile's commands and the pinned packages."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def normal(requirement: str) -> str:
    """The name that a requirement is about, as indexes write it."""
    name = re.split(r"[\[<>=!~; ]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_is_pinned_and_no_address_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
    wanted += project["build-system"]["requires"]
    missing = {normal(requirement) for requirement in wanted} - {normal(name) for name in PINS}
    assert not missing
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^-e|@|^--", text, re.MULTILINE)
    assert all(re.fullmatch(r"[\w.]+", version) for version in PINS.values())


def test_help_names_the_two_commands() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("demo", "test", "lint", "types", "bench", "setup", "clean"):
        assert re.search(rf"^ *make {command} ", shown, re.MULTILINE), shown


@pytest.mark.parametrize("target", ["demo", "flink-demo"])
def test_the_demo_takes_its_options_from_make(target: str) -> None:
    arguments = ["make", "-n", target, "SECONDS=30", "DATA=/somewhere/ml-1m.zip", "RATINGS=500"]
    shown = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = shown[shown.index("-m examples.movielens.demo") :].replace("\\\n", " ")
    for argument in ("--seconds 30", '--data "/somewhere/ml-1m.zip"', "--ratings 500"):
        assert argument in command
    assert "recbole" not in shown  # what is named is not fetched
    assert ("--flink" in command) == (target == "flink-demo")


def test_a_virtual_environment_that_is_there_is_kept(tmp_path: Path) -> None:
    """So that somebody may put a smaller torch into it first, as the README says."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python, calls = tmp_path / ".venv" / "bin" / "python", tmp_path / "calls"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    subprocess.run(["make", ".venv/stamps/packages", f"PYTHON={sys.executable}"], cwd=tmp_path, check=True)
    installs = [line for line in calls.read_text().splitlines() if line.startswith("-m pip install")]
    assert installs[-1] == "-m pip install -q -c constraints.txt -r .venv/stamps/requirements.txt"
    assert not re.search("upgrade|reinstall|-m venv", calls.read_text())
    assert (tmp_path / ".venv" / "stamps" / "packages").exists()


def test_the_readme_names_the_torch_that_is_pinned() -> None:
    assert re.findall(r"install torch==(\S+)", (ROOT / "README.md").read_text()) == [PINS["torch"]]


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")
    subprocess.run(["bash", "-n", str(script)], check=True)
