"""The commands of examples/own_logs/README.md, as they stand there, from two plain Avro files to a closed loop."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest

from examples.own_logs import generate
from tests.end_to_end.run import kill, prism

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples" / "own_logs" / "README.md").read_text().replace("\\\n", " ")
CONFIG = ROOT / "examples" / "own_logs" / "model.toml"


def command(module: str) -> list[str]:
    """The command of the README that runs a module, with this Python and with paths into this repository."""
    (line,) = re.findall(rf"^    (python -m {re.escape(module)}\b[^\n]*?)(?: &)?$", README, re.MULTILINE)
    places = {"=examples/own_logs": f"={ROOT}/examples/own_logs", "=.tools": f"={ROOT}/.tools"}
    words = shlex.split(line)
    for place, absolute in places.items():
        words = [word.replace(place, absolute) for word in words]
    return [sys.executable, *words[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: the logs are generated, joined and trained."""
    folder = tmp_path_factory.mktemp("own_logs")
    for module in ("examples.own_logs.generate", "monobeam.pipelines.backfill"):
        done = subprocess.run(
            command(module), cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A serving process on a free port, which it prints."""
    words = [word if not word.startswith("--port") else "--port=0" for word in command("monobeam.serving")]
    with subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield re.findall(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while not is_ready(url):
        assert time.monotonic() < deadline, "no model is loaded after a minute"
        time.sleep(0.05)


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=60):
            return True
    except urllib.error.HTTPError:
        return False


def rank(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/rank", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        results: list[dict[str, Any]] = json.load(answer)["results"]
    return results


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_backfill_then_serve_then_rank(url: str, folder: Path) -> None:
    wait_until_ready(url)
    (body,) = re.findall(r"/rank -d '(.*?)'", README, re.DOTALL)
    results = rank(url, json.loads(body))
    best, *others = results
    assert best["index"] == 2  # the one about science, for a reader of science
    assert best["score"] > 0.4 > 0.3 > max(other["score"] for other in others)
    assert all(result["impression_id"] for result in results)


def test_a_request_of_which_nothing_is_known_scores_the_base_rate(url: str, folder: Path) -> None:
    wait_until_ready(url)
    base_rate = log_length(folder, "clicked") / log_length(folder, "shown")
    unknown = {"reader": 10**9, "device": "watch"}
    (answer,) = rank(url, {"features": unknown, "candidates": [{"article": "new", "topics": ["?"], "words": 800}]})
    assert answer["score"] == pytest.approx(base_rate, abs=0.07)


def test_what_is_served_and_clicked_is_learnt_while_it_is_served(url: str, folder: Path) -> None:
    binary = prism()
    wait_until_ready(url)
    request = {"features": {"reader": 777, "device": "phone"}, "candidates": [{"article": "news", "topics": ["new"]}]}
    (shown,) = rank(url, request)
    click(folder, shown["impression_id"])
    (line,) = re.findall(r"^    (impressions = .*)$", README, re.MULTILINE)
    both = re.sub(r"^impressions = .*$", line, CONFIG.read_text(), flags=re.MULTILINE)
    (folder / "both.toml").write_text(both)
    words = [word.replace(str(CONFIG), str(folder / "both.toml")) for word in command("monobeam.pipelines.online")]
    assert any(binary in word for word in words)
    with (folder / "online.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        # Unseen before: only its own click can make this request more likely to be clicked.
        while rank(url, {**request, "log": False})[0]["score"] <= shown["score"] + 0.01:
            assert process.poll() is None, (folder / "online.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "online.log").read_text()[-3000:]
            time.sleep(0.1)
    finally:
        kill(process)


def click(folder: Path, impression_id: str) -> None:
    """What the site does when somebody clicks: one more file in the log of actions."""
    now_ms = time.time_ns() // 1_000_000 + 1  # rounded up: nobody clicks before it is shown
    record = {"impression_id": impression_id, "time": now_ms, "type": "click", "value": None}
    with (folder / "runs" / "own_logs" / "clicked" / "today.avro").open("wb") as file:
        fastavro.writer(file, generate.CLICKED, [record])


def log_length(folder: Path, name: str) -> int:
    with (folder / "runs" / "own_logs" / name / "2026-01-01.avro").open("rb") as file:
        return sum(1 for _ in fastavro.reader(file))


def test_it_is_said_how_many_articles_there_can_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for count in ("-3", "0", "many"):
        with pytest.raises(SystemExit, match="2"):
            generate.main([f"--count={count}", f"--to={tmp_path / 'logs'}"])
        assert f"--count: '{count}': must be a whole number from 1" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_generated_logs_are_plain_avro_in_time_order(folder: Path) -> None:
    for name, count in (("shown", 20_000), ("clicked", 3_000)):
        path = folder / "runs" / "own_logs" / name / "2026-01-01.avro"
        with path.open("rb") as file:
            times = [record["time"] for record in fastavro.reader(file)]  # type: ignore[call-overload, index]
        assert len(times) >= count
        assert times == sorted(times)
        (until,), (since,) = (re.findall(rf"--{option}=(\S+)", README) for option in ("until", "since"))
        assert until == since
        assert times[0] < datetime.fromisoformat(until + "+00:00") < times[-1] - timedelta(seconds=1)
