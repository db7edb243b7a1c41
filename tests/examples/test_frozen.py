"""The frozen model reports on exactly the stretches that the trainer reported, once it has stopped learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from examples.movielens.frozen import Shadow
from monobeam.logs import block, schemas
from monobeam.logs.log import Log, open_log, records
from monobeam.models.config import Config, load
from monobeam.models.frozen import FrozenBaseline
from monobeam.models.metrics import ScoreHistogram

CONFIG: Config = load(Path(__file__).parents[2] / "examples" / "movielens" / "model.toml")
ROWS = 20


def examples(number: int) -> bytes:
    """A block in the form that the join gives it; half of it is liked."""
    keys = np.arange(ROWS, dtype=np.uint64) + number * ROWS
    times = np.full(ROWS, 1_700_000_000_000_000 + number * 50_000, np.int64)
    columns: dict[str, Any] = {
        "_key": keys,
        "_id": [f"r{key}" for key in keys],
        "_time": times,
        "_decided": times,
        "_kind": np.zeros(ROWS, np.uint8),
        "_weight": np.ones(ROWS, np.float32),
        "_rate": np.full(ROWS, 0.9, np.float32),
        "_arrival": times,
        "_label.like": (keys % 2).astype(np.float32),
        "user_id": [f"{key % 3}" for key in keys],
        "item_id": [f"{key % 4}" for key in keys],
        "genres": [["Drama"]] * ROWS,
    }
    return block.encode(block.label(pa.RecordBatch.from_pydict(columns), "examples", "0"))


def append(log: Log, numbers: range) -> None:
    with log.appender(0, schemas.EXAMPLES) as appender:
        appender.append([{"shard": 0, "tick": n, "count": ROWS, "block": examples(n)} for n in numbers])


def report(log: Log, position: int) -> None:
    record = {"component": "train", "key": "0", "position": position, "time": 1, "values": {}, "arrays": {}}
    with log.appender(0, schemas.METRICS) as appender:
        appender.append([record])


def frozen(log: Log) -> list[dict[str, Any]]:
    return [record for record in records(log.read(1, 0, 1000)) if record["component"] == "frozen"]


def test_learns_its_share_then_scores_each_stretch_that_was_trained(tmp_path: Path) -> None:
    log, metrics = open_log(f"file:{tmp_path}/examples"), open_log(f"file:{tmp_path}/metrics")
    shadow = Shadow(FrozenBaseline(CONFIG, 5 * ROWS), log, metrics)
    append(log, range(20))
    for position in (3, 6, 10):  # 5 blocks are learnt, so the stretch up to 6 is partly learnt and partly scored
        report(metrics, position)
        shadow.step(now_us=7)
    assert [(record["key"], record["position"]) for record in frozen(metrics)] == [("0", 10)]
    report(metrics, 15)
    report(metrics, 15)  # a trainer that starts again may say it twice
    report(metrics, 20)
    assert shadow.step(now_us=8) == 2
    found = frozen(metrics)
    assert [(record["position"], record["values"]["examples"]) for record in found] == [
        (10, 4 * ROWS),
        (15, 5 * ROWS),
        (20, 5 * ROWS),
    ]
    scores = ScoreHistogram.from_arrays(found[0]["arrays"])
    assert scores.positives.sum() == scores.negatives.sum() == 2 * ROWS


def test_waits_for_the_trainer(tmp_path: Path) -> None:
    log, metrics = open_log(f"file:{tmp_path}/examples"), open_log(f"file:{tmp_path}/metrics")
    shadow = Shadow(FrozenBaseline(CONFIG, 0), log, metrics)
    append(log, range(3))
    assert shadow.step(now_us=7) == 0
    report(metrics, 2)
    assert shadow.step(now_us=8) == 1
    assert frozen(metrics)[0]["values"]["examples"] == 2 * ROWS
