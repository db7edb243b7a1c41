"""The graphs that Dataflow would get, built by the commands as they are, without a connection to anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from monobeam.pipelines import backfill, dataflow, join, online, train
from tests.end_to_end import traffic

COMMANDS = {"join": join, "train": train, "online": online, "backfill": backfill}
IMAGE = "us-docker.pkg.dev/proj-ect/images/monobeam:1"
CLOUD = [
    "--runner=DataflowRunner",
    "--dry_run=True",
    "--no_auth",
    "--project=proj-ect",
    "--region=us-central1",
    "--temp_location=gs://bucket/tmp",
]
CONTAINER = [f"--sdk_container_image={IMAGE}", "--sdk_location=container"]
BROKER = "kafka://broker:9092"
OUTPUTS = {
    "join": {"examples", "dead_letters", "metrics", "cold"},
    "train": {"examples", "sync", "metrics", "store"},
}
OUTPUTS["online"] = OUTPUTS["backfill"] = OUTPUTS["join"] | OUTPUTS["train"]
ADDRESSES = {name: f"{BROKER}/{name}" for name in ("examples", "dead_letters", "metrics", "sync")} | {
    "cold": "memory:",
    "store": "bigtable://proj-ect/instance/table",
}


def arguments(command: str, folder: Path, parallel: bool = False) -> list[str]:
    """A description in a folder, and addresses that all workers reach, but for raw logs."""
    config = traffic.CONFIG.format(policy="wait", shards=2)
    (folder / "model.toml").write_text(config + "[training]\nparallel = true\n" * parallel)
    return [f"--config={folder}/model.toml", *(f"--{name}={ADDRESSES[name]}" for name in sorted(OUTPUTS[command]))]


def subscriptions(folder: Path) -> list[str]:
    """Raw logs in Pub/Sub."""
    for name, schema in (("impressions", traffic.IMPRESSIONS), ("actions", traffic.ACTIONS)):
        (folder / f"{name}.avsc").write_text(json.dumps(schema))
    return [f"--{name}=pubsub://proj-ect/{name}?schema={folder}/{name}.avsc" for name in ("impressions", "actions")]


def files(folder: Path) -> list[str]:
    """Raw logs in files; names of steps do not depend on the kind of log."""
    traffic.write(traffic.make(seed=1, count=20), folder)
    return [f"--{name}=file:{folder / name}" for name in ("impressions", "actions")]


def submit(command: str, options: Sequence[str], patch: pytest.MonkeyPatch) -> Any:
    """Run a command; gives what it hands to Dataflow."""
    handed: list[Any] = []
    submitted = dataflow.submitted

    def noted(result: Any, given: Any) -> Any:
        handed.append(result)
        return submitted(result, given)

    with patch.context() as patched:
        patched.setattr(dataflow, "submitted", noted)
        COMMANDS[command].main([*options, *CLOUD])
    return handed[0].job
