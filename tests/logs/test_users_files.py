"""Avro files as others have put them into a directory."""

from __future__ import annotations

from pathlib import Path

import fastavro
import polars as pl
import pytest

from monobeam.logs.container import ContainerError
from monobeam.logs.file import FileLog
from monobeam.logs.log import LogError, open_log, records
from tests.logs.log_contract import SCHEMA, append_all, numbers, read_all


def write(path: Path, values: range, codec: str = "null") -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("wb") as file:
        fastavro.writer(file, SCHEMA, numbers(*values), codec=codec, sync_interval=40)


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
