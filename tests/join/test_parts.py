"""The parts of the join that are functions: sampling, keys, shards, promotion, policies, settings."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from monobeam.join import promotion
from monobeam.join.policy import NEVER, POLICIES
from monobeam.join.sampling import correction_keys, example_keys, kept
from monobeam.join.settings import JoinSettings, Label
from monobeam.join.shards import rejects_block, split
from monobeam.logs import block

IDS = pa.array([f"impression-{i}" for i in range(20_000)])
LABELS = (Label("like", "like"),)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_share_that_is_kept_is_the_rate(rate):
    share = kept(IDS, rate, 7).mean()
    assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / len(IDS))


def test_what_is_kept_depends_on_the_id_and_the_seed_alone():
    everything = kept(IDS, 0.5, 7)
    assert kept(IDS[10_000:], 0.5, 7).tolist() == everything[10_000:].tolist()
    assert 0.4 < (kept(IDS, 0.5, 8) == everything).mean() < 0.6
    assert np.all(kept(IDS, 0.3, 7) <= everything)  # a lower rate keeps fewer of the same
    assert kept(IDS, 1.0, 7).all()


def test_keys_are_distinct():
    keys = example_keys(IDS)
    actions = [("a", "like", 1, 1.0), ("a", "like", 1, 0.5), ("a", "like", 2, 1.0), ("a", "buy", 1, 1.0)]
    corrections = correction_keys([*actions, ("b", "like", 1, 1.0)])
    assert len(np.unique(np.concatenate([keys, corrections]))) == len(IDS) + 5
    assert correction_keys(actions[:1]) == corrections[0]


def test_split_gives_each_row_to_the_shard_of_its_id_in_order():
    batch = pa.RecordBatch.from_pydict({"_id": IDS, "n": pa.array(range(len(IDS)))})
    batch = block.label(batch, "impressions", "shown")
    parts = split(batch, 3)
    assert [shard for shard, _ in parts] == [0, 1, 2]
    assert sorted(n for _, part in parts for n in part.column("n").to_pylist()) == list(range(len(IDS)))
    for shard, part in parts:
        assert block.log(part) == "shown"
        assert part.column("n").to_pylist() == sorted(part.column("n").to_pylist())
        assert 0.3 < part.num_rows / len(IDS) < 0.37
        again = block.decode(block.encode(part.slice(5, 100)))
        assert [s for s, _ in split(again, 3)] == [shard]
    assert split(batch, 1) == [(0, batch)]
    assert split(batch.slice(0, 0), 3) == []


def test_rejects_go_to_the_shard_of_their_partition():
    rejects = rejects_block("actions", 5, "acts", 7, 100)
    assert rejects.to_pylist() == [{"_kind": "actions", "_count": 5, "_partition": 7, "_offset": 100}]
    ((shard, part),) = split(rejects, 3)
    assert (shard, part.to_pylist(), block.kind(part)) == (1, rejects.to_pylist(), "rejects")
    with pytest.raises(ValueError, match="'clicks'"):
        rejects_block("clicks", 5, "acts", 7, 100)


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (pa.array([1, None]), pa.array([0.5]), pa.array([1.0, None, 0.5])),
        (pa.array([1, None]), pa.array(["x"]), pa.array(["1", None, "x"])),
        (pa.array([True]), pa.array([2]), pa.array(["true", "2"])),
        (pa.array([[1], None, []]), pa.array([[0.5, None]]), pa.array([[1.0], None, [], [0.5, None]])),
        (pa.array([[1, 2]]), pa.array(["x", None]), pa.array([["1", "2"], ["x"], None])),
        (pa.array([[1, 2]]), pa.array([3, None]), pa.array([[1, 2], [3], None])),
        (pa.array([None, None]), pa.array([3]), pa.array([None, None, 3])),
        (pa.array([2**62 + 1]), pa.array([0.5]), pa.array([float(2**62), 0.5])),
    ],
)
def test_columns_of_two_types_become_one_that_holds_both(left, right, both):
    one, other = (pa.RecordBatch.from_pydict({"x": values}) for values in (left, right))
    assert promotion.concat([one, other]).column("x") == both
    back = [*both.to_pylist()[len(left) :], *both.to_pylist()[: len(left)]]
    assert promotion.concat([other, one]).column("x").to_pylist() == back


def test_columns_that_a_batch_lacks_are_null():
    one, other = pa.RecordBatch.from_pydict({"b": [1]}), pa.RecordBatch.from_pydict({"a": ["x"]})
    both = promotion.concat([one, other])
    assert both.schema.names == ["a", "b"]
    assert both.to_pylist() == [{"a": None, "b": 1}, {"a": "x", "b": None}]
    nothing = one.select([])
    assert promotion.concat([nothing, nothing]).num_rows == 2


def test_policies_decide_at_the_end_of_the_window_with_the_last_label_or_at_once():
    dues, ends = np.array([1, 1, 1, 7]), np.array([10, 10, 10, 10])
    firsts = np.array([[NEVER, NEVER], [3, NEVER], [3, 5], [8, 9]])
    assert POLICIES["wait"].decisions(dues, ends, firsts).tolist() == [10, 10, 10, 10]
    assert POLICIES["settled"].decisions(dues, ends, firsts).tolist() == [10, 10, 5, 9]
    assert POLICIES["at_once"].decisions(dues, ends, firsts).tolist() == [1, 1, 1, 7]


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"window_us": 0}, "window_us=0"),
        ({"tick_us": -1}, "tick_us=-1"),
        ({"retention_us": -1}, "retention_us=-1"),
        ({"max_block_rows": 0}, "max_block_rows=0"),
        ({"shard": 2, "shards": 2}, "shard=2: must be below shards=2"),
        ({"negative_rate": 0.0}, "negative_rate=0.0"),
        ({"negative_rate": 1.5}, "negative_rate=1.5"),
        ({"policy": "guess"}, "policy='guess': must be one of at_once, settled, wait"),
        ({"labels": ()}, "labels="),
        ({"labels": LABELS * 2}, r"labels=\['like', 'like'\]"),
    ],
)
def test_settings_that_cannot_work_are_quoted(change, quoted):
    good = {"window_us": 10, "retention_us": 10, "tick_us": 5, "labels": LABELS}
    JoinSettings(**good)
    with pytest.raises(ValueError, match=quoted):
        JoinSettings(**(good | change))


def test_a_continuation_needs_open_windows_and_the_actions_that_wait():
    settings = JoinSettings(window_us=10, retention_us=40, tick_us=5, labels=LABELS)
    assert (settings.first_needed_us, settings.first_action_needed_us) == (None, None)
    later = replace(settings, since_us=103)
    assert (later.first_needed_us, later.first_action_needed_us) == (90, 60)
    assert replace(later, retention_us=0).first_action_needed_us == 90
