"""How old what a server knows is: from a click's arrival to the first answer that could use it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks._pipeline.run import PATIENCE_S, SCHEMAS, Run
from benchmarks._pipeline.streams import WARM_S

ASK_EVERY_S = 0.02
QUESTION = {
    "features": {"user": "u0000001", "country": 8193, "device": 8193, "hour": 8193, "page": 8193},
    "candidates": [{"item": "i0000001", "category": 8193, "shop": 8193}],
    "log": False,
}


def freshness(run: Run, job: Sequence[str], rate: float, seconds: float) -> Mapping[str, float]:
    """Percentiles in milliseconds over the last ``seconds`` of a job that is fed at a rate, once it has kept up."""
    logs = [f"--{name}={run.log(name)}" for name in SCHEMAS]
    feed = [sys.executable, "-m", "benchmarks._pipeline.feed", *logs, f"--rate={rate}", "--seconds=3600"]
    with (
        run.process("feed", feed),
        run.process("online", job) as pipeline,
        run.process("server", run.server()) as server,
        _asking(_address(run, server)) as url,
    ):
        _until(lambda: _stats(url)["replica"].get("epoch"), pipeline, run)
        began = time.monotonic()
        _until(lambda: time.monotonic() - began > seconds + WARM_S, pipeline, run)
        found: Mapping[str, float] = _stats(url)["freshness"]
        return found


def _until(condition: Any, pipeline: subprocess.Popen[bytes], run: Run) -> None:
    deadline = time.monotonic() + 3 * PATIENCE_S
    while not condition():
        if pipeline.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the job does not go on: {run.said('online').read_text()[-2000:]}")
        time.sleep(0.5)


def _address(run: Run, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if found := re.search(r"serving on (\S+)", run.said("server").read_text()):
            return found[1]
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no server: {run.said('server').read_text()[-2000:]}")
        time.sleep(0.1)


def _stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/stats.json", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def _asking(url: str) -> Iterator[str]:
    """Somebody asks the server some fifty times a second; gives the address back."""
    ended = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(f"{url}/rank", json.dumps(QUESTION).encode())
        while not ended.wait(ASK_EVERY_S):
            try:
                urllib.request.urlopen(request, timeout=10).read()
            except OSError:  # there is no model yet
                continue

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield url
    finally:
        ended.set()
        thread.join()
