"""Appenders of several workers at one partition."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from monobeam.logs.file import FileLog
from tests.logs.log_contract import OTHER, SCHEMA, numbers, read_all


def test_who_takes_turns_goes_on_where_the_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After what others have written, whatever their schema, over what one left torn, and when the log was deleted."""
    monkeypatch.setattr("monobeam.logs.file.SEGMENT_BYTES", 400)
    log = FileLog(tmp_path)
    with log.appender(0, SCHEMA, shared=True) as first, log.appender(0, SCHEMA, shared=True) as second:
        for n in range(0, 60, 2):
            assert (first.append(numbers(n)), second.append(numbers(n + 1))) == (n, n + 1)
        last = sorted((tmp_path / "00000").glob("*.avro"))[-1]
        with last.open("ab") as file:
            file.write(b"torn by one who was killed")
        assert second.append(numbers(60)) == 60
        with log.appender(0, OTHER) as other:
            other.append([])
        assert first.append(numbers(61)) == 61
        assert read_all(log, 0) == numbers(*range(62))
        shutil.rmtree(tmp_path / "00000")
        assert (first.append(numbers(0)), second.append(numbers(1))) == (0, 1)
    assert read_all(FileLog(tmp_path), 0) == numbers(0, 1)
