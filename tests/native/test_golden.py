"""Files of earlier builds: a change of the format cannot go unnoticed."""

from pathlib import Path

import pytest

from monobeam.native import NONE, Table
from tests.native.golden import CROWD, DIM, ERASED, FILE, KEYS, PENDING, file_of, golden_table


@pytest.fixture
def golden() -> bytes:
    return bytes.fromhex(FILE.read_text())


@pytest.fixture
def loaded(golden: bytes, tmp_path: Path) -> Table:
    (tmp_path / "table").write_bytes(golden)
    return Table.load(str(tmp_path / "table"))


def test_it_reads_as_it_was_written(loaded: Table) -> None:
    assert (loaded.dim, loaded.optimizer, loaded.seed, loaded.row_format) == (40, "adagrad", 2**64 - 3, "fp16")
    assert loaded.keys().tolist() == sorted([*KEYS.tolist(), *CROWD.tolist()])
    assert loaded.find(KEYS).tolist() == [0, 1, 2, 3, 4]
    stats = loaded.stats()
    assert (stats["pending"], stats["overflowing"], stats["buckets"]) == (2, 2, 8)
    assert loaded.touched().tolist() == [1 << 48 | 7]
    assert loaded.expired().tolist() == ERASED.tolist()
    assert loaded.update_count_sum == 20_003
    # Of key 7: its values after a step in fp16, 0.25 + the square of the gradient i / 64 - 1, its tail.
    row = loaded.export_rows(KEYS)[0]
    floats, tail = row[:-16].copy().view("<f4"), row[-16:].copy()
    assert floats[DIM : DIM + 3].tolist() == [0.25 + (i / 64 - 1) ** 2 for i in range(3)]
    assert tail.view("<u4")[:2].tolist() == [1_700_000_000, 0]
    assert tail.view("<u8")[1] == 1
    assert floats[:3].tolist() == [-0.348876953125, 0.277099609375, 0.04827880859375]


def test_policies_and_sightings_go_on(loaded: Table) -> None:
    assert (loaded.find_or_insert(PENDING, 1_700_000_003) == NONE).tolist() == [True, False]
    assert loaded.expire(1_700_000_999, 1 << 40).tolist() == []
    assert loaded.expire(1_700_001_000, 1 << 40).tolist() == [1 << 48 | 7]
    loaded.check()


def test_saving_it_gives_the_same_bytes(golden: bytes, loaded: Table) -> None:
    assert file_of(loaded) == golden


def test_the_same_history_gives_the_same_bytes(golden: bytes) -> None:
    assert file_of(golden_table()) == golden
