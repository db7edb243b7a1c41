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
from monobeam.logs.pubsub import is_subscription
from monobeam.models.config import Config
from monobeam.pipelines.check import check_features
from monobeam.pipelines.options import MonobeamOptions, parse
from monobeam.pipelines.run import quiet, run
from monobeam.pipelines.summary import Counters, hand_over
from monobeam.transforms.append import CUT, AppendLog
from monobeam.transforms.join import Join
from monobeam.transforms.pubsub import ReadSubscriptions, source
from monobeam.transforms.read import ReadLogs, Tail
from monobeam.transforms.spans import ReadSpans, Span, whole

EXAMPLE = """example:
  python -m monobeam.pipelines.join --config=model.toml --runner=PrismRunner --streaming
"""


def join_logs(
    root: Any, config: Config, *, since_us: int | None, until_us: int | None, spans: Sequence[Span] | None = None
) -> Any:
    """Raw logs to the examples log; returns what was appended, ``(shard, offset, count)``.

    ``spans``: what to read, in a bounded run; None: the logs are followed.
    """
    logs, tailed = config.logs, spans is None
    settings = {shard: config.join_settings(shard, since_us, until_us) for shard in range(config.join.shards)}
    tail = tail_of(config, since_us)

    blocks, undecodable, behind_us = _follow(root, config, tail) if spans is None else _read(root, config, spans)
    joined = blocks | "Join" >> Join(settings, config.join.cold, tailed, behind_us)
    letters = (*undecodable, joined.dead_letters) | "DeadLetters" >> beam.Flatten()
    letters | "AppendDeadLetters" >> AppendLog(logs.dead_letters, schemas.DEAD_LETTERS, CUT)
    joined.metrics | "AppendJoinMetrics" >> AppendLog(logs.metrics, schemas.METRICS)
    return joined.examples | "AppendExamples" >> AppendLog(logs.examples, schemas.EXAMPLES)


Read = tuple[Any, list[Any], int]
"""Blocks, and dead letters, of logs and subscriptions; by how much their watermark may be ahead of records."""


def _follow(root: Any, config: Config, tail: Tail) -> Read:
    shards = config.join.shards
    raw = [(kind, uri) for kind, uris in _raw(config) for uri in uris]
    subscriptions = [source(kind, uri) for kind, uri in raw if is_subscription(uri)]
    read, behind_us = [], 0
    if logs := raw_logs(config):
        read.append(root | "ReadLogs" >> ReadLogs(logs, shards, tail))
    if subscriptions:
        read.append(root | "ReadSubscriptions" >> (receive := ReadSubscriptions(subscriptions, shards, tail)))
        behind_us = receive.behind_us(root)
    blocks = [found["blocks"] for found in read]
    together = blocks[0] if len(blocks) == 1 else blocks | "Raw" >> beam.Flatten()
    return together, [found["dead_letters"] for found in read], behind_us


def _read(root: Any, config: Config, spans: Sequence[Span]) -> Read:
    read = root | "ReadLogs" >> ReadSpans(spans, config.join.shards)
    read.metrics | "AppendReadMetrics" >> AppendLog(config.logs.metrics, schemas.METRICS)
    return read.blocks, [read.dead_letters], 0


def raw_logs(config: Config) -> list[tuple[str, str, int]]:
    """The raw logs with offsets, as ``(kind, uri, partitions)``."""
    return [
        (kind, uri, _partitions(uri, config.logs.partitions))
        for kind, uris in _raw(config)
        for uri in uris
        if not is_subscription(uri)
    ]


def tail_of(config: Config, since_us: int | None) -> Tail:
    """How raw logs are followed by a run that takes over at a time, and from where they are read."""
    logs = config.logs
    needed = _first_needed(config.join_settings(0, since_us))
    return Tail(logs.disorder_us, logs.idle_after_us, logs.poll_every_us, needed)


def _raw(config: Config) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("impressions", config.logs.impressions), ("actions", config.logs.actions)


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

    spans = None if tailed else whole(raw_logs(config), tail_of(config, ours.since))

    def build(pipeline: beam.Pipeline) -> None:
        join_logs(pipeline, config, since_us=ours.since, until_us=ours.until, spans=spans)

    return run("join", build, options, "" if tailed else hand_over(config.join.window_us, ours.until))


if __name__ == "__main__":
    main()
