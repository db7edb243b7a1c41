"""Join impressions and actions into the examples log.

impressions ─┐
             ├─▶ read ─▶ join ─▶ examples
actions ─────┘     └──────┴──▶ dead letters
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions

from monobeam.join.settings import JoinSettings
from monobeam.logs import schemas
from monobeam.logs.log import open_log
from monobeam.models.config import Config
from monobeam.pipelines.check import check_features
from monobeam.pipelines.options import MonobeamOptions, parse
from monobeam.pipelines.run import quiet, run
from monobeam.pipelines.summary import Counters, hand_over
from monobeam.transforms.append import CUT, AppendLog
from monobeam.transforms.join import Join
from monobeam.transforms.read import ReadLogs, Tail

EXAMPLE = """example:
  python -m monobeam.pipelines.join --config=model.toml --runner=PrismRunner --streaming
"""


def join_logs(root: Any, config: Config, *, tailed: bool, since_us: int | None, until_us: int | None) -> Any:
    """Raw logs to the examples log; returns what was appended, ``(shard, offset, count)``."""
    logs = config.logs
    shards = config.join.shards
    raw = [("impressions", uri, _partitions(uri, logs.partitions)) for uri in logs.impressions]
    raw += [("actions", uri, _partitions(uri, logs.partitions)) for uri in logs.actions]
    settings = {shard: config.join_settings(shard, since_us, until_us) for shard in range(shards)}
    tail = Tail(logs.disorder_us, logs.idle_after_us, logs.poll_every_us, _first_needed(settings[0]))

    read = root | "ReadLogs" >> ReadLogs(raw, shards, tail, tailed)
    joined = read.blocks | "Join" >> Join(settings, config.join.cold, tailed)
    letters = (read.dead_letters, joined.dead_letters) | "DeadLetters" >> beam.Flatten()
    letters | "AppendDeadLetters" >> AppendLog(logs.dead_letters, schemas.DEAD_LETTERS, CUT)
    joined.metrics | "AppendJoinMetrics" >> AppendLog(logs.metrics, schemas.METRICS)
    return joined.examples | "AppendExamples" >> AppendLog(logs.examples, schemas.EXAMPLES)


def _first_needed(settings: JoinSettings) -> dict[str, int]:
    """The time from which each kind of raw log must be read; nothing for all of it."""
    first = {"impressions": settings.first_needed_us, "actions": settings.first_action_needed_us}
    return {kind: time_us for kind, time_us in first.items() if time_us is not None}


def _partitions(uri: str, expected: int) -> int:
    """How many partitions to read: what is there, and at least what the configuration expects."""
    return max([expected, *(number + 1 for number in open_log(uri).partitions())])


def main(argv: Sequence[str] | None = None) -> Counters:
    """Entry point of ``python -m monobeam.pipelines.join``."""
    quiet()
    options, config = parse(argv, "join", __doc__ or "", EXAMPLE)
    ours = options.view_as(MonobeamOptions)
    tailed = bool(options.view_as(StandardOptions).streaming)
    check_features(config, tailed)

    def build(pipeline: beam.Pipeline) -> None:
        join_logs(pipeline, config, tailed=tailed, since_us=ours.since, until_us=ours.until)

    return run("join", build, options, "" if tailed else hand_over(config.join.window_us, ours.until))


if __name__ == "__main__":
    main()
