"""Subscriptions on a Flink cluster: what was not in a checkpoint when workers were killed comes again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from examples.flink.cluster import Cluster
from tests.end_to_end import reference, traffic
from tests.end_to_end.run import Run
from tests.end_to_end.test_flink import Job, workers
from tests.end_to_end.test_pubsub import CONFIG, Subscribed, payloads
from tests.pubsub import PROJECT, Topic


def test_workers_are_killed_and_nothing_is_lost(flink: Cluster, tmp_path: Path, new_topic: Callable[[], Topic]) -> None:
    made = traffic.make(seed=5, count=2000)
    rng = random.Random(5)
    sent, options = [], []
    for name, schema, records in (
        ("impressions", traffic.IMPRESSIONS, made.impressions),
        ("actions", traffic.ACTIONS, made.actions),
    ):
        (tmp_path / f"{name}.avsc").write_text(json.dumps(schema))
        topic = new_topic()
        options.append(f"--{name}=pubsub://{PROJECT}/{topic.name}?schema={tmp_path / name}.avsc")
        shuffled = payloads(schema, [record for _, record in records])
        rng.shuffle(shuffled)
        sent.append((topic, shuffled))
    created = Run.create(tmp_path / "run", tmp_path, shards=2, policy="wait", config=CONFIG)
    run = Subscribed(created.folder, created.raw, created.shards, created.policy, tuple(options))
    examples, counts = reference.join(made)
    began = time.monotonic()
    job = Job(flink, run, made, run)
    with job.running("--parallelism=2"):
        for part in range(8):
            for topic, messages in sent:
                topic.publish(messages[part::8])
            time.sleep(0.3)
            if part == 4:
                job.wait(job.has_checkpoint)
                for worker in workers(flink):
                    os.kill(worker, signal.SIGKILL)
                print("killed", time.monotonic() - began)
        job.wait(lambda: len(run.examples()) == len(examples) and run.trained())
        print("all", time.monotonic() - began)
        job.wait(
            lambda: all(
                run.counters().get(name, 0) == count
                for name, count in counts.items()
                if "duplicated" not in name and name not in ("impressions", "actions")
            )
        )
        print("counters", time.monotonic() - began)
    assert reference.as_set(run.examples()) == examples
    assert run.update_counts() == dict(run.ids())
