"""Files that are not whole, and systems that do not write them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from monobeam.native import Table
from tests.native.files import BLOCK, PROLOGUE, checksum, framed, payload_of
from tests.native.golden import file_of, golden_table
from tests.native.test_save import trained


@pytest.fixture(scope="module")
def whole() -> bytes:
    return file_of(golden_table())


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes, str], None]:
    path = tmp_path / "table"

    def refuse(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            Table.load(str(path))
        assert str(path) in str(error.value)

    return refuse


def some_of(whole: bytes) -> list[int]:
    """Every place of the heads and the end, and some between."""
    return [*range(300), *range(300, len(whole) - 100, 13), *range(len(whole) - 100, len(whole))]


def test_every_truncation_is_refused(whole: bytes, refused: Callable[[bytes, str], None]) -> None:
    for length in some_of(whole):
        refused(whole[:length], "is no saved table|is truncated")
    refused(whole + b"\0", "is truncated or damaged")


def test_every_flipped_bit_is_refused(whole: bytes, refused: Callable[[bytes, str], None]) -> None:
    for at in some_of(whole):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        refused(bytes(damaged), "is no saved table|version|is damaged|is truncated")


def test_blocks_in_another_order_are_refused(refused: Callable[[bytes, str], None]) -> None:
    file = file_of(trained(60_000))
    payload = payload_of(file)
    assert len(payload) > 3 * BLOCK
    first, second = file[32 : 32 + BLOCK + 8], file[32 + BLOCK + 8 : 32 + 2 * BLOCK + 16]
    swapped = file[:32] + second + first + file[32 + 2 * BLOCK + 16 :]
    assert len(swapped) == len(file)
    refused(swapped, "wrong checksum of its block 1")
    late = bytearray(file)
    late[32 + 2 * (BLOCK + 8) + 5] ^= 4
    refused(bytes(late), "wrong checksum of its block 3")


def test_another_version_is_named(whole: bytes, refused: Callable[[bytes, str], None]) -> None:
    for version in (1, 2, 3, 5):
        message = f"is a saved table of format version {version}; this build reads version 4"
        refused(framed(payload_of(whole), version), message)


def test_a_length_that_wraps_around_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Modulo 2^64 a file of such a length would be as long as it is; and believing its bucket count takes gigabytes."""
    empty = payload_of(file_of(Table(2, "sgd", {}, 0, 0.1)))
    before, found, after = empty.rpartition((8).to_bytes(4, "little") + bytes(16))  # 8 buckets, none overflowing
    assert found
    block = (before + (1 << 25).to_bytes(4, "little") + bytes(16) + after).ljust(BLOCK, b"\0")
    size = PROLOGUE + 8 + BLOCK + 8
    about = ((1 << 64) + size) * BLOCK // (BLOCK + 8)
    (length,) = (n for n in range(about - 99, about + 99) if file_bytes(n) == (1 << 64) + size)
    prologue = framed(b"")[:16] + length.to_bytes(8, "little")
    path = tmp_path / "table"
    path.write_bytes(prologue + checksum(prologue, 0) + block + checksum(block, 1))
    with pytest.raises(ValueError, match=f"is truncated or damaged: {size} bytes, where its head says {length}"):
        Table.load(str(path))


def file_bytes(length: int) -> int:
    return PROLOGUE + 8 + 8 * -(-length // BLOCK) + length


def test_files_of_something_else_are_no_tables(refused: Callable[[bytes, str], None]) -> None:
    for content in (b"", b"\0", b"id,value\n1,2\n" * 100, bytes(4096)):
        refused(content, "is no saved table")


# What a program error, not a disk error, would leave: checksums are right.
ORIGINAL = 0x123456789ABCDEF0


@pytest.mark.parametrize(
    ("good", "bad", "broken"),
    [
        (
            ORIGINAL.to_bytes(8, "little"),
            (0xABCDEF).to_bytes(8, "little"),
            "index: key 11259375 is in a bucket that is none of its two",
        ),
        (  # the row that is there: the fifth instead of the first
            b"\1" + bytes(15) + bytes(8),
            b"\20" + bytes(15) + bytes(8),
            "table: key 1311768467463790320 has a row that is free",
        ),
        (b"\1" + bytes(23), b"\1" + bytes(7) + b"\3" + bytes(15), "has a note of a row that is not there"),
        (b"sgd", b"sgf", "unknown optimizer 'sgf'"),
        (b"\2\0\0\0\3\0\0\0sgd", b"\2\0\2\0\3\0\0\0sgd", "dim 131074 must be at most 8192"),
    ],
)
def test_a_broken_table_is_refused_and_the_reason_named(
    good: bytes, bad: bytes, broken: str, refused: Callable[[bytes, str], None]
) -> None:
    table = Table(2, "sgd", {}, 0, 0.1)
    table.find_or_insert(np.array([ORIGINAL], np.uint64), 0)
    payload = payload_of(file_of(table))
    before, found, after = payload.rpartition(good)
    assert found
    refused(framed(before + bad + after), broken)


def test_whatever_a_file_says_a_table_is_whole_or_refused(whole: bytes, tmp_path: Path) -> None:
    rng, payload, path = np.random.default_rng(3), payload_of(whole), tmp_path / "table"
    head = 700  # options, policies, counters and the index
    accepted = 0
    for trial in range(600):
        damaged = bytearray(payload)
        for at in rng.integers(0, head if trial % 2 else len(payload), 1 + trial % 3):
            damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(framed(bytes(damaged[: len(payload) - trial % 5 * 8])))
        try:
            table = Table.load(str(path))
        except (ValueError, MemoryError):
            continue
        accepted += 1
        table.check()
        table.save(str(path))
        assert len(Table.load(str(path))) == len(table)
    assert accepted > 10  # times, counts and embeddings may be anything


def test_the_file_system_says_no(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        Table.load(str(tmp_path / "missing"))
    with pytest.raises(IsADirectoryError):
        Table.load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        trained(10).save(str(tmp_path / "nowhere" / "table"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        trained(10).save(str(tmp_path / "folder"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


NO_ROOM = """
    import errno, resource, sys
    from pathlib import Path
    from monobeam.native import Table
    from tests.native.golden import file_of, golden_table

    folder, table = Path(sys.argv[1]), golden_table()
    whole, path = file_of(table), folder / "table"
    path.write_bytes(b"old")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for room in (0, 1, 24, 31, 32, 33, 1000, len(whole) - 9, len(whole) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))  # Python ignores the signal
        try:
            table.save(str(path))
        except OSError as full:
            assert full.errno == errno.EFBIG and full.filename == str(path), full
        else:
            sys.exit(f"saved in {room} bytes")
        assert [entry.name for entry in folder.iterdir()] == ["table"], room
        assert path.read_bytes() == b"old"
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
        table.check()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole), resource.RLIM_INFINITY))
    table.save(str(path))
    assert path.read_bytes() == whole
"""


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    command = [sys.executable, "-c", dedent(NO_ROOM), str(tmp_path)]
    root = str(Path(__file__).parents[2])
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert result.returncode == 0, result.stderr


def test_what_a_callback_raises_ends_the_work_and_nothing_has_happened(tmp_path: Path) -> None:
    path, table = tmp_path / "table", trained(30_000)
    table.save(str(path))
    whole = path.read_bytes()

    def raising(times: list[int]) -> Callable[[int, int], None]:
        def tell(done: int, all_bytes: int) -> None:
            if not times:
                raise InterruptedError(f"at {done} of {all_bytes}")
            times.pop()

        return tell

    for work in (lambda tell: table.save(str(path), tell), lambda tell: Table.load(str(path), tell)):
        for calls in range(2):
            with pytest.raises(InterruptedError, match=r"at \d+ of \d+"):
                work(raising([0] * calls))
            assert [entry.name for entry in tmp_path.iterdir()] == ["table"]
            assert path.read_bytes() == whole
    table.check()
    table.save(str(path))
    assert path.read_bytes() == whole
    assert Table.load(str(path)).keys().tolist() == table.keys().tolist()


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "table"
    table = Table(512, "adagrad", {}, 0, 0.1)
    table.find_or_insert(np.arange(20_000, dtype=np.uint64), 0)  # 80 MB
    for work in (lambda tell: table.save(str(path), tell), lambda tell: Table.load(str(path), tell)):
        told: list[tuple[int, int]] = []
        work(lambda done, all_bytes, told=told: told.append((done, all_bytes)))
        assert len(told) >= 5
        assert told == sorted(told)
        assert len({all_bytes for _, all_bytes in told}) == 1
        assert told[-1][0] == told[-1][1]
        assert abs(told[-1][1] - path.stat().st_size) < 0.01 * path.stat().st_size
