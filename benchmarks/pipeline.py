"""The whole pipeline on a real Flink cluster with a real Kafka broker: throughput, freshness, memory, backfill.

Everything runs on this machine: broker, JobManager, two TaskManagers, their Python workers, whoever feeds the logs, and
the server. The model has 8 slots of dim 16 and a network of 64 and 32; a click comes with every tenth impression;
negatives are sampled at 0.2; checkpoints come every 5 s.

- stream: an online job that has more to read than it can, for five minutes once it is warm, at a parallelism of 2,
  then a minute at 1. An event is an impression or a click; it counts when it is joined, and training must keep up.
- freshness: the logs are fed at half of 50,000 events a second; from a click's arrival to the first answer of a server
  that could use it, on Flink with Kafka, and on Prism with logs in files.
- backfill: 1, 4 and 16 million events that lie in Kafka, each from the command to its end.

    python -m benchmarks.pipeline [--seconds 300] [--only stream freshness backfill]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks._pipeline.backfills import backfill
from benchmarks._pipeline.fresh import freshness
from benchmarks._pipeline.run import Pauses, Run
from benchmarks._pipeline.streams import Stream, on, stream
from benchmarks._pipeline.world import World
from examples.installed import prism

GOALS = {
    "events_per_second": 50_000,
    "freshness_p99_ms": 2_000,
    "freshness_prism_p99_ms": 500,
    "backfill_ratio": 3,
}
ENOUGH = 70_000  # events a second that the job cannot read
SHORT_S = 60.0
BACKFILLS = (1_000_000, 4_000_000, 16_000_000)
HALF_RATE = 25_000
QUICK = Pauses(poll="50ms", tick="50ms", commit="50ms")
Figures = dict[str, float]


def measure_stream(world: World, seconds: float) -> Figures:
    """Throughput, memory and CPU time, at two parallelisms."""
    two = stream(world, "stream", int(ENOUGH * seconds), seconds, 2)
    one = stream(world, "one", int(ENOUGH * SHORT_S), SHORT_S, 1)
    growth = two.memory_growth_mb()
    _say_stream("stream, parallelism 2", two)
    _say_stream("stream, parallelism 1", one)
    print("  memory grew (MB): " + _listed(growth))
    print(f"  the last checkpoint: {two.samples[0].state_mb:.1f} MB at first, {two.samples[-1].state_mb:.1f} at last")
    return {
        "events_per_second": two.rate,
        "events_per_second_lowest": two.lowest_rate,
        "events_per_second_parallelism_1": one.rate,
        "blocks_behind": two.behind,
        "memory_growth_mb": growth["workers"] + growth["task_managers"],
        "memory_growth_workers_mb": growth["workers"],
        "state_growth_mb": two.samples[-1].state_mb - two.samples[0].state_mb,
        **{f"cpu_us_{name}": value for name, value in two.cpu_us("cpu_s").items()},
        **{f"cpu_us_workers_{name}": value for name, value in two.cpu_us("steps_s").items()},
    }


def _say_stream(title: str, found: Stream) -> None:
    print(f"{title}: {found.rate:,.0f} events/s, the lowest half minute {found.lowest_rate:,.0f}")
    print("  CPU time an event (µs): " + _listed(found.cpu_us("cpu_s")))
    print("  of that, in workers: " + _listed(found.cpu_us("steps_s")))


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in values.items())


def measure_freshness(world: World, seconds: float) -> Figures:
    """On Flink with Kafka, then on Prism with files."""
    del seconds
    run = Run(world.folder / "fresh", f"kafka://{world.broker.address}/fresh.", QUICK)
    job = run.command("online", "--streaming", *on(world), "--parallelism=1")
    on_flink = freshness(run, job, HALF_RATE, SHORT_S)
    run = Run(world.folder / "prism", f"file:{world.folder}/prism/logs/", QUICK)
    runner = ["--runner=PrismRunner", f"--prism_location={prism()}", "--environment_type=LOOPBACK"]
    on_prism = freshness(run, run.command("online", "--streaming", *runner), HALF_RATE, SHORT_S)
    for title, found in (("Flink, Kafka", on_flink), ("Prism, files", on_prism)):
        print(f"freshness at {HALF_RATE:,} events/s, {title}: p50 {found['p50_ms']:.0f} ms, p99 {found['p99_ms']:.0f}")
    return {
        "freshness_p50_ms": on_flink["p50_ms"],
        "freshness_p99_ms": on_flink["p99_ms"],
        "freshness_prism_p50_ms": on_prism["p50_ms"],
        "freshness_prism_p99_ms": on_prism["p99_ms"],
    }


def measure_backfill(world: World, seconds: float) -> Figures:
    """Cost against the amount of data."""
    del seconds
    found = [backfill(world, f"backfill{number}", events) for number, events in enumerate(BACKFILLS)]
    for one in found:
        print(
            f"backfill of {one.events / 1e6:.0f} M events: {one.rate:,.0f} events/s, "
            f"{one.cpu_s * 1e6 / one.events:.1f} s of CPU time a million, workers' peak {one.peak_mb:,.0f} MB"
        )
    *_, smaller, larger = found
    costs = {f"backfill_cpu_us_{one.events // 1_000_000}m": one.cpu_s * 1e6 / one.events for one in found}
    more = larger.events - smaller.events
    return {
        "backfill_events_per_second": larger.rate,
        "backfill_events_per_second_more": more / (larger.seconds - smaller.seconds),
        "backfill_peak_mb": larger.peak_mb,
        **costs,
    }


PARTS: Mapping[str, Callable[[World, float], Figures]] = {
    "stream": measure_stream,
    "freshness": measure_freshness,
    "backfill": measure_backfill,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print figures for people, then one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="of the stream, once it is warm")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--folder", type=Path, help="where logs and stores go; default: one that is deleted afterwards")
    given = parser.parse_args(argv)
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="monobeam-pipeline-") as made:
        for part in given.only:  # a cluster each: what one job leaves behind is not the next one's to bear
            with World((given.folder or Path(made)) / part) as world:
                figures |= PARTS[part](world, given.seconds)
    if {"stream", "backfill"} <= set(given.only):
        figures["backfill_ratio"] = figures["backfill_events_per_second"] / figures["events_per_second"]
    for name, goal in GOALS.items():
        if name in figures:
            print(f"{name}: {figures[name]:,.1f} (goal: {goal:,})")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
