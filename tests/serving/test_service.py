from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from monobeam.logs import schemas
from monobeam.logs.log import open_log
from monobeam.serving.__main__ import main
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.periodic import Periodic
from monobeam.serving.service import _types_of_log
from tests.serving.world import World, running


def write(uri: str, partition: int, features: Mapping[str, Any], **values: Any) -> None:
    with open_log(uri, partitions=2).appender(partition, schemas.impressions(features)) as log:
        log.append([{"impression_id": "i", "time": 1_700_000_000_000_000, **values}])


def types(world: World, uri: str) -> dict[str, pa.DataType]:
    known = FeatureTypes(world.config)
    known.pin(_types_of_log(uri))
    return known.pinned


def test_types_are_those_of_the_newest_records(world: World) -> None:
    uri = world.uri("impressions")
    write(uri, 0, {"item_id": "string"}, item_id="7")
    write(uri, 0, {"item_id": "long", "country": "string"}, item_id=7, country="de")
    write(uri, 1, {"tags": {"type": "array", "items": "string"}}, tags=["a"])
    wanted = {"item_id": pa.int64(), "country": pa.string(), "tags": pa.list_(pa.string())}
    assert types(world, uri).items() >= wanted.items()
    oldest = min((world.folder / "impressions" / "00000").glob("*.avro"))
    oldest.unlink()
    assert types(world, uri).items() >= wanted.items()


def refusal(world: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said by a server that does not start."""
    try:
        status = main([f"--config={world.config_file}", f"--store={world.uri('store')}", *arguments])
    except SystemExit as refused:
        status = int(refused.code or 0)
    assert status == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=/nonexistent/model.toml"], "--config: "),
        (["--port=-1"], "-1: must be from 0 to 65535"),
        (["--port=99999"], "99999: must be from 0 to 65535"),
        (["--host=256.0.0.1"], "--host 256.0.0.1"),
        (["--read-timeout=0"], "0: must be more than 0"),
        (["--sync=nowhere:x"], "--sync: log 'nowhere:x': must be "),
        (["--metrics=nowhere:x"], "--metrics: log 'nowhere:x': must be "),
        (["--served=nowhere:x"], "--served: log 'nowhere:x': must be "),
        (["--store=nowhere:1"], "--store: store 'nowhere:1': must be "),
        (["--served=file:/dev/null/served"], "--served: "),
    ],
)
def test_options_that_cannot_be_are_refused(
    world: World, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    said = refusal(world, capsys, "--port=0", *arguments)
    assert message in said
    assert "Traceback" not in said


def test_a_configuration_that_is_no_text_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.config_file.write_bytes(b"# caf\xe9\n")
    said = refusal(world, capsys, "--port=0")
    assert said.startswith(f"--config: {world.config_file}: not UTF-8")
    assert said.count("\n") == 1


def test_one_server_for_each_partition_of_the_served_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    served = f"--served={world.uri('served')}"
    with running(world) as server:
        assert "another server has partition 0, use --partition=N: " in refusal(world, capsys, "--port=0", served)
        with running(world, "--partition=1") as other:
            assert other.end() == 0
        assert server.end() == 0


def test_another_configuration_than_the_store_s_is_named(world: World) -> None:
    world.step(1)
    world.config_file.write_text(world.config_file.read_text().replace("dim = 4", "dim = 8"))
    with running(world) as server:
        server.until(lambda: server.client.get("/ready").json()["error"] is not None, "the error")
        ready = server.client.get("/ready")
        assert ready.status_code == 503
        assert "tables.embeddings.dim is 5 there and 9 here" in ready.json()["error"]
        assert "tables.embeddings.dim is 5 there and 9 here" in server.log_file.read_text()
        answer = server.rank({"candidates": [{}]})
        assert (answer.status_code, answer.json()["error"]) == (503, "NotReady")


def test_a_failure_that_lasts_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0

    def fail() -> bool:
        raise OSError("disk full")

    thread = Periodic("served log", fail, 0.05, clock_s=lambda: now_s)
    for second in range(150):
        now_s = float(second)
        thread._once()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "served log failed, will try again: OSError: disk full",
        "served log failed, 61 times in a row, will try again: OSError: disk full",
        "served log failed, 121 times in a row, will try again: OSError: disk full",
    ]
