"""How long sightings of ids that are not admitted count, in the table and in the store's own counts."""

from __future__ import annotations

import numpy as np
import pytest

from monobeam.models.admission import Admission
from monobeam.models.config import Config, ConfigError
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import SIGHTINGS, TABLE
from monobeam.native import NONE, Table
from monobeam.store.bags import Bags
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SlotPolicy
from monobeam.store.store import Store
from tests.models.streams import START_US, block, config
from tests.models.trainers import opened

RULE = "admit_count = 3\nexpire = '100s'\npending = '10s'"
COMPOSE = 'tail = "compose"\ntail_rows = 7'


def of_user(rule: str) -> Config:
    return config(["user"], "dim = 2\nhidden = [4]", of_slots={"user": rule})


@pytest.mark.parametrize("tail", ["", COMPOSE])
@pytest.mark.parametrize(
    ("rule", "expire_s", "pending_s"),
    [
        (RULE, 100, 10),
        ("admit_count = 3\nexpire = '100s'", 100, 100),
        ("admit_count = 3", 0, 30 * 86_400),
        ("", 0, 30 * 86_400),  # sightings may be left from a rule that there was
    ],
)
def test_it_goes_to_the_tables(tail: str, rule: str, expire_s: int, pending_s: int) -> None:
    own, counts = of_user(f"{rule}\n{tail if rule else ''}").store_spec().tables
    assert own.policies == {1: SlotPolicy(expire_us=expire_s * 1_000_000)}
    assert counts.policies == {1: SlotPolicy(expire_us=pending_s * 1_000_000)}


@pytest.mark.parametrize("tail", ["", COMPOSE])
@pytest.mark.parametrize(("rule", "apart_s", "admitted"), [(RULE, 9, True), (RULE, 10, False)])
def test_three_sightings_within_time_admit(tail: str, rule: str, apart_s: int, admitted: bool) -> None:
    given = of_user(f"{rule}\n{tail}")
    trainer = opened(config=given)
    for number in range(3):
        trainer.train(block([1], {"user": ["u"]}, 1 + number * apart_s * 1000), 0, number)
    keys = FeatureEncoder(given).encode(block([1], {"user": ["u"]})).bags.keys
    assert trainer.store.known(TABLE, keys).tolist() == [admitted]


@pytest.mark.parametrize("rule", ["admit_count = 3", "admit_probability = 0.2"])
@pytest.mark.parametrize(
    "forgets", ["pending = '10s'\nexpire = '50s'", "pending = '50s'\nexpire = '10s'", "expire = '10s'"]
)
@pytest.mark.parametrize("expiry", [0, 1, 10**6], ids=["never", "slow", "at once"])
def test_counts_in_the_store_are_those_of_the_table_whenever_rows_expire(rule: str, forgets: str, expiry: int) -> None:
    given = of_user(f"{rule}\n{forgets}\n{COMPOSE}")
    slot = given.slots[0]
    native = Table(1, "sgd", {}, given.model.seed, 0.0)
    native.set_policy(1, slot.admit_count, slot.admit_probability, slot.expire_us // 10**6, slot.pending_us // 10**6)
    store = Store(given.store_spec(), MemoryBackend())
    admission, rng, waited = Admission(given, store), np.random.default_rng(2), 0
    for now_s in range(0, 400, 2):
        keys = np.uint64(1 << 48) | rng.integers(0, 60, 8).astype(np.uint64)
        native.expire_keys(keys, now_s)
        store.expire_keys(keys, now_s)
        expected = native.find_or_insert(keys, now_s) != NONE
        known = admission.admit(keys, now_s)
        # A call of the table tells of each sighting in turn, which is what the trainer's counts do.
        np.testing.assert_array_equal(known, expected)
        admitted = keys[known]
        store.pull(TABLE, Bags(admitted, np.arange(len(admitted) + 1)), now_s)
        waited += int((~known).sum())
        store.expire(now_s, expiry)
    assert waited > 100
    assert len(native) > 5


def test_forgotten_counts_are_gone_from_the_store() -> None:
    trainer = opened(config=of_user(f"{RULE}\n{COMPOSE}"))
    trainer.train(block([1, 0], {"user": ["a", "b"]}), 0, 0)
    assert len(trainer.store.host.shards[0].tables[SIGHTINGS]) == 2
    trainer.train(block([1], {"user": ["c"]}, 12_000), 0, 1)
    trainer.commit(START_US)
    assert len(trainer.store.host.shards[0].tables[SIGHTINGS]) == 1


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            "pending = '1h'",
            'slots[0].pending = "1h": no id waits: needs admit_count from 2, or admit_probability below 1',
        ),
        ("admit_count = 1\npending = '1h'", 'slots[0].pending = "1h": no id waits'),
        ("admit_count = 2\npending = '10ms'", 'slots[0].pending = "10ms": must be from "1s"'),
        ("admit_count = 2\npending = 5", "slots[0].pending = 5: not a duration"),
        (
            "admit_count = 2\npending = '1h'\ntail = 'narrow'",
            'slots[0].pending = "1h": with tail = "narrow" sightings are counted in the narrow rows',
        ),
    ],
)
def test_what_makes_no_sense_is_refused(rule: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        of_user(rule)
    assert said in str(error.value)
