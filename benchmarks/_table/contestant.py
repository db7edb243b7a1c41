"""A contestant's side of the benchmark: a process that answers requests, a line of JSON each. Needs numpy alone.

One process at a time has a request, so contestants in environments of their own can take turns within each round.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks._table.workload import Positions, Workload, keys_of

BUILD_BATCH = 4096
_BUILD_BLOCK = 256 * BUILD_BATCH


@dataclass(frozen=True)
class Settings:
    """What a contestant is told at the start; ``library`` is limit.cpp's."""

    folder: str
    keys: int
    dim: int
    optimizer: str
    library: str


@dataclass(frozen=True)
class Work:
    """One thing that is timed.

    ``prepare`` makes the argument of a call out of positions, and is not timed. ``start`` takes a batch size and
    returns the call, with buffers that no other thread has.
    """

    prepare: Callable[[Positions], Any]
    start: Callable[[int], Callable[[Any], object]]


class Contestant(Protocol):
    @property
    def keys(self) -> int:
        """That it holds: the first ones."""

    @property
    def works(self) -> Mapping[str, Work]: ...

    def build(self) -> dict[str, float]:
        """From empty to all keys: ``cpu`` seconds and, where there are batches, the ``longest`` call."""


def serve(make: Callable[[Settings], Contestant]) -> None:
    """Answer requests until the input ends: ``run``, ``held``, or a method of the contestant.

    Arguments are the settings as JSON, and the descriptor of the pipe for the answers.
    """
    settings = Settings(**json.loads(sys.argv[1]))
    answers = os.fdopen(int(sys.argv[2]), "w", buffering=1)
    contestant = make(settings)
    workload = Workload(Path(settings.folder), contestant.keys)
    for line in sys.stdin:
        request = json.loads(line)
        call = request.pop("call")
        if call == "run":
            answer: object = run(contestant.works[request.pop("work")], workload, **request)
        elif call == "held":
            answer = {"keys": contestant.keys, "works": sorted(contestant.works)}
        else:
            answer = getattr(contestant, call)(**request)
        answers.write(json.dumps(answer) + "\n")


def run(
    work: Work, workload: Workload, distribution: str, window: int, batch: int, threads: int, share: float
) -> dict[str, float]:
    """One pass over a share of a window.

    Returns ``cpu`` seconds of the process, seconds of the thread that had most, by its ``thread_cpu`` and by what
    ``elapsed``, and the ``keys`` of the pass.
    """
    positions = workload.batches(distribution, window, batch)
    positions = positions[: max(threads, round(len(positions) * share))]
    arguments = [work.prepare(part) for part in positions]
    calls = [work.start(batch) for _ in range(threads)]
    # Buffers and compiled graphs are warm after a call, and the window is not.
    warm = work.prepare(workload.batches(distribution, window + 3, batch)[0])
    for call in calls:
        call(warm)
    began = time.process_time()
    if threads == 1:
        spent = [_timed(calls[0], arguments)]
    else:
        spent = _together(calls, [arguments[i::threads] for i in range(threads)])
    return {
        "cpu": time.process_time() - began,
        "thread_cpu": max(each["cpu"] for each in spent),
        "elapsed": max(each["elapsed"] for each in spent),
        "keys": positions.size,
    }


def _together(calls: Sequence[Callable[[Any], object]], shares: Sequence[Sequence[Any]]) -> list[dict[str, float]]:
    """Each thread has a core to itself: what it waits for one is then not for the others' sake."""
    spent: list[dict[str, float]] = [{}] * len(calls)
    barrier = threading.Barrier(len(calls))
    cores = sorted(os.sched_getaffinity(0))

    def work(i: int) -> None:
        os.sched_setaffinity(0, {cores[i % len(cores)]})
        barrier.wait()
        spent[i] = _timed(calls[i], shares[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent


def _timed(call: Callable[[Any], object], arguments: Sequence[Any]) -> dict[str, float]:
    def calls() -> None:
        for argument in arguments:
            call(argument)

    return spent_by_thread(calls)


def spent_by_thread(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of ``cpu``, and that ``elapsed`` but for those in which another thread had the core.

    So waiting for a lock is in ``elapsed``. The other thread is another program's, as long as each of ours has a core
    to itself.
    """
    (wall, queued), cpu = _moment(), time.thread_time()
    call()
    cpu, (end, queued_at_end) = time.thread_time() - cpu, _moment()
    return {"cpu": cpu, "elapsed": end - wall - (queued_at_end - queued)}


def _moment() -> tuple[float, float]:
    """The clock and ``waited()`` of one moment: nothing was waited between the two readings."""
    while True:
        queued, now = waited(), time.perf_counter()
        if waited() == queued:
            return now, queued


def spent_by_process(call: Callable[[], object]) -> dict[str, float]:
    """The same with the CPU time of all threads."""
    cpu = time.process_time()
    spent = spent_by_thread(call)
    return spent | {"cpu": time.process_time() - cpu}


def waited(thread: str = "/proc/thread-self") -> float:
    """Seconds a thread was ready to run and another had the core; waiting for a lock is not in it. 0: unknown."""
    try:
        return int(Path(f"{thread}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def blocks(keys: int) -> Iterator[list[Positions]]:
    """All positions in order, as batches of BUILD_BATCH in blocks that are long enough to time as one."""
    for start in range(0, keys, _BUILD_BLOCK):
        block = np.arange(start, min(start + _BUILD_BLOCK, keys), dtype=np.uint32)
        yield [block[i : i + BUILD_BATCH] for i in range(0, len(block), BUILD_BATCH)]


def built(
    keys: int,
    insert: Callable[[Any], object],
    prepare: Callable[[Positions], Any] = keys_of,
    after_block: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Insert all keys: the process's CPU seconds, and the longest call's CPU seconds of the calling thread."""
    spent = longest = 0.0
    for batches in blocks(keys):
        arguments = [prepare(batch) for batch in batches]
        began = time.process_time()
        for argument in arguments:
            called = time.thread_time()
            insert(argument)
            longest = max(longest, time.thread_time() - called)
        after_block()
        spent += time.process_time() - began
    return {"cpu": spent, "longest": longest, "keys": keys}


def gradients(batch: int, dim: int) -> Any:
    """The same for everybody, float32[batch, dim]."""
    return np.random.default_rng(5).normal(0, 0.1, (batch, dim)).astype(np.float32)


def sample(keys: int) -> Positions:
    """Positions to look at after a build."""
    return np.unique(np.linspace(0, keys - 1, 1000).astype(np.uint32))


def anonymous_bytes(process: int | str = "self") -> int:
    """Memory of a process that is no file."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status has no RssAnon")


def available_bytes() -> int:
    """Memory of the machine that programs can still have."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")
