"""The benchmark of Bigtable runs whole, on few rows; its figures are not looked at."""

from __future__ import annotations

import json

import pytest

from benchmarks import bigtable


@pytest.mark.filterwarnings("ignore:Connecting to Bigtable emulator")
def test_a_short_run(emulator: str, capsys: pytest.CaptureFixture[str]) -> None:
    bigtable.main(["--rows", "400", "--rounds", "2"])
    text, _, last = capsys.readouterr().out.strip().rpartition("\n")
    figures = json.loads(last)
    for name in bigtable.GOALS:
        assert figures[name] > 0
        assert figures["goals"][name]["met"] in (True, False)
    assert set(figures["client_library_written_per_second"]) == {"data_bulk", "data_batcher", "classic"}
    assert all(name in text for name in bigtable.WRITERS)


def test_ratios_are_to_the_fastest_within_a_round() -> None:
    writes = {"ours": [100.0, 90.0, 80.0], "a": [10.0, 20.0, 10.0], "b": [20.0, 10.0, 5.0]}
    found = bigtable.summary(writes, {"ours": [6.0] * 3, "c": [3.0] * 3}, [1.0, 2.0, 3.0])
    assert found["ratio_to_client_library"] == 5  # of 5, 4.5 and 8
    assert found["rows_written_per_second"] == 90
    assert found["scan_ratio_to_client_library"] == 2
    assert found["rows_got_per_second"] == 2
    assert found["goals"]["ratio_to_client_library"] == {"at_least": 5, "met": True}
    assert not found["goals"]["rows_written_per_second"]["met"]


@pytest.mark.parametrize("argument", ["--rows=99", "--rounds=0"])
def test_options_that_cannot_be(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bigtable.main([argument])
    assert "must be at least 100 and 1" in capsys.readouterr().err
