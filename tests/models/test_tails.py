from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.models.admission import Admission
from monobeam.models.compose import Composition
from monobeam.models.config import Config, ConfigError
from monobeam.models.embedding import TAILS
from monobeam.models.features import FeatureEncoder
from monobeam.models.rows import Lookups
from monobeam.models.tails import KINDS, NARROW, SIGHTINGS, TABLE, counts_ids, tables
from monobeam.models.trainer import Trainer
from monobeam.native import NONE, Table
from monobeam.store.backend import Backend, open_backend
from monobeam.store.bags import Bags
from monobeam.store.dense import decode
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SpecError
from monobeam.store.store import Store
from tests.models.plain_loop import PlainLoop
from tests.models.streams import START_US, block, config
from tests.models.trainers import rows_of

MODEL = "dim = 5\nhidden = [8]\nseed = 3"
TRAINING = "sparse = { learning_rate = 0.1 }\ndense = { learning_rate = 0.01 }"
COMPOSE, NARROW_TAIL = 'tail = "compose"\ntail_rows = 7', 'tail = "narrow"'


def tailed(**slots: str) -> Config:
    narrow = "\ntail_dim = 2" if any(NARROW_TAIL in rule for rule in slots.values()) else ""
    return config(["user", "item", "tags", "shop"], MODEL + narrow, TRAINING, ["price"], slots)


BOTH = tailed(
    user=f"{COMPOSE}\nadmit_count = 3",
    item=f"{NARROW_TAIL}\nadmit_count = 2\nadmit_probability = 0.5",
    tags=f"{COMPOSE}\nadmit_probability = 0.1",
)
CONFIGS = {
    "both": BOTH,
    "compose": tailed(user=f"{COMPOSE}\nadmit_count = 4", tags=f"{COMPOSE}\nadmit_probability = 0"),
    "narrow": tailed(item=f"{NARROW_TAIL}\nadmit_probability = 0", tags=f"{NARROW_TAIL}\nadmit_count = 5"),
    "none": tailed(item="admit_count = 2\nadmit_probability = 0.5", tags="admit_count = 4"),
}


def stream(blocks: int, rows: int = 16, seed: int = 5) -> list[pa.RecordBatch]:
    """Blocks whose ids repeat within rows, within blocks and over blocks, some often and some hardly ever."""
    rng, made = np.random.default_rng(seed), []
    for number in range(blocks):
        tags = [[f"t{t}" for t in rng.zipf(1.5, rng.integers(0, 5)) % 200] for _ in range(rows)]
        columns = {
            "user": [f"u{u}" for u in rng.integers(0, 60, rows)],
            "item": rng.zipf(1.5, rows),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "shop": rng.integers(0, 5, rows),
            "price": rng.normal(size=rows),
        }
        labels, weights = rng.random(rows) < 0.4, rng.choice([0.5, 1.0, 2.0], rows)
        made.append(block(labels, columns, 1 + number * rows, weights=weights))
    return made


BLOCKS = stream(12)


def opened(settings: Config, backend: Backend | None = None) -> Trainer:
    return Trainer(settings, Store(settings.store_spec(), backend or MemoryBackend()))


def trained(settings: Config, blocks: Sequence[pa.RecordBatch]) -> Trainer:
    trainer = opened(settings)
    for offset, each in enumerate(blocks):
        trainer.train(each, 0, offset)
    return trainer


def dense_of(trainer: Trainer) -> dict[str, bytes]:
    trainer.commit(START_US)
    state = trainer.store.dense()
    assert state is not None
    return {name: array.tobytes() for name, array in decode(state).items()}


def update_counts(trainer: Trainer) -> dict[str, Counter[int]]:
    counts: dict[str, Counter[int]] = {TABLE: Counter(), NARROW: Counter(), SIGHTINGS: Counter()}
    for (table, key), row in rows_of(trainer).items():
        counts[table][key] = int.from_bytes(row[-8:], "little")
    return counts


def ids_in(settings: Config, blocks: Sequence[pa.RecordBatch]) -> Counter[int]:
    encoder = FeatureEncoder(settings)
    return Counter(key for each in blocks for key in encoder.encode(each).bags.keys.tolist())


@pytest.mark.parametrize("kinds", CONFIGS)
def test_parameters_are_those_of_a_plain_torch_loop_bit_for_bit(kinds: str) -> None:
    settings, blocks = CONFIGS[kinds], stream(150)
    trainer, plain = trained(settings, blocks), PlainLoop(settings)
    for each in blocks:
        plain.step(each)
    counts = update_counts(trainer)
    for name in (TABLE, NARROW):
        assert counts[name] == plain.updates[name]
        keys = np.array(sorted(plain.rows[name]), np.uint64)
        if len(keys):
            found = trainer.store.lookup(name, Bags(keys, np.arange(len(keys) + 1)))
            assert np.array_equal(found, torch.stack([plain.rows[name][key] for key in keys.tolist()]).numpy())
    found_dense = dense_of(trainer)
    assert any("projection" in name for name in found_dense) == (kinds in ("both", "narrow"))
    for name, parameter in plain.model.named_parameters():
        assert found_dense[f"weight/{name}"] == parameter.detach().numpy().tobytes(), name
    waiting = {key for key in plain.sightings if key not in plain.admitted}
    assert waiting
    assert plain.admitted


WHOLE = rows_of(trained(BOTH, BLOCKS)), dense_of(trained(BOTH, BLOCKS))


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(["commit", "crash", "on"]), min_size=len(BLOCKS), max_size=len(BLOCKS)))
def test_commits_and_crashes_anywhere_change_nothing(
    kind: str, tmp_path_factory: pytest.TempPathFactory, happenings: list[str]
) -> None:
    place = tmp_path_factory.mktemp("store")
    memory = MemoryBackend()

    def started() -> Trainer:
        return opened(BOTH, memory if kind == "memory" else open_backend(f"lmdb:{place}"))

    trainer, offset = started(), 0
    for number, happening in enumerate(happenings):
        while offset <= number:
            trainer.train(BLOCKS[offset], 0, offset)
            offset += 1
        if happening == "commit":
            trainer.commit(START_US + number)
        if happening == "crash":
            trainer.store.close()
            trainer = started()
            offset = trainer.positions.get(0, 0)
    for rest in range(offset, len(BLOCKS)):
        trainer.train(BLOCKS[rest], 0, rest)
    assert (rows_of(trainer), dense_of(trainer)) == WHOLE
    trainer.store.close()


@pytest.mark.parametrize("kinds", CONFIGS)
def test_several_shards_equal_one_bit_for_bit(kinds: str) -> None:
    one = CONFIGS[kinds]
    several = replace(one, store=replace(one.store, shards=3))
    assert rows_of(trained(several, BLOCKS)) == rows_of(trained(one, BLOCKS))
    assert dense_of(trained(several, BLOCKS)) == dense_of(trained(one, BLOCKS))


@pytest.mark.parametrize("kinds", ["both", "compose", "narrow"])
def test_update_counts_add_up_to_the_ids_trained_on(kinds: str) -> None:
    settings, blocks = CONFIGS[kinds], stream(40)
    trainer, counts = opened(settings), Counter[int]()
    reports = [trainer.train(each, 0, offset) for offset, each in enumerate(blocks)]
    total = 0
    for table, updates in update_counts(trainer).items():
        keys = np.array(list(updates), np.uint64)
        counted = counts_ids(settings, table, keys)
        counts.update({key: updates[key] for key in keys[counted].tolist()})
        total += sum(updates[key] for key in keys[counted].tolist())
        of_partition = [[updates[key] for key in updates if key >> 63 and key >> 30 & 7 == p] for p in (0, 1)]
        assert sum(of_partition[0]) == sum(of_partition[1])
    ids = ids_in(settings, blocks)
    assert total == sum(report.ids for report in reports) == ids.total()
    of_narrow = {slot.slot for slot in settings.slots if slot.tail in ("narrow", "none")}
    assert all(counts[key] == count for key, count in ids.items() if key >> 48 in of_narrow)


@pytest.mark.parametrize(
    "rule", ["admit_count = 3", "admit_probability = 0.2", "admit_count = 2\nadmit_probability = 0.4"]
)
@pytest.mark.parametrize("tail", ["", COMPOSE, NARROW_TAIL])
def test_a_slot_with_whatever_tail_admits_the_ids_that_the_table_would(tail: str, rule: str) -> None:
    settings, blocks = tailed(tags=f"{tail}\n{rule}"), stream(12)
    slot = settings.slots[2]
    native = Table(1, "sgd", {}, settings.model.seed, 0.0)
    native.set_policy(slot.slot, slot.admit_count, slot.admit_probability)
    trainer = opened(settings)
    for offset, each in enumerate(blocks):
        keys = FeatureEncoder(settings).encode(each).bags.keys
        with_row = native.find_or_insert(keys, 0) != NONE
        trainer.train(each, 0, offset)
        assert trainer.store.known(TABLE, keys[with_row]).all()
        assert not (trainer.store.known(TABLE, keys) & (native.find(keys) == NONE)).any()
    pending = native.stats()["pending"]
    assert pending > 0
    assert len(update_counts(trainer)[SIGHTINGS]) == (0 if tail == NARROW_TAIL else pending)


def test_occurrences_of_one_block_are_sightings_in_order() -> None:
    settings = tailed(tags=f"{COMPOSE}\nadmit_count = 3")
    store = Store(settings.store_spec(), MemoryBackend())
    admission, a, b = Admission(settings, store), 3 << 48 | 1, 3 << 48 | 2
    assert admission.admit(np.array([a, b, a, a, a], np.uint64), 0).tolist() == [False, False, False, True, True]
    assert store.update_counts(SIGHTINGS, np.array([a, b], np.uint64)).tolist() == [0, 1]
    assert admission.admit(np.array([1 << 48, b, b], np.uint64), 0).tolist() == [True, False, True]
    assert admission.admit(np.array([], np.uint64), 0).tolist() == []
    assert not store.known(SIGHTINGS, np.array([b], np.uint64)).any()


def test_shared_rows_are_told_apart_and_clash_with_no_value() -> None:
    settings = tailed(
        user='tail = "compose"\ntail_rows = 1000\nadmit_count = 2',
        tags='tail = "compose"\ntail_rows = 1000\nadmit_count = 2',
    )
    values = np.arange(20_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) & np.uint64(2**48 - 1)
    pairs = []
    for place in (0, 2):
        slot = settings.slots[place]
        keys = values | np.uint64(slot.slot << 48)
        expanded = Composition(settings, slot).expanded(Bags(keys, np.arange(len(keys) + 1)))
        assert expanded.offsets.tolist() == list(range(0, 2 * len(keys) + 1, 2))
        pairs.append(expanded.keys.reshape(-1, 2))
    fids = np.concatenate(pairs)
    assert (fids >> np.uint64(63) == 1).all()
    assert (fids >> np.uint64(48) & np.uint64(2**15 - 1) == 0).all()
    assert len(np.unique(fids)) == 2 * 2 * 1000
    # Two in a million pairs are alike by chance: of 20,000 ids some 200 with another.
    assert len(np.unique(pairs[0], axis=0)) > 19_700


def test_an_unadmitted_id_is_composed_and_an_admitted_one_is_its_row() -> None:
    settings = tailed(user=f"{COMPOSE}\nadmit_count = 2")
    trainer = opened(settings)
    trainer.train(block([1, 0, 1], {"user": ["often", "often", "once"]}), 0, 0)
    often, once, never = (
        FeatureEncoder(settings).encode(block([0], {"user": [name]})).bags for name in ("often", "once", "never")
    )
    look = Lookups(trainer.store)
    vectors = [trainer.model.embedding(bags, look)[0, 0] for bags in (often, once)]
    assert torch.equal(vectors[0], look.pooled(TABLE, often)[0])
    composed = Composition(settings, settings.slots[0]).expanded(Bags(once.keys, np.array([0, 1])))
    assert torch.equal(vectors[1], look.pooled(TABLE, composed)[0])
    assert vectors[1].abs().sum() > 0
    assert look.known(never.keys).tolist() == [False]


@pytest.mark.parametrize("kinds", CONFIGS)
def test_a_bag_s_vector_has_the_same_bits_whatever_other_bags_there_are(kinds: str) -> None:
    settings = CONFIGS[kinds]
    trainer = trained(settings, BLOCKS)
    encoder, look, embed = FeatureEncoder(settings), Lookups(trainer.store), trainer.model.embedding
    whole = embed(encoder.encode(BLOCKS[0]).bags, look)
    rows = [embed(encoder.encode(BLOCKS[0].slice(row, 1)).bags, look) for row in range(16)]
    assert torch.equal(torch.cat(rows, 1), whole)
    each = 16
    for place in range(len(settings.slots)):
        bags = encoder.encode(BLOCKS[0]).bags.part(place * each, (place + 1) * each)
        assert torch.equal(embed(bags, look, [place])[0], whole[place])


def test_promotion_adds_an_initial_row_to_the_narrow_one() -> None:
    settings = tailed(user=f"{NARROW_TAIL}\nadmit_count = 3")
    trainer, look = opened(settings), None
    one = {"user": ["u"]}
    for offset in range(2):
        trainer.train(block([1], one, 1 + offset), 0, offset)
    bags = FeatureEncoder(settings).encode(block([0], one)).bags
    look = Lookups(trainer.store)
    before = trainer.model.embedding(bags, look)[0, 0].detach()
    own = Bags(bags.keys, np.array([0, 1]))
    trainer.store.pull(TABLE, own, 0)  # what promotion does before the row learns
    after = trainer.model.embedding(bags, look)[0, 0].detach()
    assert torch.equal(after, before + look.pooled(TABLE, own)[0])
    assert 0 < (after - before).abs().max() <= settings.model.init_scale


def test_idle_ids_of_a_tail_are_forgotten_and_shared_rows_stay() -> None:
    hour = 'expire = "1h"'
    settings = tailed(user=f"{COMPOSE}\nadmit_count = 3\n{hour}", item=f"{NARROW_TAIL}\nadmit_count = 2\n{hour}")
    trainer = opened(settings)
    trainer.train(block([1, 0], {"user": ["a", "b"], "item": [1, 2]}), 0, 0)
    trainer.train(block([1, 0], {"shop": [1, 2]}, first_key=20_000_000), 0, 1)
    trainer.commit(START_US)
    counts = update_counts(trainer)
    assert counts[SIGHTINGS] == counts[NARROW] == Counter()
    assert len([key for key in counts[TABLE] if key >> 63]) > 0
    assert len(counts[TABLE]) == len([key for key in counts[TABLE] if key >> 63 or key >> 48 == 4])


def test_the_tables_are_those_that_the_tails_need() -> None:
    own, narrow, sightings = (TABLE, 6, True), (NARROW, 3, True), (SIGHTINGS, 0, False)
    assert [(spec.name, spec.dim, spec.synced) for spec in tables(tailed())] == [own, sightings]
    assert [(spec.name, spec.dim, spec.synced) for spec in BOTH.store_spec().tables] == [own, narrow, sightings]
    assert set(TAILS) | {"none"} == set(KINDS)


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        ('tail = "qr"', 'slots[0].tail = "qr": must be one of none, compose, narrow'),
        (
            'tail = "compose"',
            'slots[0].tail = "compose": every id would get its own row at once: needs admit_count from 2',
        ),
        ('tail = "narrow"\nadmit_count = 1', 'slots[0].tail = "narrow": every id would get'),
        (
            'tail = "narrow"\nadmit_count = 2\ntail_rows = 9',
            'slots[0].tail_rows = 9: tail = "narrow" has no shared rows',
        ),
        ("tail_rows = 9", 'slots[0].tail_rows = 9: tail = "none" has no shared rows'),
        (
            'tail = "compose"\nadmit_count = 2\ntail_rows = 0',
            "slots[0].tail_rows = 0: must be a whole number from 1 to 1073741824",
        ),
    ],
)
def test_a_tail_that_makes_no_sense_is_refused(slot: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        tailed(user=slot)
    assert said in str(error.value)


def test_narrow_is_narrower_than_wide() -> None:
    with pytest.raises(ConfigError, match=r"model\.tail_dim = 4: must be below model\.dim, 4, to be narrow"):
        config(["user"], "dim = 4", of_slots={"user": f"{NARROW_TAIL}\nadmit_count = 2"})
    assert config(["user"], "dim = 2").model.tail_dim == 4  # of no use there
    with pytest.raises(ConfigError, match=r'model\.tail_dim = 2: no slot has tail = "narrow"'):
        config(["user"], "dim = 4\ntail_dim = 2", of_slots={"user": f"{COMPOSE}\nadmit_count = 2"})


def test_the_default_number_of_shared_rows() -> None:
    assert tailed(user='tail = "compose"\nadmit_count = 2').slots[0].tail_rows == 1000


RULE = "admit_count = 3"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (RULE, f"{RULE}\n{COMPOSE}", "tails.1 is not there, and 'compose of 7 rows' here"),
        (f"{RULE}\n{COMPOSE}", RULE, "tails.1 is 'compose of 7 rows' there, and not here"),
        (f"{RULE}\n{COMPOSE}", f"{RULE}\n{NARROW_TAIL}", "tails.1 is 'compose of 7 rows' there and 'narrow' here"),
        (f"{RULE}\n{NARROW_TAIL}", RULE, "tails.1 is 'narrow' there, and not here"),
        (f"{RULE}\n{COMPOSE}", f"{RULE}\n{COMPOSE}0", "is 'compose of 7 rows' there and 'compose of 70 rows' here"),
    ],
)
def test_a_tail_cannot_be_changed(before: str, after: str, said: str) -> None:
    """Though another slot has the same tables: what was learnt of one tail means nothing to another."""
    others, backend = {"item": f"{RULE}\n{COMPOSE}", "tags": f"{RULE}\n{NARROW_TAIL}"}, MemoryBackend()
    trainer = opened(tailed(user=before, **others), backend)
    trainer.train(BLOCKS[0], 0, 0)
    trainer.commit(START_US)
    trainer.store.close()
    with pytest.raises(SpecError) as error:
        opened(tailed(user=after, **others), backend)
    assert said in str(error.value)


def test_the_first_narrow_tail_needs_its_table() -> None:
    backend = MemoryBackend()
    trainer = opened(tailed(user=RULE), backend)
    trainer.train(BLOCKS[0], 0, 0)
    trainer.commit(START_US)
    trainer.store.close()
    with pytest.raises(SpecError) as error:
        opened(tailed(user=f"{RULE}\n{NARROW_TAIL}"), backend)
    assert "holds another store: tables.narrow is not there, tails.1 is not there, and 'narrow' here;" in str(
        error.value
    )


@pytest.mark.parametrize("rules", [("", RULE), (RULE, ""), (RULE, "admit_probability = 0.5")])
def test_a_rule_can_be_changed_and_leaves_nothing_behind(rules: tuple[str, str]) -> None:
    backend = MemoryBackend()
    trainer = opened(tailed(user=f"{rules[0]}\nexpire = '1h'"), backend)
    trainer.train(BLOCKS[0], 0, 0)
    trainer.commit(START_US)
    trainer.store.close()
    trainer = opened(tailed(user=f"{rules[1]}\nexpire = '1h'"), backend)
    trainer.train(BLOCKS[1], 0, 1)
    trainer.train(block([1, 0], {"shop": [1, 2]}, first_key=20_000_000), 0, 2)
    trainer.commit(START_US)
    counts = update_counts(trainer)
    assert counts[SIGHTINGS] == Counter()
    assert {key >> 48 for key in counts[TABLE]} == {2, 3, 4}
