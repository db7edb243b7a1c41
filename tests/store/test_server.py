"""The command ``python -m monobeam.store.server``: what it takes, whom it lets in, and how it waits for its shards."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from monobeam.store.backend import AwayError, BackendError, open_backend
from monobeam.store.flight_store import FlightStore
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.numbers import numbers
from monobeam.store.server import listening, main
from monobeam.store.store import Store
from monobeam.store.wire import Place
from tests.store.servers import Process, patiently, served
from tests.store.test_store import SPEC, commit, step


def test_shards_as_people_write_them() -> None:
    assert numbers("0-3") == [0, 1, 2, 3]
    assert numbers("5") == [5]
    assert numbers("6, 0-1,1") == [0, 1, 6]


@pytest.mark.parametrize("text", ["", "3-1", "a", "0-", "-1", "1,,2"])
def test_what_are_no_shards(text: str) -> None:
    with pytest.raises(ValueError, match=r"like 0-3 or 0-1,6") as refused:
        numbers(text)
    assert text in str(refused.value)


def test_without_tls_and_token_only_loopback_is_served() -> None:
    for place in ("grpc://127.0.0.1:1", "grpc://localhost:1", "grpc://[::1]:1", "127.9.0.1:1"):
        assert listening(place, secured=False, tls=False).location.endswith(":1")
    for place in ("grpc://0.0.0.0:1", "grpc://10.0.0.1:1", "grpc://example.org:1", "grpc://[::]:1"):
        with pytest.raises(ValueError, match="only loopback is served"):
            listening(place, secured=False, tls=True)
        assert listening(place, secured=True, tls=True).location.startswith("grpc+tls://")
    with pytest.raises(ValueError, match="--listen=here: must be grpc://HOST:PORT"):
        listening("here", secured=True, tls=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shards=x", "--store=memory:"], "x"),
        (["--shards=0", "--store=nowhere:"], "store 'nowhere:': must be"),
        (["--shards=0", "--store=memory:", "--listen=grpc://0.0.0.0:0"], "only loopback"),
        (["--shards=0", "--store=memory:", "--tls-cert=x"], "--tls-cert and --tls-key: give both or none"),
        (["--shards=0", "--store=memory:", "--token-file=/no/such/file"], "/no/such/file"),
        (["--shards=0", "--store=memory:", "--token-file=/dev/null"], "/dev/null: there is no token in this file"),
        (["--shards=1-3", "--store=memory:"], "must have all of its shards, from 0 on"),
        (["--shards=0", "--store=flight://127.0.0.1:1"], "shard servers own this store"),
    ],
)
def test_what_cannot_be_served(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("MONOBEAM_TOKEN_FILE", "")
    assert main(options) == 1
    assert said in capsys.readouterr().err


def test_where_it_cannot_listen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"--listen=grpc://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--shards=0", "--store=memory:", place]) == 1
    assert f"{place}: cannot listen there" in capsys.readouterr().err
    (tmp_path / "no.pem").write_text("no certificate")
    assert main(["--shards=0", "--store=memory:", f"--tls-cert={tmp_path}/no.pem", f"--tls-key={tmp_path}/no.pem"]) == 1
    assert f"cannot listen there, with {tmp_path}/no.pem" in capsys.readouterr().err


def test_a_part_of_an_embedded_store_is_refused(tmp_path: Path) -> None:
    store = Store(replace(SPEC, shards=3), LmdbBackend(tmp_path / "store", durable=False))
    commit(store, 1)
    store.close()
    with Process("0-1", f"lmdb:{tmp_path}/store") as server:
        assert server.popen.wait(30) == 1
        assert "has one owner: its server must have all of its shards" in server.said()


@pytest.mark.parametrize("where", ["lmdb", "bigtable"])
def test_shards_that_a_store_does_not_have_are_refused(
    where: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    uri = f"lmdb:{tmp_path}/store" if where == "lmdb" else request.getfixturevalue("new_table")()
    store = Store(replace(SPEC, shards=3), open_backend(uri))
    commit(store, 1)
    store.close()
    assert main(["--shards=3,7", f"--store={uri}"]) == 1
    assert f"{uri} has 3 shards, from 0 on: none of [3, 7] is one" in capsys.readouterr().err


def test_a_second_server_waits_for_the_first_to_end(tmp_path: Path) -> None:
    place = f"lmdb:{tmp_path}/store"
    with ExitStack() as running:
        first = running.enter_context(Process("0-2", place))
        spec = replace(SPEC, shards=3)
        store = FlightStore(spec, first.ready())
        second = running.enter_context(Process("0-2", place))
        step(store, 1)
        commit(store, 1)
        assert "owned by process" in second.complaint()
        first.kill()
        with pytest.raises(AwayError):
            step(store, 2)
        store.close()
        again = patiently(spec, second.ready())
        assert again.positions() == {0: 1}
        assert again.rows > 0
        again.close()
        second.popen.terminate()
        assert second.popen.wait(30) == 0
    LmdbBackend(tmp_path / "store").own()


def test_who_has_not_the_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("let me in\n")
    with served(MemoryBackend(), range(1), "let me in") as server:
        for wrong in (None, "let me", "let me in please"):
            if wrong is not None:
                monkeypatch.setenv("MONOBEAM_TOKEN", wrong)
            with pytest.raises(BackendError, match="the token was refused: give the token of this server") as refused:
                FlightStore(SPEC, server.uri)
            assert not isinstance(refused.value, AwayError)
        monkeypatch.setenv("MONOBEAM_TOKEN", "let me in")
        FlightStore(SPEC, server.uri).close()
        monkeypatch.setenv("MONOBEAM_TOKEN", "wrong, and the file wins")
        monkeypatch.setenv("MONOBEAM_TOKEN_FILE", str(secret))
        assert open_backend(server.uri).manifest() is None


def test_an_address_of_ipv6_is_one() -> None:
    assert Place.parse("flight://[::1]:80,a.b:81").addresses == ["flight://[::1]:80", "flight://a.b:81"]
    for wrong in ("flight://::1:80", "flight://[::1]", "flight://[::1:80", "flight://a/b:80"):
        with pytest.raises(ValueError, match="must be flight://HOST:PORT"):
            Place.parse(wrong)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(built.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "token").write_text("secret")
    options = [f"--tls-cert={cert}", f"--tls-key={key}", f"--token-file={tmp_path}/token"]
    with Process("0", f"lmdb:{tmp_path}/store", *options) as server:
        uri = server.ready()
        assert uri.startswith("flight+tls://127.0.0.1:")
        monkeypatch.setenv("MONOBEAM_TOKEN", "secret")
        with pytest.raises(AwayError, match="cannot be reached"):
            FlightStore(SPEC, uri)
        monkeypatch.setenv("MONOBEAM_TLS_CA", str(cert))
        store = FlightStore(SPEC, uri)
        step(store, 1)
        commit(store, 1)
        assert store.rows > 0
        store.close()
        with pytest.raises(AwayError, match="cannot be reached"):
            FlightStore(SPEC, uri.replace("+tls", ""))
        everywhere = ["--shards=0", "--store=memory:", "--listen=grpc://0.0.0.0:0", *options]
        monkeypatch.setattr("signal.signal", lambda *_: None)
        monkeypatch.setenv("MONOBEAM_TOKEN_FILE", "")
        assert main(everywhere) == 1
        assert "give --advertise=HOST:PORT too" in capsys.readouterr().err
