"""Join and train on the logs as they are now, in one bounded job: the same code, examples and parameters.

With --until=T impressions that are not decided by T stay pending; a streaming run with --since=T takes over from there.
With --slice=1d days of logs are gone through a day after the other, each taking over from the one before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from monobeam.models.config import Config
from monobeam.pipelines import summary
from monobeam.pipelines.check import check_features, check_slice, check_store, warn_without_positives
from monobeam.pipelines.join import join_logs
from monobeam.pipelines.marks import Mark, Marks
from monobeam.pipelines.options import DATAFLOW, MonobeamOptions, parse
from monobeam.pipelines.progress import Progress, Shown
from monobeam.pipelines.run import execute, quiet
from monobeam.pipelines.slices import Slice, Slices
from monobeam.pipelines.summary import Counters, hand_over
from monobeam.pipelines.train import train_log
from monobeam.transforms.train import Partitions, readers

EXAMPLE = """example:
  python -m monobeam.pipelines.backfill --config=model.toml --until=2026-01-31T00:00:00
"""


def main(argv: Sequence[str] | None = None) -> Counters:
    """Entry point of ``python -m monobeam.pipelines.backfill``."""
    quiet()
    options, config = parse(argv, "backfill", __doc__ or "", EXAMPLE)
    standard = options.view_as(StandardOptions)
    if standard.streaming:
        raise SystemExit("backfill: a bounded run; leave out --streaming, or run monobeam.pipelines.online")
    ours = options.view_as(MonobeamOptions)
    check_features(config)
    check_store(config)
    if ours.slice is not None:
        check_slice(config, ours.slice, str(standard.runner))

    marks = None if ours.slice is None else Marks(config, ours.since, ours.slice)
    mark = marks.last() if marks else None
    if mark and ours.until is not None and mark.until_us >= ours.until:
        return _show_done(config, mark)

    started = time.monotonic()
    done: list[dict[str, Any]] = []
    counters = _run(options, config, Slices(config, ours.since, ours.until, ours.slice, mark), marks, done)
    if counters is None:  # submitted
        return {}
    advice = hand_over(config.join.window_us, ours.until)
    summary.show("backfill", time.monotonic() - started, counters, advice, slices=done)
    warn_without_positives(config, counters.get("train", {}))
    return counters


def _show_done(config: Config, mark: Mark) -> Counters:
    """Of a command that ends where slices before it have been, or earlier."""
    counters: Counters = {"join": {}, "train": {}}
    summary.show("backfill", 0, counters, f"done already: {hand_over(config.join.window_us, mark.until_us)}", slices=[])
    return counters


def _run(
    options: PipelineOptions, config: Config, slices: Slices, marks: Marks | None, done: list[dict[str, Any]]
) -> Counters | None:
    """Slice after slice; gives their counters together, and notes what each took."""
    progress = Progress("backfill", slices.records, time.monotonic())
    runner = str(options.view_as(StandardOptions).runner)
    total: Counters = {}
    with Shown(progress, None if runner == DATAFLOW else config.logs.metrics) as shown:
        for each in slices:
            began = time.monotonic()
            shown.begin(each.fresh, sum(span.stop - span.start for span in each.spans))
            counters = execute("backfill", partial(_build, config=config, part=each), options)
            if counters is None:
                return None
            total = summary.together(total, counters)
            if marks is not None and each.until_us is not None:
                marks.set(Mark(each.until_us, each.reached))
            done.append({"until": each.until_us, "records": each.fresh, "seconds": round(time.monotonic() - began, 3)})
    return total


def _build(pipeline: beam.Pipeline, config: Config, part: Slice) -> None:
    appended = join_logs(pipeline, config, since_us=part.since_us, until_us=part.until_us, spans=part.spans)
    partitions = (
        appended
        | "Written" >> beam.combiners.Count.Globally()
        | "Partitions" >> beam.FlatMap(_partitions, config.join.shards, config.training.parallel)
    )
    train_log(partitions, config, tailed=False)


def _partitions(written: int, shards: int, parallel: bool) -> Iterator[Partitions]:
    """All partitions of the examples log, by reader, once everything is in it."""
    yield from readers(range(shards), parallel)


if __name__ == "__main__":
    main()
