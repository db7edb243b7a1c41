"""Join and train on the logs as they are now, in one bounded job: the same code, examples and parameters.

With --until=T impressions that are not decided by T stay pending; a streaming run with --since=T takes over from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions

from monobeam.pipelines.check import check_features, check_store, warn_without_positives
from monobeam.pipelines.join import join_logs
from monobeam.pipelines.options import MonobeamOptions, parse
from monobeam.pipelines.run import quiet, run
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
    if options.view_as(StandardOptions).streaming:
        raise SystemExit("backfill: a bounded run; leave out --streaming, or run monobeam.pipelines.online")
    ours = options.view_as(MonobeamOptions)
    check_features(config)
    check_store(config)

    def build(pipeline: beam.Pipeline) -> None:
        appended = join_logs(pipeline, config, tailed=False, since_us=ours.since, until_us=ours.until)
        partitions = (
            appended
            | "Written" >> beam.combiners.Count.Globally()
            | "Partitions" >> beam.FlatMap(_partitions, config.join.shards, config.training.parallel)
        )
        train_log(partitions, config, tailed=False)

    counters = run("backfill", build, options, hand_over(config.join.window_us, ours.until))
    warn_without_positives(config, counters.get("train", {}))
    return counters


def _partitions(written: int, shards: int, parallel: bool) -> Iterator[Partitions]:
    """All partitions of the examples log, by reader, once everything is in it."""
    yield from readers(range(shards), parallel)


if __name__ == "__main__":
    main()
