"""A broker and a cluster for trying things out: what goes wrong is said, and nothing else is taken for them."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from examples import installed
from examples.flink import cluster
from examples.kafka import broker
from tests.needed import needed


def new_broker(folder: Path, port: int = 0, **settings: str) -> broker.Broker:
    with needed():
        return broker.Broker(folder, port, settings=settings)


def test_what_listens_at_the_port_already_is_not_taken_for_the_broker(tmp_path: Path) -> None:
    new_broker(tmp_path / "needs it")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit, match=f"at 127.0.0.1:{port}: Address already in use"):
            broker.main([f"--folder={tmp_path / 'kafka'}", f"--port={port}"])
    assert not (tmp_path / "kafka").exists()


def test_settings_that_kafka_refuses_are_quoted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)cannot be formatted.*nonsense"):
        new_broker(tmp_path, **{"process.roles": "nonsense"}).start()


def test_a_savepoint_of_no_job_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.Cluster, "running", lambda _: [])
    with pytest.raises(SystemExit, match="no job runs"):
        cluster.main(["savepoint", f"--folder={tmp_path}"])


def test_without_java_a_cluster_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with needed():
        installed.check_flink()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="no Java here"):
        cluster.main(["start", f"--folder={tmp_path}"])
