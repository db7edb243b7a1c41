"""The command line of a cell, and whether the command refuses it."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr
from pathlib import Path

from benchmarks._portability.cells import REFUSED, Cell, Outcome
from monobeam.pipelines.options import USED, parse
from tests.end_to_end import traffic
from tests.pipelines.graphs import CLOUD, CONTAINER
from tests.pubsub import PROJECT

OUTPUTS = ("examples", "sync", "dead_letters", "metrics")
SCHEMAS = {"impressions": traffic.IMPRESSIONS, "actions": traffic.ACTIONS}
SHARDS = 2
RAW = "raw"
_CONFIG = traffic.CONFIG.replace('idle_after = "500ms"', 'idle_after = "2s"')
_CLOUD = [*CLOUD, *CONTAINER]


def describe(cell: Cell, folder: Path) -> None:
    """Write what the command line names. Pub/Sub keeps no order: there all waits until a subscription is idle."""
    config = _CONFIG.replace('disorder = "500ms"', 'disorder = "1m"') if cell.log == "Pub/Sub" else _CONFIG
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(config.format(policy="wait", shards=SHARDS))
    for name, schema in SCHEMAS.items():
        (folder / f"{name}.avsc").write_text(json.dumps(schema))


def addresses(cell: Cell, folder: Path, broker: str = "") -> dict[str, str]:
    """By option, all places of a trial in ``folder``; what all trials share is beside it. broker: HOST:PORT."""
    found = {name: log(cell.needs_broker, folder, name, broker) for name in OUTPUTS}
    if cell.pipeline == "train":
        found["examples"] = _source(cell, folder, examples_of(cell.log), "examples", broker)
    else:
        found |= {name: _source(cell, folder, RAW, name, broker) for name in SCHEMAS}
    if cell.only_built and cell.log != "file":
        return found | {"store": "bigtable://proj-ect/instance/table", "cold": "memory:"}
    return found | {name: f"lmdb:{folder / name}" for name in ("store", "cold")}


def _source(cell: Cell, folder: Path, owner: str, name: str, broker: str) -> str:
    """A log that all trials read; a subscription is a trial's own, as others get nothing that it acknowledges."""
    if cell.log == "Pub/Sub":
        schema = name if name in SCHEMAS else "impressions"
        return f"pubsub://{PROJECT}/{folder.name}-{name}?schema={folder / schema}.avsc"
    return log(cell.needs_broker, folder.parent / owner, name, broker)


def log(topic: bool, owner: Path, name: str, broker: str) -> str:
    """A log of a trial, or of several, by the folder that it is in or called after."""
    return f"kafka://{broker}/{owner.name}-{name}" if topic else f"file:{owner / name}"


def examples_of(kind: str) -> str:
    """The trial whose examples are those of all ``train`` cells with one kind of log."""
    return f"joined-{kind.lower()}"


def arguments(cell: Cell, folder: Path, places: dict[str, str], prism: str, cluster: str) -> list[str]:
    """The command line after the module's name. prism: its path; cluster: HOST:PORT of Flink's JobManager."""
    runners = {
        "in process": [],
        "Prism": ["--runner=PrismRunner", f"--prism_location={prism}"],
        "Flink, embedded": ["--runner=FlinkRunner", "--flink_master=[local]"],
        "Flink cluster": ["--runner=FlinkRunner", f"--flink_master={cluster}"],
        "Dataflow": _CLOUD,
    }
    used = [f"--{name}={place}" for name, place in places.items() if name in USED[cell.pipeline]]
    return [f"--config={folder / 'model.toml'}", *used, *runners[cell.runner], *["--streaming"] * cell.streaming]


def refused(cell: Cell, given: list[str]) -> Outcome | None:
    """What the command says if it ends before it does anything; None if it goes on."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parse(given, cell.pipeline, "", "")
    except SystemExit:
        return Outcome(REFUSED, _placeless(said.getvalue().rpartition("error: ")[2]))
    return None


def _placeless(said: str) -> str:
    """A message with words in the place of what differs from run to run."""
    said = re.sub(r"(pubsub://)[^\s\"]+?\.avsc", r"\1PROJECT/SUBSCRIPTION?schema=FILE.avsc", said.strip())
    said = re.sub(r"(kafka://)[^/]+/[\w-]+", r"\1HOST:PORT/TOPIC", said)
    return re.sub(r"((?:file|lmdb):)/[\w./-]+", r"\1DIRECTORY", said)
