"""The commands of docs/guide.md, as they stand there, on the cluster and the broker that all tests share."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from examples.flink.cluster import Cluster
from examples.flink.cluster import main as flink_command
from examples.kafka import broker
from monobeam.pipelines import options
from tests import kafka_cluster
from tests.end_to_end.run import kill

PATIENCE_S = 240.0  # where others keep the machine busy; it takes 15
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide.md").read_text()
COMMANDS = re.findall(r"^    (\S.*)$", GUIDE, re.MULTILINE)


def command(begin: str) -> str:
    """The one that begins so."""
    (found,) = [line for line in COMMANDS if line.startswith(begin)]
    return found


class Shell:
    """A folder like the repository's root, where commands find the tests' cluster and broker at the usual ports."""

    def __init__(self, folder: Path, flink: str, kafka: str) -> None:
        self.folder = folder
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "runs").mkdir()
        self._places = {"127.0.0.1:8081": flink, "127.0.0.1:9092": kafka, "--port=8080": "--port=0"}
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def line(self, begin: str) -> str:
        """A command of the guide for a shell, with this Python, and without what lets it run beside others."""
        line = command(begin).removesuffix(" &")
        for usual, here in self._places.items():
            line = line.replace(usual, here)
        return line.replace("python ", f"{shlex.quote(sys.executable)} ", 1)

    def run(self, begin: str, without: int = 0) -> str:
        """To its end, without so many of its last options; what it prints."""
        line = " ".join(self.line(begin).split(" ")[: -without or None])
        done = subprocess.run(line, shell=True, cwd=self.folder, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @contextmanager
    def running(self, begin: str, log: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / log).open("wb") as file:
            words = shlex.split(self.line(begin))
            process = subprocess.Popen(
                words, cwd=self.folder, env=self._environment, stdout=file, stderr=file, start_new_session=True
            )
        try:
            yield process
        finally:
            kill(process)

    def wait(self, condition: Callable[[], bool], *logs: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, [(self.folder / log).read_text()[-2000:] for log in logs]
            time.sleep(0.1)


def test_the_guide_from_the_logs_to_a_ranked_answer(
    flink: Cluster, kafka: kafka_cluster.Cluster, tmp_path: Path
) -> None:
    """The bounded job runs in process, as the guide says that it may."""
    shell = Shell(tmp_path, flink.address, kafka.broker.address)
    shell.run("python -m examples.own_logs.generate")
    assert "shown: 20000 records" in shell.run("python -m examples.own_logs.publish")
    shell.run("sed ")
    shell.run("python -m monobeam.pipelines.backfill", without=2)
    with ExitStack() as stack:
        stack.enter_context(shell.running("python -m monobeam.serving", "serving.log"))
        shell.wait(lambda: "http://" in (tmp_path / "serving.log").read_text(), "serving.log")
        (url,) = re.findall(r"http://\S+", (tmp_path / "serving.log").read_text())
        client = stack.enter_context(httpx.Client(base_url=url, timeout=20))
        shell.wait(lambda: client.get("/ready").status_code == 200, "serving.log")
        (asked,) = re.findall(r"-d '(.*)'$", command("curl"))
        answer = client.post("/rank", content=asked).json()
        assert answer["results"][0]["index"] == 1  # the one about science, for a reader of science
        job = stack.enter_context(shell.running("python -m monobeam.pipelines.online", "online.log"))
        # What the streaming join counts takes the place of the bounded one's 20,000.
        shell.wait(lambda: 0 < impressions(client) < 1000, "online.log", "serving.log")
        assert client.get("/stats.json").json()["flink"]["state"] == "running"
        job.send_signal(signal.SIGTERM)
        assert job.wait(PATIENCE_S) == 0
        shell.wait(lambda: not flink.running(), "online.log")


def impressions(client: httpx.Client) -> float:
    return float(client.get("/stats.json").json()["conservation"]["impressions"]["in"] or 0)


def test_what_takes_longer_is_understood(
    flink: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other commands are there, and take the options that they are given."""
    shell = Shell(tmp_path, flink.address, "127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    shell.run("sed ")
    backfill = shlex.split(shell.line("python -m monobeam.pipelines.backfill"))[3:]
    parsed, config = options.parse(backfill, "backfill", "", "")
    assert parsed.view_as(options.MonobeamOptions).until == 1_767_225_600_000_000 + 33 * 60 * 1_000_000
    assert config.logs.actions == ("kafka://127.0.0.1:1/clicked",)
    flink_command(["status", *shlex.split(command("python -m examples.flink.cluster"))[4:], f"--folder={tmp_path}"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["command"] == "status"
    with pytest.raises(SystemExit, match="0"):
        broker.main([*shlex.split(command("python -m examples.kafka.broker").removesuffix(" &"))[3:], "--help"])
    made = [line for line in COMMANDS if line.startswith("make ")]
    assert len(made) == 5
    for line in made:
        subprocess.run([*line.split(), "-n"], cwd=ROOT, capture_output=True, check=True)


def test_nothing_in_the_guide_is_left_out() -> None:
    known = ("make ", "source .venv/bin/activate", "python -m ", "sed ", "curl ", "kill $(jobs -p)")
    assert [line for line in COMMANDS if not line.startswith(known)] == []
