"""Logs in Kafka topics, on a real broker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Topics
from tests.logs.log_contract import SPLITS, TIMES, LogContract, examples


class TestKafkaLog(LogContract):
    IS_EXCLUSIVE = False
    FRAMES_PAYLOADS = False
    HAS_ALL_PARTITIONS = True
    NEAR = 100

    @pytest.fixture(autouse=True)
    def _topics(self, kafka: Topics) -> None:
        self.topics = kafka

    def make_uri(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return self.topics.new()

    # Each example makes a topic and some producers.
    @examples(4)
    @given(**SPLITS)
    def test_any_split_reads_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int]
    ) -> None:
        self.check_splits(tmp_path_factory, data, sizes)

    @examples(6)
    @given(**TIMES)
    def test_nothing_wanted_lies_before_the_offset_of_a_time(
        self, tmp_path_factory: pytest.TempPathFactory, gaps: list[list[tuple[int, int]]], wanted: int
    ) -> None:
        self.check_times(tmp_path_factory, gaps, wanted)
