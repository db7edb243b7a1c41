"""Random sequences of every operation: the table and its twin must agree to the bit after each."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from monobeam.native import NONE, Table
from tests.native.optimizers import OPTIMIZERS
from tests.native.twin import Policy, Twin

EDGES = [0, 1, 2**64 - 1, 2**63, 2**63 - 1, 0xFFFFFFFF, (3 << 48) | 5]
KEY = st.one_of(
    st.sampled_from(EDGES), st.builds(lambda slot, low: slot << 48 | low, st.integers(0, 3), st.integers(0, 30))
)
KEYS = st.lists(KEY, max_size=40)
BAGS = st.lists(st.lists(KEY, max_size=4), max_size=8)
SEEDS = st.integers(0, 2**32)
RATE = 0.05


def array(keys: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(keys, np.uint64)


def flatten(bags: list[list[int]]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    keys = array([key for bag in bags for key in bag])
    return keys, np.cumsum([0] + [len(bag) for bag in bags], dtype=np.int64)


class TableAndTwin(RuleBasedStateMachine):
    @initialize(
        optimizer=st.sampled_from(sorted(OPTIMIZERS)),
        dim=st.sampled_from([0, 1, 5, 8]),
        seed=st.integers(0, 2**64 - 1),
        row_format=st.sampled_from(["fp32", "fp32", "fp16", "bf16", "int8"]),
        pending_limit=st.sampled_from([0, 3, 20, 1 << 20]),
    )
    def start(self, optimizer: str, dim: int, seed: int, row_format: str, pending_limit: int) -> None:
        self.table = Table(dim, optimizer, {}, seed, 0.1, pending_limit, row_format)
        self.twin = Twin(dim, optimizer, {}, seed, 0.1, row_format, pending_limit)

    @rule(
        slot=st.integers(0, 3),
        count=st.integers(0, 4),
        probability=st.sampled_from([1.0, 1.0, 0.5, 0.0]),
        seconds=st.integers(0, 20),
        pending=st.integers(0, 20),
    )
    def set_policy(self, slot: int, count: int, probability: float, seconds: int, pending: int) -> None:
        self.table.set_policy(slot, count, probability, seconds, pending)
        self.twin.policies[slot] = Policy(count, probability, seconds, pending)

    @rule(keys=KEYS, now=st.integers(0, 100))
    def find_or_insert(self, keys: list[int], now: int) -> None:
        handles = self.table.find_or_insert(array(keys), now)
        assert (handles != NONE).tolist() == self.twin.find_or_insert(keys, now)

    @rule(count=st.integers(1, 600), start=st.integers(0, 2**40))
    def grow(self, count: int, start: int) -> None:
        keys = [7 << 48 | start + i for i in range(count)]
        self.table.find_or_insert(array(keys), 50)
        self.twin.find_or_insert(keys, 50)

    @rule(keys=KEYS)
    def look(self, keys: list[int]) -> None:
        rows, found = self.table.lookup(array(keys))
        assert found.tolist() == [key in self.twin.rows for key in keys]
        expected = np.array([self.twin.embedding(key) for key in keys], np.float32).reshape(len(keys), self.table.dim)
        np.testing.assert_array_equal(rows, expected)
        handles = self.table.find(array(keys))
        assert (handles != NONE).tolist() == found.tolist()
        np.testing.assert_array_equal(self.table.gather(handles), expected)

    @rule(bags=BAGS)
    def pool(self, bags: list[list[int]]) -> None:
        keys, offsets = flatten(bags)
        expected = self.twin.pooled(bags)
        np.testing.assert_array_equal(self.table.lookup_pooled(keys, offsets), expected)
        np.testing.assert_array_equal(self.table.gather_pooled(self.table.find(keys), offsets), expected)

    @rule(bags=BAGS, seed=SEEDS)
    def apply(self, bags: list[list[int]], seed: int) -> None:
        keys, offsets = flatten(bags)
        gradients = np.random.default_rng(seed).normal(size=(len(bags), self.table.dim)).astype(np.float32)
        if self.table.row_format == "int8":
            with pytest.raises(ValueError, match="int8 are for serving"):
                self.table.apply_pooled(self.table.find(keys), offsets, gradients, RATE)
            return
        self.table.apply_pooled(self.table.find(keys), offsets, gradients, RATE)
        self.twin.apply_pooled(bags, gradients, RATE)

    @rule(keys=KEYS)
    def erase(self, keys: list[int]) -> None:
        assert self.table.erase(array(keys)) == self.twin.erase(keys)

    @rule(now=st.integers(0, 130))
    def expire(self, now: int) -> None:
        assert self.table.expire(now, self.table.stats()["buckets"]).tolist() == self.twin.expire(now)

    @rule(keys=KEYS, now=st.integers(0, 130))
    def expire_keys(self, keys: list[int], now: int) -> None:
        assert self.table.expire_keys(array(keys), now) == self.twin.expire_keys(keys, now)

    @rule(keys=KEYS, seed=SEEDS)
    def import_rows(self, keys: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = np.zeros((len(keys), self.table.row_bytes), np.uint8)
        floats = np.abs(rng.normal(size=(len(keys), self.table.dim + self.table.state_floats))).astype("<f4")
        rows[:, :-16] = floats.view(np.uint8)
        rows[:, -16] = rng.integers(0, 100, len(keys))
        rows[:, -8] = rng.integers(0, 100, len(keys))
        self.table.import_rows(array(keys), rows)
        self.twin.import_rows(keys, rows)

    @rule(keys=KEYS, seed=SEEDS)
    def import_values(self, keys: list[int], seed: int) -> None:
        values = np.random.default_rng(seed).normal(size=(len(keys), self.table.dim)).astype(np.float32)
        self.table.import_values(array(keys), values)
        self.twin.import_values(keys, values)

    @rule()
    def clear_touched(self) -> None:
        self.table.clear_touched()
        self.twin.clear_touched()

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.twin.clear()

    @rule()
    def save_and_load(self) -> None:
        with TemporaryDirectory() as folder:
            first, second = Path(folder) / "first", Path(folder) / "second"
            self.table.save(str(first))
            self.table = Table.load(str(first))
            self.table.save(str(second))
            assert first.read_bytes() == second.read_bytes()

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "table"):
            return
        self.table.check()
        keys = sorted(self.twin.rows)
        assert self.table.keys().tolist() == keys
        assert len(self.table) == len(keys)
        assert self.table.touched().tolist() == self.twin.touched()
        assert self.table.expired().tolist() == self.twin.expired()
        assert self.table.stats()["pending"] == len(self.twin.pending)
        assert self.table.update_count_sum == sum(row.updates for row in self.twin.rows.values())
        sample = keys[:: max(1, len(keys) // 50)]
        if sample:
            np.testing.assert_array_equal(self.table.export_rows(array(sample)), self.twin.export_rows(sample))


TestTableAndTwin = TableAndTwin.TestCase
TestTableAndTwin.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
