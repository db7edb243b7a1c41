"""Raw records from Pub/Sub: the examples are the reference join's, whatever is delivered how often."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monobeam.logs.log import encode_records
from tests.end_to_end import reference, traffic
from tests.end_to_end.run import Run, law
from tests.pubsub import PROJECT, Topic

CONFIG = traffic.CONFIG.replace('disorder = "500ms"', 'disorder = "1m"').replace('"500ms"', '"2s"')
"""Pub/Sub keeps no order, so everything waits until a subscription is idle."""


@dataclass(frozen=True)
class Subscribed(Run):
    """A run whose raw records come from subscriptions."""

    options: tuple[str, ...] = ()

    def command(self, module: str, *options: str) -> list[str]:
        command = super().command(module, *options)
        return [part for part in command if not part.startswith(("--impressions=", "--actions="))] + list(self.options)


def payloads(schema: dict[str, Any], records: list[dict[str, Any] | None]) -> list[bytes]:
    text = json.dumps(schema)
    return [b"\xff\xff\xff" if record is None else encode_records(text, [record]) for record in records]


def test_an_online_job_on_subscriptions_is_the_reference_join(tmp_path: Path, new_topic: Callable[[], Topic]) -> None:
    made = traffic.make(seed=5, count=1000)
    rng = random.Random(5)
    topics, options = [], []
    for name, schema, records in (
        ("impressions", traffic.IMPRESSIONS, made.impressions),
        ("actions", traffic.ACTIONS, made.actions),
    ):
        (tmp_path / f"{name}.avsc").write_text(json.dumps(schema))
        topics.append(topic := new_topic())
        options.append(f"--{name}=pubsub://{PROJECT}/{topic.name}?schema={tmp_path / name}.avsc")
        shuffled = payloads(schema, [record for _, record in records])
        rng.shuffle(shuffled)
        topic.publish(shuffled)

    run = Run.create(tmp_path / "run", tmp_path, shards=2, policy="wait", config=CONFIG)
    run = Subscribed(run.folder, run.raw, run.shards, run.policy, tuple(options))
    examples, counts = reference.join(made)
    with run.streaming() as job:
        run.wait(job, lambda: len(run.examples()) == len(examples) and run.trained())
        run.wait(job, lambda: all(run.counters().get(name, 0) == count for name, count in counts.items()))
        run.wait(job, lambda: not any(topic.left() for topic in topics))
    assert reference.as_set(run.examples()) == examples
    assert run.update_counts() == dict(run.ids())
    law(run.counters())
    letters = run.dead_letters()
    refused = counts["unmatched"] + counts["impressions_rejected"] + counts["actions_rejected"]
    assert sum(letter["count"] for letter in letters) == refused
    assert {letter["log"] for letter in letters} <= {f"pubsub://{PROJECT}/{topic.name}" for topic in topics}
