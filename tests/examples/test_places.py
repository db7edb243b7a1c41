"""Where the demo runs: the commands that it gives, and what it starts."""

from itertools import chain
from pathlib import Path

import pytest

from examples import installed
from examples.flink import settings
from examples.movielens import demo
from examples.movielens.places import Embedded, OnFlink, Place
from examples.movielens.run import Run
from tests.examples.layouts import ML_100K, write
from tests.needed import needed


def run_at(place: Place, folder: Path) -> Run:
    return Run(folder, place, "http://127.0.0.1:8080", folder / "ml.zip", ratings=100, seconds=5, seed=1)


def addresses(commands: list[list[str]]) -> dict[str, set[str]]:
    """Where the logs in some commands are, by kind."""
    found: dict[str, set[str]] = {}
    for argument in (argument for command in commands for argument in command):
        _, _, place = argument.partition("=")
        kind, colon, _ = place.partition(":")
        if colon and kind in ("file", "kafka"):
            found.setdefault(kind, set()).add(place.rpartition("/")[2])
    return found


LOGS = {"impressions", "actions", "served", "examples", "sync", "dead_letters", "metrics"}


def test_every_log_is_where_the_place_says(tmp_path: Path) -> None:
    with needed():
        installed.check_flink()
    for place, kind in ((Embedded(tmp_path, None), "file"), (OnFlink(tmp_path), "kafka")):
        run = run_at(place, tmp_path)
        assert addresses([run.serving(), run.pipeline(), run.frozen(20), run.replay()]) == {kind: LOGS}


def test_a_cluster_of_the_demo_meets_no_other(tmp_path: Path) -> None:
    with needed():
        installed.check_flink()
    one, two = OnFlink(tmp_path / "one"), OnFlink(tmp_path / "two")
    usual = settings.layers(tmp_path, {})
    ports = [[place.cluster.settings[name] for name in (*settings.PORTS, settings.QUORUM)] for place in (one, two)]
    ports.append([usual[name] for name in (*settings.PORTS, settings.QUORUM) if name in usual])
    assert len(set(chain(*ports))) == sum(map(len, ports))
    assert {place.cluster.folder for place in (one, two)} == {tmp_path / "one/flink", tmp_path / "two/flink"}
    run = run_at(one, tmp_path)
    assert f"--flink_master={one.cluster.address}" in run.pipeline()
    assert f"--flink={one.cluster.address}" in run.serving()


def test_what_is_missing_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(ML_100K, tmp_path / "data")
    monkeypatch.setenv("PATH", "")
    assert demo.main([f"--data={data}", f"--runs={tmp_path / 'runs'}", "--flink"]) == 1
    assert "no Java here" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
