"""Join and train in one streaming job: what people do now is in the model a moment later.

impressions ─┐
             ├─▶ join ─▶ examples ─▶ train ─▶ store, sync
actions ─────┘
"""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions

from monobeam.pipelines.check import check_features, check_store
from monobeam.pipelines.join import join_logs
from monobeam.pipelines.options import MonobeamOptions, parse
from monobeam.pipelines.run import quiet, run
from monobeam.pipelines.summary import Counters
from monobeam.pipelines.train import train_log
from monobeam.transforms.train import ExamplePartitions

EXAMPLE = """example:
  python -m monobeam.pipelines.online --config=model.toml --runner=PrismRunner --streaming
"""


def main(argv: Sequence[str] | None = None) -> Counters:
    """Entry point of ``python -m monobeam.pipelines.online``."""
    quiet()
    options, config = parse(argv, "online", __doc__ or "", EXAMPLE)
    if not options.view_as(StandardOptions).streaming:
        raise SystemExit("online: add --streaming, or run monobeam.pipelines.backfill on the logs up to their end")
    since = options.view_as(MonobeamOptions).since
    check_features(config, tailed=True)
    check_store(config)

    def build(pipeline: beam.Pipeline) -> None:
        join_logs(pipeline, config, since_us=since, until_us=None)
        # The trainer reads the examples log itself: see transforms/train.py.
        numbers = range(config.join.shards)
        partitions = pipeline | "Partitions" >> ExamplePartitions(numbers, config.training.parallel)
        train_log(partitions, config, tailed=True)

    return run("online", build, options)


if __name__ == "__main__":
    main()
