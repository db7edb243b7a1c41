from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monobeam.models.metrics import ScoreHistogram
from monobeam.serving.dashboard import Rate
from monobeam.serving.progress import ACTIONS, IMPRESSIONS, Progress
from monobeam.serving.series import Series
from tests.serving.world import World


def record(component: str, key: str, position: int = 0, scores: Any = None, **values: float) -> dict[str, Any]:
    arrays = {} if scores is None else scores.to_arrays()
    return {"component": component, "key": key, "position": position, "time": 0, "values": values, "arrays": arrays}


def scores(seed: int, skill: float, rows: int = 200) -> ScoreHistogram:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    return ScoreHistogram.of(skill * labels + rng.normal(size=rows), labels)


def counters(**changed: float) -> dict[str, float]:
    names = {"impressions", "actions", *IMPRESSIONS.values(), *ACTIONS.values()}
    return dict.fromkeys(names, 0.0) | {"negatives": 0.0} | changed


def test_the_last_record_of_each_shard_is_in_the_law() -> None:
    progress = Progress()
    progress.observe(record("join", "0", **counters(impressions=1, pending=1)))
    progress.observe(record("join", "0", **counters(impressions=10, examples=6, sampled_out=3, pending=1)))
    progress.observe(record("join", "1", **counters(impressions=5, impressions_duplicated=2, impressions_rejected=3)))
    law = progress.conservation()["impressions"]
    assert law == {
        "in": 15,
        "examples": 6,
        "sampled_out": 3,
        "pending": 1,
        "duplicated": 2,
        "rejected": 3,
        "sum": 15,
        "balanced": True,
    }


def test_a_lost_record_shows() -> None:
    progress = Progress()
    progress.observe(record("join", "0", **counters(actions=7, joined=3, unmatched=3)))
    law = progress.conservation()["actions"]
    assert (law["in"], law["sum"], law["balanced"]) == (7, 6, False)


def test_nothing_is_claimed_before_the_join_has_reported() -> None:
    law = Progress().conservation()["actions"]
    assert (law["in"], law["balanced"]) == (None, None)


def test_training_adds_up_and_repeats_do_not_count(world: World) -> None:
    progress, trained, ids = Progress(), 0, 0
    for seed in (1, 2, 3):
        world.commit(seed, rows=60 + seed, partition=seed % 2)
        trained, ids = trained + 60 + seed, ids + world.metrics["values"]["ids"]
        told = {"component": "train", "key": str(seed % 2), "position": seed, "time": 0, **world.metrics}
        for _ in range(2):
            progress.observe(told)
        training = progress.training()
        assert {name: training[name] for name in ("examples", "ids", "rows", "memory_bytes", "epoch")} == {
            "examples": trained,
            "ids": ids,
            "rows": world.store.rows,
            "memory_bytes": world.store.memory_bytes,
            "epoch": min(world.store.epochs),
        }


def test_models_are_compared_on_the_same_examples_only() -> None:
    progress = Progress()
    online = {position: scores(position, 1.5) for position in range(1, 6)}
    frozen = {position: scores(position, 0.5) for position in range(3, 6)}
    for position in range(1, 6):
        progress.observe(record("train", "0", position, online[position], examples=200))
    alone = progress.quality()
    assert alone["frozen_auc"] is None
    for position in (3, 4, 5):
        progress.observe(record("frozen", "0", position, frozen[position]))
    both = progress.quality()
    same = online[3].merge(online[4]).merge(online[5])
    assert both["online_auc"] == pytest.approx(same.auc())
    assert both["frozen_auc"] == pytest.approx(frozen[3].merge(frozen[4]).merge(frozen[5]).auc())
    assert both["lift"] == pytest.approx(same.auc() - both["frozen_auc"])
    assert both["examples"] == 600
    assert both["online_overall_auc"] == pytest.approx(alone["online_auc"])


def test_recent_quality_forgets() -> None:
    progress = Progress()
    for position in range(100):
        progress.observe(record("train", "0", position, scores(position, 0.0 if position < 40 else 3.0), examples=200))
    quality = progress.quality()
    assert quality["recent_examples"] == 10_000
    assert quality["online_recent_auc"] > 0.97 > quality["online_auc"]


@pytest.mark.parametrize("bad", [{}, record("train", "0", 1, examples=1) | {"arrays": {"positives": [1.0]}}])
def test_what_is_no_metrics_record_raises(bad: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Progress().observe(bad)


def test_series_stay_bounded_and_whole() -> None:
    series = Series(("a",), max_points=10)
    time_s = 0.0
    while time_s < 1000:
        if series.due(time_s):
            series.add(time_s, {"a": time_s})
        time_s += 0.5
    columns = series.columns()
    assert 4 < len(columns["time_s"]) < 10
    assert columns["time_s"] == columns["a"]
    gaps = np.diff(np.array(columns["time_s"], float))
    assert columns["time_s"][0] < 200
    assert columns["time_s"][-1] > 800
    assert gaps.max() < 2 * gaps.min() + 1


def test_rate_is_over_its_window() -> None:
    rate = Rate(window_s=10)
    assert rate.at(0, 100) is None
    assert rate.at(1_000_000, 150) == 50
    for second in range(2, 40):
        last = rate.at(second * 1_000_000, 150 + 7 * second)
    assert last == pytest.approx(7)
