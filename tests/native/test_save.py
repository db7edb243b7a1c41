"""Tables as files: whole, or refused."""

from pathlib import Path

import numpy as np
import pytest

from monobeam.native import NONE, Table
from tests.native.hashes import GOLDEN, WORD, mix


def trained(rows: int = 3_000) -> Table:
    table = Table(4, "adam", {"beta1": 0.8}, 2**64 - 1, 0.1, pending_limit=200)
    table.set_policy(0, expire_seconds=60)
    table.set_policy(1, admit_count=4, admit_probability=0.5)
    rng = np.random.default_rng(2)
    keys = rng.integers(0, 2**63, rows, dtype=np.uint64) & np.uint64(2**48 - 1)
    table.apply(table.find_or_insert(keys, 5), rng.normal(size=(rows, 4)).astype(np.float32), 0.1)
    table.find_or_insert(keys[:500] | np.uint64(1 << 48), 7)
    table.clear_touched()
    table.apply(table.find(keys[:10]), np.ones((10, 4), np.float32), 0.1)
    table.erase(keys[20:30])
    table.expire(50, 100)
    return table


def live_on(table: Table) -> list[object]:
    """Everything that a table can say over some further calls, handles included."""
    said: list[object] = [table.touched().tolist(), table.expired().tolist(), table.stats()["pending"]]
    numbers = np.arange(2_000, dtype=np.uint64)
    keys = np.concatenate([table.keys()[::3], numbers, numbers[:500] | np.uint64(1 << 48)])
    for now in (10, 30, 66):
        handles = table.find_or_insert(keys, now)
        table.apply(handles, np.full((len(keys), 4), 0.25, np.float32), 0.1)
        said += [handles.tolist(), table.expire(now, 300).tolist(), table.touched().tolist()]
    said += [table.export_rows(table.keys()).tobytes(), table.update_count_sum]
    table.check()
    return said


def test_a_loaded_table_lives_on_alike(tmp_path: Path) -> None:
    table = trained()
    table.save(str(tmp_path / "table"))
    loaded = Table.load(str(tmp_path / "table"))
    assert (loaded.dim, loaded.optimizer, loaded.seed) == (4, "adam", 2**64 - 1)
    assert live_on(loaded) == live_on(table)


def test_saving_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"old")
    trained().save(str(path))
    assert len(Table.load(str(path))) == len(trained())
    assert [entry.name for entry in tmp_path.iterdir()] == ["table"]


def test_equal_histories_make_equal_files(tmp_path: Path) -> None:
    trained().save(str(tmp_path / "one"))
    trained().save(str(tmp_path / "two"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("dim", [0, 3])
def test_empty_tables(dim: int, tmp_path: Path) -> None:
    Table(dim, "sgd", {}, 0, 0.1).save(str(tmp_path / "table"))
    loaded = Table.load(str(tmp_path / "table"))
    assert len(loaded) == 0
    assert loaded.find_or_insert(np.array([1], np.uint64), 0).tolist() != [NONE]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table"
    trained(40).save(str(path))
    whole = path.read_bytes()
    for length in [*range(80), *range(80, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"table is (no saved table|truncated)"):
            Table.load(str(path))
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="truncated or damaged"):
        Table.load(str(path))


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table"
    trained(40).save(str(path))
    whole = path.read_bytes()
    for at in [*range(200), *range(200, len(whole), 53), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(path)):
            Table.load(str(path))


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table"
    trained(40).save(str(path))
    newer = bytearray(path.read_bytes())
    newer[8] = 9
    path.write_bytes(newer)
    with pytest.raises(ValueError, match="format version 9; this build reads version 3"):
        Table.load(str(path))


def test_the_file_system_says_no(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        Table.load(str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        trained(10).save(str(tmp_path / "nowhere" / "table"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        trained(10).save(str(tmp_path / "folder"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def with_checksum(data: bytes) -> bytes:
    """The file with its last 8 bytes made right again: what a program error, not a disk error, would leave."""
    prologue, payload = data[:24], data[24:-8]
    stream = payload + prologue
    stream += bytes(-len(stream) % 8)
    state = 0
    for start in range(0, len(stream), 8):
        state = mix((state ^ int.from_bytes(stream[start : start + 8], "little")) + GOLDEN & WORD)
    return prologue + payload + mix(state ^ len(payload) + len(prologue)).to_bytes(8, "little")


ORIGINAL = 0x123456789ABCDEF0


@pytest.mark.parametrize(
    ("good", "bad", "broken"),
    [
        (
            ORIGINAL.to_bytes(8, "little"),
            (0xABCDEF).to_bytes(8, "little"),
            "index: key 11259375 is in a bucket that is none of its two",
        ),
        (  # the one row: its number, untouched, no updates
            bytes(16),
            (5).to_bytes(4, "little") + bytes(12),
            "table: key 1311768467463790320 has a row that is free",
        ),
    ],
)
def test_a_broken_table_is_refused_and_the_invariant_named(
    good: bytes, bad: bytes, broken: str, tmp_path: Path
) -> None:
    path = tmp_path / "table"
    table = Table(2, "sgd", {}, 0, 0.1)
    table.find_or_insert(np.array([ORIGINAL], np.uint64), 0)
    table.save(str(path))
    whole = path.read_bytes()
    assert with_checksum(whole) == whole
    damaged = bad.join(whole.rsplit(good, 1))
    path.write_bytes(with_checksum(damaged))
    with pytest.raises(ValueError, match=broken):
        Table.load(str(path))
