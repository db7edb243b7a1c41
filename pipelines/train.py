"""Train the model on the examples log and publish what changes.

examples ─▶ train ─▶ parameter store
              └────▶ sync log ─▶ serving
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions

from monobeam.logs import schemas
from monobeam.models.config import Config
from monobeam.pipelines.check import check_examples, check_partitions
from monobeam.pipelines.options import MonobeamOptions, parse
from monobeam.pipelines.run import quiet, run
from monobeam.pipelines.summary import Counters
from monobeam.store.sync import SYNC
from monobeam.transforms.append import PASS_OVER, AppendLog
from monobeam.transforms.train import ExamplePartitions, Train, TrainSettings

EXAMPLE = """example:
  python -m monobeam.pipelines.train --config=model.toml --runner=PrismRunner --streaming
"""


def train_log(partitions: Any, config: Config, *, tailed: bool) -> None:
    """Examples log to parameter store, sync log and metrics; ``partitions`` are the examples log's."""
    logs, store = config.logs, config.store
    settings = TrainSettings(config, logs.examples, store.uri, store.commit_every_us, store.commit_every_us)
    trained = partitions | "Train" >> Train(settings, tailed)
    trained.sync | "AppendSync" >> AppendLog(logs.sync, SYNC, PASS_OVER)
    trained.metrics | "AppendTrainMetrics" >> AppendLog(logs.metrics, schemas.METRICS)


def main(argv: Sequence[str] | None = None) -> Counters:
    """Entry point of ``python -m monobeam.pipelines.train``."""
    quiet()
    options, config = parse(argv, "train", __doc__ or "", EXAMPLE)
    tailed = bool(options.view_as(StandardOptions).streaming)
    check_examples(config, tailed)
    numbers = options.view_as(MonobeamOptions).partitions or range(config.join.shards)
    check_partitions(config, numbers)

    def build(pipeline: beam.Pipeline) -> None:
        partitions = pipeline | "Partitions" >> ExamplePartitions(numbers)
        train_log(partitions, config, tailed=tailed)

    return run("train", build, options)


if __name__ == "__main__":
    main()
