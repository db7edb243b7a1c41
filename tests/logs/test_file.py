from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pytest

from monobeam.logs import file as file_module
from monobeam.logs import segment as segment_module
from monobeam.logs.container import ContainerError, block_parts, decode_header
from monobeam.logs.file import FileLog
from monobeam.logs.log import LogError, encode_records, open_log, records
from tests.logs.log_contract import OTHER, SCHEMA, LogContract, append_all, numbers, read_all


class TestFileLog(LogContract):
    def make_uri(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return f"file:{tmp_path_factory.mktemp('log') / 'name'}"


class TestUsersPath(LogContract):
    def make_uri(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return str(tmp_path_factory.mktemp("log") / "name")


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "SEGMENT_BYTES", 400)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where and how much the log reads from its files."""
    seen: list[tuple[int, int]] = []
    pread = os.pread

    def recorded(file: int, length: int, at: int) -> bytes:
        data = pread(file, length, at)
        seen.append((at, len(data)))
        return data

    monkeypatch.setattr(os, "pread", recorded)
    return seen


def write(path: Path, values: range, codec: str = "null") -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("wb") as file:
        fastavro.writer(file, SCHEMA, numbers(*values), codec=codec, sync_interval=40)


def only_file(log: FileLog, partition: int = 0) -> Path:
    (path,) = (log.path / f"{partition:05d}").glob("*.avro")
    return path


def test_an_append_is_one_write_and_the_file_is_plain_avro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, writes, write_bytes = FileLog(tmp_path), [], os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: writes.append(1) or write_bytes(file, parts))
    append_all(log, 0, SCHEMA, [numbers(1), numbers(2, 3)])
    assert len(writes) == 2
    with only_file(log).open("rb") as file:
        assert list(fastavro.reader(file)) == numbers(1, 2, 3)


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "zstandard"])
def test_appended_with_a_codec(tmp_path: Path, codec: str) -> None:
    log = FileLog(tmp_path)
    with log.appender(0, SCHEMA, codec) as appender:
        appender.append(numbers(*range(500)))
    with log.appender(0, SCHEMA) as appender:  # another codec: another file
        appender.append(numbers(500))
    assert read_all(log, 0, 3) == numbers(*range(3, 501))
    first = min((tmp_path / "00000").glob("*.avro"))
    if codec != "zstandard":  # which polars does not read
        assert pl.read_avro(first).rows(named=True)[:500] == numbers(*range(500))


def test_a_codec_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="codec 'lzma'"):
        FileLog(tmp_path).appender(0, SCHEMA, codec="lzma")
    append_all(FileLog(tmp_path), 0, SCHEMA, [numbers(1)])  # and nothing is left locked


def test_segments_roll_and_are_read_as_one(tmp_path: Path, small_segments: None) -> None:
    log, reader = FileLog(tmp_path), FileLog(tmp_path)
    with log.appender(0, SCHEMA) as appender:
        for number in range(200):
            appender.append(numbers(number))
            if number % 7 == 0:
                assert reader.end(0) == number + 1
    names = sorted(path.name for path in (tmp_path / "00000").glob("*.avro"))
    assert len(names) > 5
    assert names[0] == "00000000000000000000.avro"
    for fresh in (reader, FileLog(tmp_path)):
        assert read_all(fresh, 0) == numbers(*range(200))
        assert read_all(fresh, 0, 150) == numbers(*range(150, 200))
    assert int(names[3][:20]) == read_all(log, 0, int(names[3][:20]))[0]["n"]


def test_a_deep_read_opens_no_earlier_file(tmp_path: Path, small_segments: None) -> None:
    append_all(FileLog(tmp_path), 0, SCHEMA, [numbers(number) for number in range(200)])
    first = min((tmp_path / "00000").glob("*.avro"))
    first.write_bytes(b"not a container file any more")
    assert records(FileLog(tmp_path).read(0, 199, 10)) == numbers(199)


def test_a_deep_read_skips_earlier_blocks(tmp_path: Path, reads: list[tuple[int, int]]) -> None:
    log = FileLog(tmp_path)
    payload = bytes(300_000)
    with log.appender(0, SCHEMA) as appender:
        for _ in range(20):
            appender.append_payload(100, payload)
        appender.append(numbers(1, 2, 3))
    reads.clear()
    assert records(FileLog(tmp_path).read(0, 2001, 10)) == numbers(2, 3)
    assert sum(length for _, length in reads) < only_file(log).stat().st_size / 3


def test_a_tail_reader_reads_only_what_is_new(tmp_path: Path, reads: list[tuple[int, int]]) -> None:
    log, reader = FileLog(tmp_path), FileLog(tmp_path)
    with log.appender(0, SCHEMA) as appender:
        appender.append(numbers(*range(10_000)))
        assert reader.end(0) == 10_000
        reads.clear()
        for _ in range(5):
            assert reader.read(0, 10_000, 10) == []
            assert reader.end(0) == 10_000
        assert not reads
        appender.append(numbers(1))
        assert records(reader.read(0, 10_000, 10)) == numbers(1)
        assert sum(length for _, length in reads) < 200


def test_a_read_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (file_module, segment_module):
        monkeypatch.setattr(module, "READ_BYTES", 1000)
    with FileLog(tmp_path).appender(0, SCHEMA) as appender:
        for _ in range(5):
            appender.append_payload(2, bytes(600))
        appender.append_payload(1, bytes(5000))
    log, offset, counts = FileLog(tmp_path), 0, []
    while chunks := log.read(0, offset, 1000):
        counts.append(sum(chunk.count for chunk in chunks))
        offset = chunks[-1].end
    assert counts == [4, 4, 3]


def test_empty_blocks_are_passed_over(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    append_all(log, 0, SCHEMA, [numbers(1)])
    header = decode_header(only_file(log).read_bytes())
    with only_file(log).open("ab") as file:
        for block in ((0, b""), (0, b""), (1, encode_records(header.schema, numbers(2))), (0, b"")):
            file.write(b"".join(block_parts(*block, header)))
    assert read_all(FileLog(tmp_path), 0) == numbers(1, 2)
    assert read_all(FileLog(tmp_path), 0, 1) == numbers(2)
    assert log.offset_for_time(0, 0, 0) == 0


def test_every_torn_tail_is_waited_for_and_cut_off(tmp_path: Path) -> None:
    whole = FileLog(tmp_path / "whole")
    with whole.appender(0, SCHEMA) as appender:
        appender.append(numbers(1, 2))
        kept = only_file(whole).stat().st_size
        appender.append(numbers(*range(3, 13)))
    data = only_file(whole).read_bytes()
    for size in range(kept, len(data)):
        place = tmp_path / f"torn{size}" / "00000"
        place.mkdir(parents=True)
        path = place / "00000000000000000000.avro"
        path.write_bytes(data[:size])
        log = FileLog(place.parent)
        assert log.end(0) == 2
        assert records(log.read(0, 0, 100)) == numbers(1, 2)
        with FileLog(place.parent).appender(0, SCHEMA) as appender:
            assert path.stat().st_size == kept
            assert appender.append(numbers(99)) == 2
            assert records(log.read(0, 2, 100)) == numbers(99)
        assert read_all(FileLog(place.parent), 0) == numbers(1, 2, 99)


def test_every_torn_first_block_is_waited_for_and_written_over(tmp_path: Path) -> None:
    append_all(FileLog(tmp_path / "whole"), 0, SCHEMA, [numbers(1, 2)])
    data = only_file(FileLog(tmp_path / "whole")).read_bytes()
    for size in range(len(data)):
        place = tmp_path / f"torn{size}" / "00000"
        place.mkdir(parents=True)
        (place / "00000000000000000000.avro").write_bytes(data[:size])
        log = FileLog(place.parent)
        assert log.read(0, 0, 10) == []
        append_all(FileLog(place.parent), 0, OTHER, [[{"n": 5}]])
        assert read_all(log, 0) == [{"n": 5}]


def test_zeros_after_a_lost_block_are_a_torn_tail(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    append_all(log, 0, SCHEMA, [numbers(1)])
    with only_file(log).open("ab") as file:
        file.write(bytes(4096))
    assert FileLog(tmp_path).end(0) == 1
    append_all(log, 0, SCHEMA, [numbers(2)])
    assert read_all(FileLog(tmp_path), 0) == numbers(1, 2)


def test_damage_before_whole_blocks_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    append_all(log, 0, SCHEMA, [numbers(1), numbers(2), numbers(3)])
    path = only_file(log)
    data = bytearray(path.read_bytes())
    data[-30] ^= 0xFF  # in the second block's sync marker or sizes
    path.write_bytes(data)
    for broken in (FileLog(tmp_path).end, lambda partition: FileLog(tmp_path).appender(partition, SCHEMA)):
        with pytest.raises(ContainerError, match=r"0000\.avro: the block at byte \d+ is damaged"):
            broken(0)
    assert path.read_bytes() == data


def test_a_payload_that_its_codec_does_not_know_spoils_only_its_block(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    with log.appender(0, SCHEMA, codec="deflate") as appender:
        appender.append(numbers(*range(50)))
        before = only_file(log).stat().st_size
        appender.append(numbers(*range(50, 60)))
        appender.append(numbers(60))
    data = bytearray(only_file(log).read_bytes())
    data[before + 3] = 0xFF
    only_file(log).write_bytes(data)
    (chunk,) = FileLog(tmp_path).read(0, 0, 100)
    parts = list(chunk.split())
    assert [bool(damage) for _, damage in parts] == [False, True, False]
    assert "deflate" in parts[1][1]
    assert records([parts[0][0], parts[2][0]]) == numbers(*range(50), 60)


WRITER = """
import sys
from monobeam.logs.log import open_log
fields = [{"name": "n", "type": "long"}, {"name": "text", "type": "string"}]
schema = {"type": "record", "name": "Number", "fields": fields}
with open_log(sys.argv[1]).appender(0, schema) as appender:
    start = appender.end
    for n in range(start, start + 1_000_000):
        appender.append([{"n": n, "text": "x" * (n % 5000)}])
        print(n, flush=True)
"""


def test_killed_writers_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    for after in (1, 50, 173):
        command = [sys.executable, "-c", WRITER, f"file:{tmp_path}"]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        for _ in range(after):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        found = read_all(FileLog(tmp_path), 0)
        assert [record["n"] for record in found] == list(range(len(found)))
        assert len(found) > acknowledged


def test_a_reader_beside_a_writer_sees_only_whole_blocks(tmp_path: Path) -> None:
    reader, stop = FileLog(tmp_path), threading.Event()

    def append() -> None:
        with FileLog(tmp_path).appender(0, SCHEMA) as appender:
            for start in range(0, 40_000, 400):
                appender.append(numbers(*range(start, start + 400)))
        stop.set()

    writer = threading.Thread(target=append)
    writer.start()
    offset = 0
    while not stop.is_set() or offset < reader.end(0):
        for chunk in reader.read(0, offset, 1000):
            assert chunk.count % 400 == 0
            assert [record["n"] for record in records([chunk])] == list(range(chunk.offset, chunk.end))
            offset = chunk.end
    writer.join()
    assert offset == 40_000


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write_bytes = FileLog(tmp_path), os.writev
    with log.appender(0, SCHEMA) as appender:
        for expected in (0, 2):  # the first time there is not even a header
            monkeypatch.setattr(os, "writev", lambda file, parts: write_bytes(file, [b"".join(parts)[:5]]))
            with pytest.raises(OSError, match="only 5 of"):
                appender.append(numbers(1, 2))
            monkeypatch.setattr(os, "writev", write_bytes)
            assert log.end(0) == expected
            assert appender.append(numbers(1, 2)) == expected
    assert read_all(log, 0) == numbers(1, 2, 1, 2)


def test_another_process_holds_the_lock_and_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, f"file:{tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        writer.stdout.readline()
        with pytest.raises(OSError, match=f"process {writer.pid} is appending to partition 0"):
            FileLog(tmp_path).appender(0, SCHEMA)
        writer.kill()
        writer.stdout.read()
    append_all(FileLog(tmp_path), 0, OTHER, [])


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_users_directory_is_one_partition_in_name_order(tmp_path: Path, codec: str) -> None:
    write(tmp_path / "part-1.avro", range(100), codec)
    write(tmp_path / "part-2.avro", range(100, 130), codec)
    (tmp_path / ".part-3.avro.crc").write_bytes(b"not Avro")
    (tmp_path / "_SUCCESS").touch()
    log = open_log(str(tmp_path))
    assert log.partitions() == [0]
    assert log.end(0) == 130
    for offset in (0, 1, 57, 99, 100, 101, 129):
        assert read_all(log, 0, offset) == numbers(*range(offset, 130))
    write(tmp_path / "part-3.avro", range(130, 140), codec)
    assert records(log.read(0, 130, 100)) == numbers(*range(130, 140))
    with pytest.raises(LogError, match="can only be read"):
        log.appender(0, SCHEMA)
    write(tmp_path / "part-0.avro", range(3), codec)
    with pytest.raises(LogError, match=r"part-0\.avro"):
        log.end(0)


def test_a_users_file_may_grow(tmp_path: Path) -> None:
    path = tmp_path / "own.avro"
    write(path, range(10))
    log = FileLog(path)
    assert log.partitions() == [0]
    assert read_all(log, 0) == numbers(*range(10))
    with path.open("a+b") as file:
        fastavro.writer(file, None, numbers(*range(10, 500)))
    assert records(log.read(0, 10, 1000)) == numbers(*range(10, 500))


def test_snappy_as_others_write_it(tmp_path: Path) -> None:
    pl.DataFrame(numbers(*range(1000))).write_avro(tmp_path / "own.avro", compression="snappy")
    assert read_all(FileLog(tmp_path), 0, 990) == numbers(*range(990, 1000))


def test_a_file_that_is_not_avro_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.avro").write_bytes(b"PAR1 and so on")
    with pytest.raises(ContainerError, match=r"own\.avro: file starts with 50415231"):
        FileLog(tmp_path).end(0)


def test_a_directory_is_one_or_the_other(tmp_path: Path) -> None:
    append_all(FileLog(tmp_path), 0, SCHEMA, [numbers(1)])
    write(tmp_path / "own.avro", range(3))
    with pytest.raises(LogError, match="one or the other"):
        FileLog(tmp_path).partitions()


def test_old_segments_may_be_deleted(tmp_path: Path, small_segments: None) -> None:
    log = FileLog(tmp_path)
    append_all(log, 0, SCHEMA, [numbers(number) for number in range(100)])
    assert log.end(0) == 100
    names = sorted((tmp_path / "00000").glob("*.avro"))
    names[0].unlink()
    first = int(names[1].stem)
    for reader in (log, FileLog(tmp_path)):
        assert reader.end(0) == 100
        assert read_all(reader, 0, first) == numbers(*range(first, 100))
        with pytest.raises(LogError, match=f"offset 0 is no longer kept: the first is {first}"):
            reader.read(0, 0, 10)
    names[2].unlink()
    with pytest.raises(LogError, match="ends at offset"):
        read_all(FileLog(tmp_path), 0, first)


@pytest.mark.parametrize("uri", ["", "file:", "kafka:topic", "memory:x", "C:"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="must be file:DIRECTORY or a path"):
        open_log(uri)


def test_addresses_of_files(tmp_path: Path) -> None:
    append_all(open_log(f"file://{tmp_path}/a"), 0, SCHEMA, [numbers(1)])
    logs: list[Any] = [open_log(f"file:{tmp_path}/a"), open_log(f"{tmp_path}/a")]
    assert [read_all(log, 0) for log in logs] == [numbers(1)] * 2
