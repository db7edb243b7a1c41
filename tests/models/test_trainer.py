from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.tails import TABLE
from monobeam.models.trainer import Trainer
from monobeam.store.dense import decode
from monobeam.store.memory import MemoryBackend
from tests.models.plain_loop import PlainLoop
from tests.models.streams import START_US, block, config
from tests.models.trainers import SETTINGS, assert_equal, opened, parameters, stream
from tests.store.counts import update_count_sum

# 16 examples a block: the warm-ups end in the 5th, the schedules in the 221st and the 11th.
SCHEDULED = config(
    ["user", "item", "tags"],
    "dim = 4\nhidden = [8]\nseed = 3",
    "sparse = { learning_rate = 0.1, clip_norm = 0.3, weight_decay = 0.01, "
    'schedule = { kind = "polynomial", warmup = 70, examples = 3460, end_rate = 0.01 } }\n'
    "dense = { learning_rate = 0.01, clip_norm = 2, weight_decay = 0.001, "
    'schedule = { kind = "polynomial", warmup = 70, examples = 100 } }',
    ["price"],
)


def trained(blocks: Sequence[pa.RecordBatch], config: Config = SETTINGS) -> Trainer:
    trainer = opened(config=config)
    for offset, each in enumerate(blocks):
        trainer.train(each, 0, offset)
    return trainer


@pytest.mark.parametrize("settings", [SETTINGS, SCHEDULED], ids=["plain", "scheduled, clipped, decayed"])
def test_parameters_are_those_of_a_plain_torch_loop_bit_for_bit(settings: Config) -> None:
    blocks = stream(300)
    trainer, plain = trained(blocks, settings), PlainLoop(settings)
    for each in blocks:
        plain.step(each)
    got = parameters(trainer, blocks)
    rows = plain.rows[TABLE]
    assert got["keys"].tolist() == sorted(rows)
    assert np.array_equal(got["rows"], torch.stack([rows[key] for key in sorted(rows)]).numpy())
    for name, parameter in plain.model.named_parameters():
        assert np.array_equal(got[f"weight/{name}"], parameter.detach().numpy()), name
        if parameter.requires_grad:
            assert np.array_equal(got[f"exp_avg_sq/{name}"], plain.adam.state[parameter]["exp_avg_sq"].numpy()), name


BLOCKS = stream(12)
WHOLE = parameters(trained(BLOCKS), BLOCKS)
WHOLE_SCHEDULED = parameters(trained(BLOCKS, SCHEDULED), BLOCKS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["commit", "crash", "on"]), min_size=len(BLOCKS), max_size=len(BLOCKS)), st.booleans())
def test_commits_and_crashes_anywhere_change_nothing(happenings: list[str], scheduled: bool) -> None:
    config, whole = (SCHEDULED, WHOLE_SCHEDULED) if scheduled else (SETTINGS, WHOLE)
    backend = MemoryBackend()
    trainer = opened(backend, config)
    offset = 0
    for number, happening in enumerate(happenings):
        while offset <= number:
            trainer.train(BLOCKS[offset], 0, offset)
            offset += 1
        if happening == "commit":
            trainer.commit(START_US + number)
        if happening == "crash":
            trainer.store.close()
            trainer = opened(backend, config)
            offset = trainer.positions.get(0, 0)
    for rest in range(offset, len(BLOCKS)):
        trainer.train(BLOCKS[rest], 0, rest)
    ids = sum(len(FeatureEncoder(SETTINGS).encode(each).bags.keys) for each in BLOCKS)
    assert update_count_sum(trainer.store) == ids
    assert_equal(parameters(trainer, BLOCKS), whole)


def test_records_that_come_again_change_nothing() -> None:
    trainer = opened()
    for offset, each in enumerate(BLOCKS):
        trainer.train(each, 0, offset)
        report = trainer.train(BLOCKS[offset // 2], 0, offset // 2)
        assert (report.skipped, report.examples) == (BLOCKS[0].num_rows, 0)
    assert_equal(parameters(trainer, BLOCKS), WHOLE)


def test_examples_that_come_again_in_other_blocks_change_nothing() -> None:
    trainer, offset = opened(), 0
    for number, each in enumerate(BLOCKS):
        previous = BLOCKS[max(number - 1, 0)].slice(3, 5)
        parts = [each, previous] if number == 0 else [previous, each]
        for again in (pa.Table.from_batches(parts).combine_chunks().to_batches()[0], previous):
            report = trainer.train(again, 0, offset)
            offset += 1
            assert report.examples + report.repeated == again.num_rows
    assert_equal(parameters(trainer, BLOCKS), WHOLE)


def test_update_counts_count_ids() -> None:
    trainer = opened()
    reports = [trainer.train(each, 0, offset) for offset, each in enumerate(BLOCKS)]
    assert sum(report.ids for report in reports) == update_count_sum(trainer.store) > 0
    _, metrics = trainer.commit(START_US)
    assert metrics["values"]["ids"] == update_count_sum(trainer.store)
    assert metrics["values"]["examples"] == sum(each.num_rows for each in BLOCKS)


def test_scores_are_made_before_learning() -> None:
    first, again = trained(BLOCKS[:6]), trained(BLOCKS[:6])
    expected = first.score(BLOCKS[6])
    again.commit(START_US)
    again.train(BLOCKS[6], 0, 6)
    _, metrics = again.commit(START_US)
    labels, weights = (np.asarray(BLOCKS[6].column(name)) for name in ("_label.like", "_weight"))
    histogram = ScoreHistogram.from_arrays(metrics["arrays"])
    # Ids that are new count as zeros for score() and as small initial values in training: within a bin or two.
    assert histogram.log_loss() == pytest.approx(ScoreHistogram.of(expected, labels, weights).log_loss(), rel=0.02)
    after = ScoreHistogram.of(again.score(BLOCKS[6]), labels, weights)
    assert after.log_loss() < histogram.log_loss()


def test_corrections_train_but_are_not_scored_and_can_be_passed_over() -> None:
    late = block([1, 1, 0, 1], {"user": ["u1"] * 4, "item": [1] * 4}, kinds=[2, 0, 1, 2])
    trainer = opened()
    report = trainer.train(late, 0, 0)
    assert (report.examples, report.corrections, report.passed_over) == (4, 2, 0)
    _, metrics = trainer.commit(START_US)
    assert ScoreHistogram.from_arrays(metrics["arrays"]).weight == 2
    skipping = replace(SETTINGS, training=replace(SETTINGS.training, corrections="skip"))
    report = opened(config=skipping).train(late, 0, 0)
    assert (report.examples, report.corrections, report.passed_over) == (2, 0, 2)


def test_a_commit_gives_events_once_and_dense_weights_at_their_own_pace() -> None:
    settings = replace(SETTINGS, store=replace(SETTINGS.store, dense_sync_every_us=1_000_000))
    trainer = opened(config=settings)
    assert trainer.commit(START_US)[0] == []
    dense = []
    for number in range(4):
        trainer.train(BLOCKS[number], 0, number)
        (event,), _ = trainer.commit(START_US + number * 400_000)
        dense.append(event.dense is not None)
        assert len(event.tables[TABLE].keys) > 0
        arrivals = np.asarray(BLOCKS[number].column("_arrival"))
        assert event.arrivals.tolist() == arrivals[arrivals > 0].tolist()
    assert dense == [True, False, False, True]
    assert trainer.commit(START_US + 2_000_000)[0] == []


def test_dense_weights_that_waited_are_published_without_new_examples() -> None:
    settings = replace(SETTINGS, store=replace(SETTINGS.store, dense_sync_every_us=1_000_000))
    trainer = opened(config=settings)
    for number in range(2):
        trainer.train(BLOCKS[number], 0, number)
        trainer.commit(START_US + number)
    (event,), _ = trainer.commit(START_US + 1_500_000)
    assert event.dense is not None


def test_a_clock_that_is_put_back_does_not_keep_dense_weights_from_serving() -> None:
    settings = replace(SETTINGS, store=replace(SETTINGS.store, dense_sync_every_us=1_000_000))
    trainer = opened(config=settings)
    trainer.train(BLOCKS[0], 0, 0)
    trainer.commit(START_US + 3_600_000_000)
    trainer.train(BLOCKS[1], 0, 1)
    (event,), _ = trainer.commit(START_US)
    assert event.dense is not None


def test_blocks_of_nothing_new_move_the_position_on() -> None:
    backend = MemoryBackend()
    trainer = opened(backend)
    trainer.train(BLOCKS[0], 3, 0)
    trainer.train(BLOCKS[0], 3, 1)
    trainer.train(BLOCKS[0].slice(0, 0), 3, 2)
    trainer.commit(START_US)
    trainer.store.close()
    assert opened(backend).positions == {3: 3}


def test_a_store_of_another_model_is_refused() -> None:
    backend = MemoryBackend()
    trainer = opened(backend)
    trainer.train(BLOCKS[0], 0, 0)
    trainer.commit(START_US)
    trainer.store.close()
    wider = replace(SETTINGS, model=replace(SETTINGS.model, hidden=(16,)))
    with pytest.raises(ValueError, match=r"deep\.0\.weight.*\(8, 13\).*\(16, 13\)"):
        opened(backend, wider)


def planted(blocks: int, rows: int = 100) -> list[pa.RecordBatch]:
    """Whether someone likes something depends on the pair alone: each of both on its own says nothing."""
    rng = np.random.default_rng(11)
    taste, theme = rng.normal(size=(30, 3)), rng.normal(size=(30, 3))
    made = []
    for number in range(blocks):
        user, item = rng.integers(0, 30, (2, rows))
        labels = rng.random(rows) < 1 / (1 + np.exp(-2 * (taste[user] * theme[item]).sum(1)))
        made.append(block(labels, {"user": user, "item": item}, 1 + number * rows))
    return made


def progressive(kind: str, blocks: Sequence[pa.RecordBatch]) -> ScoreHistogram:
    model = f'kind = "{kind}"\ndim = 4\nhidden = [16]\ninit_scale = 0.1'
    trainer = opened(config=config(["user", "item"], model, "sparse = { learning_rate = 0.2 }"))
    for offset, each in enumerate(blocks):
        if offset == len(blocks) // 2:
            trainer.commit(START_US)
        trainer.train(each, 0, offset)
    return ScoreHistogram.from_arrays(trainer.commit(START_US)[1]["arrays"])


def test_deepfm_learns_what_logistic_regression_cannot() -> None:
    blocks = planted(200)
    lr, deepfm = (progressive(kind, blocks) for kind in ("lr", "deepfm"))
    assert deepfm.auc() - lr.auc() > 0.15
    assert 0.9 < deepfm.calibration() < 1.1


def decided_at(made: pa.RecordBatch, times: Sequence[int]) -> pa.RecordBatch:
    """The block with other times of decision."""
    place = made.schema.get_field_index("_decided")
    return made.set_column(place, "_decided", pa.array(times, pa.int64()))


DAY_US = 86_400_000_000
USERS = config(["user"], "dim = 2\nhidden = [4]")


def daily(days: int, first_key: int = 1) -> list[pa.RecordBatch]:
    """A block of four examples a day; the keys, and so the ids, of different calls may differ."""
    made = []
    for day in range(days):
        key = first_key + 4 * day
        each = block([1, 0, 1, 0], {"user": [f"u{key + i}" for i in range(4)]}, key)
        made.append(decided_at(each, [START_US + day * DAY_US + i * 1000 for i in range(4)]))
    return made


def test_a_log_that_is_longer_than_the_retention_comes_again_and_nothing_is_trained_twice() -> None:
    backend = MemoryBackend()
    trainer, blocks = opened(backend, USERS), daily(20)
    for offset, each in enumerate(blocks):
        trainer.train(each, 0, offset)
        trainer.commit(START_US + offset)
    updates = update_count_sum(trainer.store)
    trainer.store.close()
    trainer = opened(backend, USERS)
    reports = [trainer.train(each, 0, len(blocks) + offset) for offset, each in enumerate(blocks)]
    assert sum(report.examples for report in reports) == 0
    assert sum(report.forgotten + report.repeated for report in reports) == 80
    assert sum(report.forgotten for report in reports) >= 4 * 12
    assert update_count_sum(trainer.store) == updates == 80


@pytest.mark.parametrize("restarts", [False, True])
def test_partitions_that_lag_each_other_by_more_than_the_retention_lose_nothing(restarts: bool) -> None:
    """One partition after the other, as a backfill reads them; then both again, as a join that was restarted writes."""
    backend = MemoryBackend()
    trainer = opened(backend, USERS)
    partitions = [daily(20), daily(20, first_key=1001)]
    for turn in range(2):
        for partition, blocks in enumerate(partitions):
            for offset, each in enumerate(blocks, turn * len(blocks)):
                trainer.train(each, partition, offset)
                trainer.commit(START_US + turn * 1000 + partition * 100 + offset)
                if restarts:
                    trainer.store.close()
                    trainer = opened(backend, USERS)
            assert update_count_sum(trainer.store) == (160 if turn else 80 * (partition + 1))


def test_examples_of_one_moment_in_two_blocks_are_told_from_their_repetition() -> None:
    """The other partition's clock is far ahead, and all keys of this one may be forgotten: ids tell the order."""
    trainer = opened(config=USERS)
    halves = [
        decided_at(each, [START_US] * 4).set_column(1, "_id", pa.array(list(ids)))
        for each, ids in zip(daily(2), ["abcd", "efgh"], strict=True)
    ]
    trainer.train(halves[0], 0, 0)
    trainer.train(daily(40, first_key=1001)[-1], 1, 0)
    trainer.commit(START_US)
    assert trainer.train(halves[1], 0, 1).examples == 4
    assert trainer.train(halves[0], 0, 2).examples == 0
    assert trainer.train(halves[1], 0, 3).examples == 0


def test_a_restart_that_sees_only_repetitions_keeps_the_rate() -> None:
    backend = MemoryBackend()
    trainer = opened(backend, USERS)
    sampled = block([1, 0], {"user": ["a", "b"]}, rate=0.25)
    trainer.train(sampled, 0, 0)
    trainer.commit(START_US)
    trainer.store.close()
    trainer = opened(backend, USERS)
    trainer.train(sampled, 0, 1)
    _, metrics = trainer.commit(START_US + 1)
    assert trainer.store.meta()["rate"] == metrics["values"]["rate"] == 0.25


def test_the_rate_is_the_configured_one_until_examples_say_theirs() -> None:
    sampling = replace(USERS, join=replace(USERS.join, negative_rate=0.1))
    assert opened(config=sampling).commit(START_US)[1]["values"]["rate"] == 0.1


def test_the_last_commit_publishes_dense_weights_that_are_not_due() -> None:
    trainer = opened()
    for number in range(2):
        trainer.train(BLOCKS[number], 0, number)
        (event,), _ = trainer.commit(START_US + number)
        assert (event.dense is not None) == (number == 0)
    (event,), _ = trainer.commit(START_US + 2, final=True)
    assert event.dense is not None
    assert_equal(decode(event.dense), trainer._dense.values())
    assert trainer.commit(START_US + 3, final=True)[0] == []


def test_dense_weights_that_waited_are_published_after_a_restart() -> None:
    backend = MemoryBackend()
    trainer = opened(backend)
    for number in range(2):
        trainer.train(BLOCKS[number], 0, number)
        trainer.commit(START_US + number)
    trainer.store.close()
    trainer = opened(backend)
    (event,), _ = trainer.commit(START_US + 2)
    assert event.dense is not None
    trainer.store.close()
    assert opened(backend).commit(START_US + 3)[0] == []
