"""What the demo refuses, before it leaves anything behind."""

import socket
from pathlib import Path

import pytest

from examples.movielens import demo


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs would be left; the home of ``~`` is beside it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--seconds=0", "argument --seconds: '0': must be a number above 0"),
        ("--seconds=-5", "must be a number above 0"),
        ("--seconds=nan", "must be a number above 0"),
        ("--seconds=soon", "must be a number above 0"),
        ("--ratings=0", "argument --ratings: '0': must be a whole number from 1"),
        ("--ratings=1.5", "must be a whole number from 1"),
        ("--port=65536", "argument --port: '65536': must be a whole number from 1 to 65535"),
        ("--port=http", "must be a whole number from 1 to 65535"),
        ("--prism=/nowhere/prism", "--prism: '/nowhere/prism' is no program"),
        ("--prism=/", "--prism: '/' is no program"),
    ],
)
def test_options_are_checked_first(argument: str, said: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--data=anything", f"--runs={runs}", argument])
    assert said in capsys.readouterr().err
    assert not runs.exists()


def test_what_cannot_start_leaves_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([f"--data={runs.parent}", f"--runs={runs}"]) == 1
    assert "the demo cannot go on" in capsys.readouterr().err
    assert not runs.exists()


def test_a_port_that_is_taken_is_said_before_anything_starts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            demo.main(["--data=anything", f"--runs={runs}", f"--port={port}"])
    assert f"--port: {port} is in use" in capsys.readouterr().err


def test_the_data_may_lie_in_the_home_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--data=~/ml.zip", f"--runs={runs}"]) == 1
    assert str(runs.parent / "home" / "ml.zip") in capsys.readouterr().err
