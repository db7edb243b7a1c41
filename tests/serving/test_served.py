from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from monobeam.logs.log import Appender, LockedError, Log, open_log, records
from monobeam.models.config import parse as parse_config
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.dashboard import Dashboard
from monobeam.serving.freshness import Freshness
from monobeam.serving.prometheus import exposition, registry
from monobeam.serving.replica import Replica
from monobeam.serving.served import ServedLog, Shown
from monobeam.serving.state import RequestFigures, ServerState
from tests.serving.world import CONFIG


def types() -> FeatureTypes:
    return FeatureTypes(parse_config(CONFIG))


def shown(number: int, items: Sequence[Mapping[str, Any]] = ({"item_id": 7, "price": 1.5}, {"item_id": 8})) -> Shown:
    return Shown(
        time_us=1_700_000_000_000_000 + number,
        request_id=f"r{number}",
        model="test",
        model_version="12.3",
        user={"user_id": 5},
        candidates=tuple(items),
        impression_ids=tuple(f"{number}-{place}" for place in range(len(items))),
        scores=tuple(0.5 / (place + 1) for place in range(len(items))),
    )


def read(log: Log, partition: int = 0) -> list[dict[str, Any]]:
    return records(log.read(partition, 0, 1_000_000))


def test_what_was_shown_is_in_the_log_when_it_stops(tmp_path: Path) -> None:
    log, known = open_log(f"file:{tmp_path}"), types()
    known.pin([("user_id", pa.int64()), ("item_id", pa.int64())])
    served = ServedLog(log, 0, known)
    served.start()
    assert all(served.offer(shown(number)) for number in range(100))
    served.stop()
    found = read(log)
    assert [record["impression_id"] for record in found] == [f"{n}-{p}" for n in range(100) for p in range(2)]
    first, second = found[:2]
    assert {name: first[name] for name in ("request_id", "model", "model_version", "propensity")} == {
        "request_id": "r0",
        "model": "test",
        "model_version": "12.3",
        "propensity": 1.0,
    }
    assert (first["user_id"], first["item_id"], first["price"], first["position"], first["score"]) == (
        5,
        7,
        1.5,
        0,
        0.5,
    )
    assert (second["item_id"], second["price"], second["position"]) == (8, None, 1)
    assert (served.logged, served.pending, served.dropped) == (200, 0, 0)


def test_a_type_that_becomes_known_is_in_the_schema_from_then_on(tmp_path: Path) -> None:
    log, known = open_log(f"file:{tmp_path}"), types()
    known.pin([("item_id", pa.int64())])
    served = ServedLog(log, 0, known)
    served.offer(shown(1))
    served._flush()
    known.pin([("user_id", pa.int64()), ("tags", pa.list_(pa.string()))])
    served.offer(shown(2, [{"item_id": 1, "tags": ["a", "b"]}]))
    served.stop()
    found = read(log)
    assert ["user_id" in record for record in found] == [False, False, True]
    assert found[2]["tags"] == ["a", "b"]


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    served = ServedLog(open_log(f"file:{tmp_path}"), 0, types(), max_pending=5)
    assert [served.offer(shown(number)) for number in range(4)] == [True, True, False, False]
    assert (served.pending, served.dropped) == (4, 4)
    served.stop()
    assert (served.logged, served.dropped) == (4, 4)


def test_what_cannot_be_written_now_is_written_later(tmp_path: Path) -> None:
    log = open_log(f"file:{tmp_path}")
    other: Appender = log.appender(0, {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]})
    served = ServedLog(log, 0, types())
    served.offer(shown(1))
    try:
        served._flush()
    except LockedError:
        other.close()
    assert (served.logged, served.pending) == (0, 2)
    served.stop()
    assert (served.logged, served.pending, len(read(log))) == (2, 0, 2)


class BrokenLog:
    """A log that cannot be written for now."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.broken = True

    def appender(self, partition: int, schema: Mapping[str, Any]) -> Appender:
        if self.broken:
            raise OSError("disk full")
        return self.log.appender(partition, schema)


def test_while_the_log_fails_nothing_is_promised_and_everyone_is_told(tmp_path: Path) -> None:
    log = BrokenLog(open_log(f"file:{tmp_path}"))
    served = ServedLog(cast(Log, log), 0, types())
    replica, freshness = Replica(parse_config(CONFIG)), Freshness()
    state = ServerState("test", 0, replica, freshness, RequestFigures(), served)
    dashboard, metrics = Dashboard(state, None, lambda: 10**6), registry(state, lambda: 10**6)
    assert served.offer(shown(1))
    served._thread._once()
    assert not served.offer(shown(2))
    dashboard.step()
    assert json.loads(dashboard.stats)["served"] == {
        "logged": 0,
        "pending": 2,
        "dropped": 2,
        "error": "OSError: disk full",
    }
    assert b"monobeam_served_log_failing 1.0" in exposition(metrics)
    log.broken = False
    served._thread._once()
    assert served.offer(shown(3))
    assert served.error is None
    assert b"monobeam_served_log_failing 0.0" in exposition(metrics)
    served.stop()
    assert [record["request_id"] for record in read(log.log)] == ["r1", "r1", "r3", "r3"]


def test_an_own_feature_takes_the_place_of_a_served_field(tmp_path: Path) -> None:
    config = parse_config(CONFIG + '\n[[slots]]\nfeature = "position"\n'.replace("\n", "\n"))
    known = FeatureTypes(config)
    known.pin([("position", pa.string())])
    log = open_log(f"file:{tmp_path}")
    served = ServedLog(log, 0, known)
    served.offer(shown(1, [{"position": "top"}]))
    served.stop()
    assert read(log)[0]["position"] == "top"
