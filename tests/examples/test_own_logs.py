"""The commands of examples/own_logs/README.md, as they stand there, from two plain Avro files to a ranking."""

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
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples" / "own_logs" / "README.md").read_text()


def command(module: str) -> list[str]:
    """The command of the README that runs a module, with this Python and with paths into this repository."""
    (line,) = re.findall(rf"^    (python -m {re.escape(module)}\b[^\n]*?)(?: &)?$", README, re.MULTILINE)
    words = [word.replace("examples/own_logs", f"{ROOT}/examples/own_logs") for word in shlex.split(line)]
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


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_backfill_then_serve_then_rank(url: str, folder: Path) -> None:
    wait_until_ready(url)
    (body,) = re.findall(r"/rank -d '(.*?)'", README, re.DOTALL)
    request = urllib.request.Request(f"{url}/rank", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        results = json.load(answer)["results"]
    best, *others = results
    assert best["index"] == 2  # the one about science, for a reader of science
    assert best["score"] > 0.4 > 0.3 > max(other["score"] for other in others)
    assert all(result["impression_id"] for result in results)


def test_generated_logs_are_plain_avro_in_time_order(folder: Path) -> None:
    import fastavro

    for name, count in (("shown", 20_000), ("clicked", 3_000)):
        (path,) = (folder / "runs" / "own_logs" / name).glob("*.avro")
        with path.open("rb") as file:
            times = [record["time"] for record in fastavro.reader(file)]  # type: ignore[call-overload, index]
        assert len(times) >= count
        assert times == sorted(times)
