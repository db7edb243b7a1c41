"""A backfill on the cluster of so many events that lie in Kafka, and what it takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks._pipeline.feed import Feed, fill
from benchmarks._pipeline.run import SCHEMAS, Run
from benchmarks._pipeline.streams import EVENT_RATE, PAUSES, on
from benchmarks._pipeline.world import World


@dataclass(frozen=True)
class Backfill:
    """One run, from its command to its end, the start of its workers included.

    ``cpu_s``: of workers and TaskManagers; ``peak_mb``: the most memory that workers had.
    """

    events: int
    seconds: float
    cpu_s: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


def backfill(world: World, name: str, events: int) -> Backfill:
    """Everything is in the logs before it starts, and trained when it ends."""
    run = Run(world.folder / name, f"kafka://{world.broker.address}/{name}.", PAUSES)
    feed = Feed({log: run.log(log) for log in SCHEMAS}, EVENT_RATE)
    fill(feed, events / EVENT_RATE)
    before, began, peak_mb = _cpu_s(world), time.monotonic(), 0.0
    with run.process("backfill", run.command("backfill", *on(world))) as job:
        while job.poll() is None:
            peak_mb = max(peak_mb, world.usage().memory_mb.get("workers", 0.0))
            time.sleep(0.5)
        took = time.monotonic() - began
        if job.returncode:
            raise RuntimeError(f"the backfill failed: {run.said('backfill').read_text()[-2000:]}")
    _check(run, feed.given)
    return Backfill(feed.given, took, _cpu_s(world) - before, peak_mb)


def _cpu_s(world: World) -> float:
    """What workers say of themselves outlives them."""
    used = world.usage()
    return sum(used.steps_s.values()) + used.cpu_s["task_managers"]


def _check(run: Run, given: int) -> None:
    joined = run.joined()
    events = joined["impressions"] + joined["actions"]
    if events != given or run.behind():
        raise RuntimeError(f"of {given} events {events} were joined, and {run.behind()} blocks were not trained")
