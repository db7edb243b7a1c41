"""Users' topics: where the schema of a message comes from, and what becomes of messages that are no records."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fastavro
import pytest

from monobeam.logs import columns, schemas
from monobeam.logs.log import AwayError, encode_records, newest, open_log, records
from tests.kafka_cluster import Cluster, topic

SHOWN = schemas.impressions({"user": "string"})
TEXT = json.dumps(SHOWN)
NOW_US = 2_000_000_000_000_000


def shown(name: str) -> bytes:
    return encode_records(TEXT, [{"impression_id": name, "time": 10**15, "user": "u"}])


def produce(kafka: Cluster, uri: str, *values: bytes | None) -> None:
    """As a user's program does, that knows nothing of monobeam."""
    kafka.make(uri)
    users = kafka.producer()
    for value in values:
        users.produce(topic(uri), value, partition=0)
    assert users.flush(30) == 0


def decoded(uri: str) -> tuple[list[str], dict[int, tuple[str, bytes]]]:
    """The impressions that a topic holds, and what was rejected: reason and payload, by offset."""
    log, ids, rejects, offset = open_log(uri), list[str](), {}, 0
    while chunks := log.read(0, offset, 100):
        for chunk in chunks:
            found = columns.impressions(chunk, uri, NOW_US)
            ids += found.batch.column("_id").to_pylist()
            rejects |= {reject.offset: (reject.reason, reject.payload) for reject in found.rejects}
            assert found.batch.num_rows + sum(reject.count for reject in found.rejects) == chunk.count
        offset = chunks[-1].end
    return ids, rejects


def test_plain_datums_have_the_schema_of_a_file(kafka: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "shown.avsc"
    file.write_text(TEXT)
    uri = kafka.new(f"schema={file}")
    produce(kafka, uri, shown("a"), b"\xff\xff", shown("b"), None, shown("c"), shown("d") + b"x")
    ids, rejects = decoded(uri)
    assert ids == ["a", "b", "c"]
    assert {offset: payload for offset, (_, payload) in rejects.items()} == {
        1: b"\xff\xff",
        3: b"",
        5: shown("d") + b"x",
    }
    reasons = [reason for reason, _ in rejects.values()]
    assert [reason[:27] for reason in reasons] == [
        "undecodable: ffff: IndexErr",
        "undecodable: the message ha",
        "undecodable: 1 bytes left o",
    ]
    assert "no payload (a tombstone)" in reasons[1]


def test_single_objects_name_their_schema_by_its_fingerprint(kafka: Cluster, tmp_path: Path) -> None:
    first, second = tmp_path / "other.avsc", tmp_path / "shown.avsc"
    other = schemas.impressions({"price": "double"})
    first.write_text(json.dumps(other))
    second.write_text(TEXT)
    form = fastavro.schema.to_parsing_canonical_form(SHOWN)
    fingerprint = bytes.fromhex(fastavro.schema.fingerprint(form, "CRC-64-AVRO"))
    uri = kafka.new(f"schema={first}&schema={second}")
    plain = encode_records(json.dumps(other), [{"impression_id": "b", "time": 10**15, "price": 1.5}])
    produce(kafka, uri, b"\xc3\x01" + fingerprint + shown("a"), plain)
    chunks = open_log(uri).read(0, 0, 10)
    assert [json.loads(chunk.schema) for chunk in chunks] == [SHOWN, other]
    assert [record["impression_id"] for record in records(chunks)] == ["a", "b"]


def test_a_message_without_a_schema_is_a_dead_letter(kafka: Cluster) -> None:
    uri = kafka.new()
    produce(kafka, uri, shown("a"), None)
    ids, rejects = decoded(uri)
    assert ids == []
    assert rejects[0] == (
        "undecodable: no schema is known: no header avro.schema, the log has no ?schema=, and the log has no "
        "?schema.registry=",
        shown("a"),
    )
    assert "tombstone" in rejects[1][0]
    assert newest(open_log(uri), 0) is None


def test_a_header_that_is_no_schema_is_a_dead_letter(kafka: Cluster) -> None:
    uri = kafka.new()
    kafka.make(uri)
    users = kafka.producer()
    users.produce(topic(uri), shown("a"), partition=0, headers={"avro.schema": "{"})
    users.produce(topic(uri), shown("b"), partition=0, headers={"avro.schema": TEXT, "traced": "x"})
    assert users.flush(30) == 0
    ids, rejects = decoded(uri)
    assert ids == ["b"]
    assert "header avro.schema is no Avro schema" in rejects[0][0]


REGISTERED: dict[int, dict[str, Any]] = {
    7: {"schema": TEXT},
    8: {"schema": "syntax = 'proto3';", "schemaType": "PROTOBUF"},
    9: {"schema": TEXT, "references": [{"name": "a", "subject": "b", "version": 1}]},
}


class Registry(ThreadingHTTPServer):
    """Answers as Confluent's does to the one question that is asked of it. ``asked``: what for, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.broken = False
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        found = REGISTERED.get(int(self.path.rpartition("/")[2]))
        self.send_response(500 if self.server.broken else 200 if found else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found or {"error_code": 40403}).encode())

    def log_message(self, form: str, *arguments: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def test_schemas_of_a_registry(kafka: Cluster, registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("schema.registry.basic.auth.user.info=bob:pa:ss")
    uri = kafka.new(f"schema.registry=http://127.0.0.1:{registry.server_port}&config={file}")
    numbers = (7, 7, 8, 9, 10, 7)
    produce(kafka, uri, *(bytes(1) + number.to_bytes(4, "big") + shown(f"i{number}") for number in numbers), b"\0\0")
    ids, rejects = decoded(uri)
    assert ids == ["i7"] * 3
    reasons = [reason for reason, _ in rejects.values()]
    assert [reason.partition("schema ")[2][:12] for reason in reasons[:3]] == [
        "8: PROTOBUF:",
        "9: AVRO with",
        "10: not in h",
    ]
    assert "not in the registry's wire format" in reasons[3]
    assert [path for path, _ in registry.asked] == [f"/schemas/ids/{number}" for number in (7, 8, 9, 10)]
    assert {user for _, user in registry.asked} == {"Basic Ym9iOnBhOnNz"}


def test_a_registry_that_is_away_costs_no_record(kafka: Cluster, registry: Registry) -> None:
    uri = kafka.new(f"schema.registry=http://127.0.0.1:{registry.server_port}")
    produce(kafka, uri, bytes(4) + b"\x07" + shown("a"))
    registry.broken, log = True, open_log(uri)
    with pytest.raises(AwayError, match="/schemas/ids/7: HTTP Error 500"):
        log.read(0, 0, 10)
    registry.broken = False
    assert [record["impression_id"] for record in records(log.read(0, 0, 10))] == ["a"]
