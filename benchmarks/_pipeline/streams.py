"""An online job that has more to read than it can, and what it does with its time."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks._pipeline.feed import Feed, fill
from benchmarks._pipeline.run import PATIENCE_S, SCHEMAS, Pauses, Run
from benchmarks._pipeline.usage import Usage
from benchmarks._pipeline.world import World

EVENT_RATE = 50_000  # events in a second of event time
SAMPLE_EVERY_S = 5.0
MOST_BEHIND = 100  # blocks of up to a thousand examples
WARM_S = 20.0
PAUSES = Pauses(poll="200ms", tick="200ms", commit="200ms")


@dataclass(frozen=True)
class Sample:
    """At one moment: events that were joined, blocks of examples not trained yet, what was used, the state's size."""

    at_s: float
    events: int
    behind: int
    used: Usage
    state_mb: float


@dataclass(frozen=True)
class Stream:
    """A job from the moment at which it was warm."""

    samples: list[Sample]

    @property
    def rate(self) -> float:
        """Events a second."""
        return self._rate(self.samples[0], self.samples[-1])

    @property
    def lowest_rate(self) -> float:
        """Of any half minute."""
        span = max(1, round(30 / SAMPLE_EVERY_S))
        pairs = list(zip(self.samples, self.samples[span:], strict=False))
        return min((self._rate(*pair) for pair in pairs), default=self.rate)

    @staticmethod
    def _rate(first: Sample, last: Sample) -> float:
        return (last.events - first.events) / (last.at_s - first.at_s)

    def cpu_us(self, kind: str) -> Mapping[str, float]:
        """Microseconds of CPU time an event, by process (``cpu_s``) or by step of the workers (``steps_s``)."""
        first, last = self.samples[0], self.samples[-1]
        before, after = getattr(first.used, kind), getattr(last.used, kind)
        events = last.events - first.events
        return {name: (value - before.get(name, 0.0)) * 1e6 / events for name, value in sorted(after.items())}

    def memory_growth_mb(self) -> Mapping[str, float]:
        """From the first minute to the last, by process; medians."""
        span = max(1, round(60 / SAMPLE_EVERY_S))
        first, last = self.samples[:span], self.samples[-span:]
        return {kind: _median(last, kind) - _median(first, kind) for kind in last[-1].used.memory_mb}

    @property
    def behind(self) -> int:
        """The most blocks that training was behind by."""
        return max(sample.behind for sample in self.samples)


def _median(samples: list[Sample], kind: str) -> float:
    return statistics.median(sample.used.memory_mb.get(kind, 0.0) for sample in samples)


def stream(world: World, name: str, events: int, seconds: float, parallelism: int) -> Stream:
    """Run a job for so long, or until it has read all of so many events."""
    run = Run(world.folder / name, f"kafka://{world.broker.address}/{name}.", PAUSES)
    feed = Feed({log: run.log(log) for log in SCHEMAS}, EVENT_RATE)
    fill(feed, events / EVENT_RATE)
    command = run.command("online", "--streaming", *on(world), f"--parallelism={parallelism}")
    with run.process("online", command) as job:
        found = Stream(list(_samples(world, run, job, feed.given, seconds)))
    if found.samples[-1].behind > found.samples[0].behind + MOST_BEHIND:
        raise RuntimeError(f"training does not keep up: it is {found.samples[-1].behind} blocks behind")
    return found


def on(world: World) -> list[str]:
    """The options of a job on the cluster."""
    return ["--runner=FlinkRunner", f"--flink_master={world.cluster.address}"]


def _samples(world: World, run: Run, job: subprocess.Popen[bytes], given: int, seconds: float) -> Iterator[Sample]:
    deadline, until = time.monotonic() + PATIENCE_S, float("inf")
    while True:
        if job.poll() is not None:
            raise RuntimeError(f"the job ended: {run.said('online').read_text()[-2000:]}")
        events = _events(run)
        now = time.monotonic()
        if not events:
            if now > deadline:
                raise RuntimeError(f"nothing was joined in {PATIENCE_S:g} s: {run.said('online').read_text()[-2000:]}")
            time.sleep(0.5)
            continue
        if until == float("inf"):
            until = now + WARM_S + seconds
        if now > until - seconds:
            yield Sample(now, events, run.behind(), world.usage(), world.state_mb(world.cluster.running()[0]))
        if now > until:
            return
        if events > 0.99 * given:
            print(f"everything was read {until - now:.0f} s before the end: give more events")
            return
        time.sleep(SAMPLE_EVERY_S)


def _events(run: Run) -> int:
    joined = run.joined()
    return joined["impressions"] + joined["actions"]
