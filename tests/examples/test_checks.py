"""The demo's verdict turns on the numbers, each of them."""

from pathlib import Path

import pytest

from examples.movielens import checks, summary
from monobeam.models.trainer import Trainer
from monobeam.store.backend import open_backend
from monobeam.store.store import Store
from tests.models.streams import block, config
from tests.store.counts import update_count_sum

COUNTERS = {
    "impressions": 100,
    "examples": 80,
    "negatives": 30,
    "sampled_out": 10,
    "pending": 0,
    "impressions_duplicated": 6,
    "impressions_rejected": 4,
    "actions": 70,
    "joined": 50,
    "corrections": 8,
    "actions_duplicated": 5,
    "unmatched": 3,
    "waiting": 0,
    "actions_rejected": 4,
}
EXPECTED = {
    "impressions": 100,
    "shown": 90,
    "impressions_duplicated": 6,
    "impressions_rejected": 4,
    "actions": 70,
    "joined": 50,
    "corrections": 8,
    "actions_duplicated": 5,
    "unmatched": 3,
    "actions_rejected": 4,
}
FIGURES = {
    **COUNTERS,
    "auc_online": 0.7,
    "auc_frozen": None,
    "freshness_p50_ms": 200.0,
    "freshness_p99_ms": None,
    "requests": 5,
    "request_errors": 0,
    "request_p50_ms": 2.0,
    "request_p99_ms": 3.0,
    "sync_events": 9,
    "gaps": 0,
    "table_rows": 2000,
    "stretched_ms": 1500,
    "seconds": 180.0,
}


def test_laws_and_books_hold() -> None:
    assert all(check.holds for check in checks.conservation(COUNTERS) + checks.books(COUNTERS, EXPECTED))
    assert checks.decided(COUNTERS, EXPECTED)


@pytest.mark.parametrize("name", sorted(COUNTERS))
def test_any_other_count_breaks_a_law_or_the_books(name: str) -> None:
    wrong = {**COUNTERS, name: COUNTERS[name] + 1}
    found = checks.conservation(wrong) + checks.books(wrong, EXPECTED)
    broken = [check for check in found if not check.holds]
    assert broken
    assert all("BROKEN" in str(check) for check in broken)


def test_updates_of_a_store_with_tails_are_the_ids_trained_on(tmp_path: Path) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    rules = {"user": 'tail = "compose"\ntail_rows = 5\nadmit_count = 3', "item": 'tail = "narrow"\nadmit_count = 3'}
    settings = config(["user", "item", "shop"], of_slots=rules)
    trainer = Trainer(settings, Store(settings.store_spec(), open_backend(store)))
    ids = 0
    for offset in range(5):
        features = {name: [offset % 2, 7 * offset, 1] for name in ("user", "item", "shop")}
        ids += trainer.train(block([1, 0, 1], features, 1 + 3 * offset), 0, offset).ids
    trainer.commit(1)
    assert checks.updates_in_store(settings, store) == ids == 45
    assert update_count_sum(trainer.store) > ids
    trainer.store.close()


@pytest.mark.parametrize("name", ["pending", "waiting"])
def test_open_records_are_not_decided(name: str) -> None:
    assert not checks.decided({**COUNTERS, name: 1}, EXPECTED)


def test_nothing_is_decided_before_anything_has_come() -> None:
    assert not checks.decided({}, EXPECTED)
    assert not checks.decided({**COUNTERS, "actions": 69}, EXPECTED)


def test_summary_says_what_is_missing_and_what_is_broken() -> None:
    text = summary.text(FIGURES, {"seconds": 150}, ["BROKEN  something"])
    assert "AUC 0.7000 online, - frozen" in text
    assert "p50 200 ms, p99 -" in text
    assert "stretched by 1.5 s" in text
    assert "BROKEN  something" in text
