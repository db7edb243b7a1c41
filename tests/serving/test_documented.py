"""docs/formats.md, section Serving, says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from monobeam.logs.log import open_log
from monobeam.models.config import parse
from monobeam.serving import errors
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.dashboard import Dashboard
from monobeam.serving.flink import FlinkJob, JobFigures
from monobeam.serving.freshness import Freshness
from monobeam.serving.prometheus import exposition, registry
from monobeam.serving.replica import Replica
from monobeam.serving.served import ServedLog, avro_schema
from monobeam.serving.state import RequestFigures, ServerState
from tests.serving.world import CONFIG

FORMATS = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SERVING = re.split(r"^## ", FORMATS[FORMATS.index("\n## Serving\n") + 4 :], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.fixture
def state(tmp_path: Path) -> ServerState:
    config = parse(CONFIG)
    served = ServedLog(open_log(f"file:{tmp_path}"), 0, FeatureTypes(config))
    replica = Replica(config)
    replica._commit_seen(1)
    flink = FlinkJob("127.0.0.1:8081")
    flink.figures = JobFigures(
        "running", "", None, "job", 1, restarts=0, checkpoint_us=1, checkpoint_ms=2, checkpoint_bytes=3
    )
    return ServerState("test", 0, replica, Freshness(), RequestFigures(), served, flink)


def test_the_schema_of_the_served_log() -> None:
    types = FeatureTypes(parse(CONFIG))
    types.pinned.clear()
    documented = {row[0].strip("`"): row[1] for row in rows(SERVING.split("### ")[2]) if row[0].startswith("`")}
    written = {field["name"]: field["type"] for field in avro_schema(types)["fields"]}
    assert documented == {
        name: avro if isinstance(avro, str) else f"{avro['type']}, {avro['logicalType']}"
        for name, avro in written.items()
    }


def test_every_error_and_its_status() -> None:
    documented = {(row[1].strip("`"), row[0]) for row in rows(SERVING) if row[0].isdecimal()}
    kinds = errors.ServingError.__subclasses__()
    assert documented == {(kind.__name__, str(kind.status)) for kind in kinds}


def test_every_metric(state: ServerState) -> None:
    documented = set(re.findall(r"`(monobeam_\w+)", SERVING))
    text = exposition(registry(state, lambda: 1)).decode()
    assert documented == set(re.findall(r"^# TYPE (\w+)", text, flags=re.MULTILINE))


def test_every_figure(state: ServerState) -> None:
    documented = set(re.findall(r"`(\w+)`", SERVING[SERVING.index("`/stats.json` holds") :]))
    stats = json.loads(Dashboard(state, None, lambda: 1).stats)
    assert stats.keys() <= documented
    for key in ("freshness", "training", "replica", "requests", "served", "flink"):
        assert stats[key].keys() <= documented
