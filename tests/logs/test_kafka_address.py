"""Addresses of topics: what they hold, what they must not, and that secrets are never said."""

from __future__ import annotations

from pathlib import Path

import pytest

from monobeam.logs.kafka.address import Address
from monobeam.logs.log import open_log


def test_an_address_and_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("! both kinds\n# of comments\n\nsasl.password = a=b\nclient.id=file\n")
    uri = f"kafka://one:9092,[::1]:9093/shown.v1?client.id=mine&schema=a.avsc&schema=b.avsc&config={file}"
    address = Address.parse(uri)
    assert (address.brokers, address.topic, address.schemas) == (
        "one:9092,[::1]:9093",
        "shown.v1",
        ("a.avsc", "b.avsc"),
    )
    assert address.settings() == {"sasl.password": "a=b", "client.id": "mine"}
    assert open_log("kafka://one:9092/shown").uri == "kafka://one:9092/shown"


@pytest.mark.parametrize(
    "uri",
    [
        "kafka:topic",
        "kafka:topic@host:9092",
        "kafka://host:9092",
        "kafka://host:9092/",
        "kafka:///topic",
        "kafka://host:9092/a/b",
        "kafka://host:9092/a b",
        "kafka://host:9092,/topic",
        "kafka://host:port/topic",
        "kafka://host:9092/topic#part",
        f"kafka://host:9092/{'x' * 250}",
    ],
)
def test_what_is_no_address_is_quoted(uri: str) -> None:
    with pytest.raises(ValueError, match="must be kafka://HOST:PORT") as refused:
        open_log(uri)
    assert repr(uri) in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "kafka://host:9092/topic?sasl.password=hunter2",
        "kafka://host:9092/topic?ssl.key.password=hunter2",
        "kafka://host:9092/topic?sasl.oauthbearer.client.secret=hunter2",
        "kafka://host:9092/topic?ssl.key.pem=hunter2",
        "kafka://host:9092/topic?schema.registry.basic.auth.user.info=bob:hunter2",
        "kafka://bob:hunter2@host:9092/topic",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_said(uri: str) -> None:
    with pytest.raises(ValueError, match=r"config=FILE") as refused:
        open_log(uri)
    assert "hunter2" not in str(refused.value)


def test_settings_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match=r'kafka://host:9092/topic: No such configuration property: "retries.of.mine"'):
        open_log("kafka://host:9092/topic?retries.of.mine=3").partitions()
    with pytest.raises(ValueError, match=r"kafka://host:9092/topic: Invalid value \"zip\" for .*compression"):
        open_log("kafka://host:9092/topic?compression.codec=zip").partitions()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\?config=.*missing: cannot be read: No such file"):
        open_log(f"kafka://host:9092/topic?config={tmp_path}/missing").partitions()
    (tmp_path / "file").write_text("sasl.username=bob\nhunter2\n")
    with pytest.raises(ValueError, match=r"\?config=.*file: line 2: must be NAME=VALUE$"):
        open_log(f"kafka://host:9092/topic?config={tmp_path}/file").partitions()
    for schema in ("missing", "file"):
        with pytest.raises(ValueError, match=rf"\?schema=.*{schema}: "):
            open_log(f"kafka://host:9092/topic?schema={tmp_path}/{schema}")
