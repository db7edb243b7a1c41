"""``python -m monobeam.store`` as people and scripts use it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monobeam.store.__main__ import main
from monobeam.store.commands import COMMANDS
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.storage import create, open_storage
from tests.store.whole import Whole


class Shell:
    """Runs commands on a store of three shards with ten commits."""

    def __init__(self, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.uri = uri
        self.content = Whole()
        self.said, self.error = "", ""
        self._capsys = capsys
        self.train(10)

    def train(self, commits: int) -> None:
        backend = open_storage(self.uri)
        backend.own()
        for _ in range(commits):
            self.content.commit(backend, 3)
        backend.close()

    def check(self, shards: int, content: Whole | None = None) -> None:
        backend = open_storage(self.uri)
        (content or self.content).check(backend, shards)
        backend.close()

    def run(self, *arguments: object, status: int = 0) -> Any:
        """The figures of the last line; what was said before is in ``said`` and ``error``."""
        assert main([str(argument) for argument in (*arguments, f"--store={self.uri}")]) == status
        out, self.error = self._capsys.readouterr()
        *lines, last = out.splitlines() or [""]
        self.said = "\n".join(lines)
        return json.loads(last) if last else None


@pytest.fixture(params=["lmdb", "bigtable"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    if request.param == "bigtable":
        return Shell(request.getfixturevalue("new_table")(), capsys)
    return Shell(f"lmdb:{tmp_path / 'store'}", capsys)


@pytest.fixture
def lmdb_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(f"lmdb:{tmp_path / 'store'}", capsys)


def test_show(shell: Shell) -> None:
    shown = shell.run("show")
    assert (shown["command"], shown["store"], shown["epoch"], shown["shards"]) == ("show", shell.uri, 10_002, 3)
    assert shown["epochs"] == [10_000, 10_001, 10_002]
    assert shown["positions"] == {"0": 10, "7": 20}
    assert shown["rows"] == sum(len(table) for table in shell.content.rows.values())
    assert shown["example_keys"] == 500
    assert shown["fingerprint"]["model"] == "m"
    assert shown["stored_bytes"] >= 0
    assert "epoch 10002, 1970-01-01T00:00:00Z, 3 shards, " in shell.said
    assert "trained up to offset 10 of partition 0, offset 20 of partition 7" in shell.said


def test_keep_list_restore_drop(shell: Shell) -> None:
    kept = shell.run("keep")
    beside = "/snapshots/" if shell.uri.startswith("lmdb:") else "-snapshot-"
    assert kept["uri"] == f"{shell.uri}{beside}10002"
    then = Whole().advance(10)
    shell.train(3)
    listed = shell.run("list")
    assert listed["current"]["epoch"] == 13_002
    assert [one["uri"] for one in listed["snapshots"]] == [kept["uri"]]
    assert listed["snapshots"][0]["rows"] == kept["rows"]
    restored = shell.run("restore", 10_002)
    assert (restored["source"], restored["rows"]) == (kept["uri"], kept["rows"])
    assert restored["positions"] == {"0": 10, "7": 20}
    assert "training goes on from offset 10 of partition 0" in shell.said
    shell.check(3, then)
    assert shell.run("drop", 10_002)["dropped"] == kept["uri"]
    assert shell.run("list")["snapshots"] == []
    assert "no snapshots" in shell.said


def test_a_snapshot_that_was_never_finished(shell: Shell) -> None:
    store = open_storage(shell.uri)
    for epoch in (5, 10_002) if shell.uri.startswith("bigtable:") else (5,):
        create(store.snapshot_uri(epoch))
    assert shell.run("list")["snapshots"] == []
    assert f"{store.snapshot_uri(5)}: unfinished; drop it" in shell.said
    shell.run("keep")
    listed = shell.run("list")
    assert ([one["epoch"] for one in listed["snapshots"]], listed["unfinished"]) == ([10_002], [5])
    shell.run("drop", 5)
    assert shell.run("list")["unfinished"] == []
    store.close()


def test_a_copy_elsewhere(shell: Shell, tmp_path: Path) -> None:
    copy = f"lmdb:{tmp_path / 'elsewhere'}"
    shell.run("keep", f"--to={copy}")
    shell.run("keep", f"--to={copy}", status=2)
    assert shell.error == f"{copy}: holds a store already; choose another place, or remove it\n"
    shell.train(1)
    assert shell.run("restore", f"--from={copy}")["positions"] == {"0": 10, "7": 20}
    shell.check(3, Whole().advance(10))


def test_reshard_and_compact(shell: Shell) -> None:
    figures = shell.run("reshard", 5)
    assert (figures["shards_before"], figures["shards"]) == (3, 5)
    assert "set shards = 5 under [store]" in shell.said
    shell.check(5)
    assert shell.run("compact")["rows"] == figures["rows"]
    shell.check(5)
    assert shell.run("check")["faults"] == []


def test_check_says_what_is_wrong(lmdb_shell: Shell, tmp_path: Path) -> None:
    shell = lmdb_shell
    figures = shell.run("check")
    assert (figures["example_keys"], figures["faults"]) == (500, [])
    file = tmp_path / "store" / "data.mdb"
    content = bytearray(file.read_bytes())
    with LmdbBackend(tmp_path / "store").last_commit() as last:
        value = bytes(next(iter(last.txn.cursor()))[1])
    content[content.find(value[4:]) + 40] ^= 1
    file.write_bytes(content)
    figures = shell.run("check", status=1)
    (fault,) = figures["faults"]
    assert "checksum" in fault
    assert fault in shell.said


def test_an_owned_store_can_be_read_and_copied_alone(shell: Shell) -> None:
    owner = open_storage(shell.uri)
    owner.own()
    for arguments in (("show",), ("list",), ("check",), ("keep",)):
        shell.run(*arguments)
    refused = [("reshard", 2), ("compact",), ("restore", 10_002)]
    for arguments in refused[: 1 if shell.uri.startswith("bigtable:") else 3]:  # there each waits to see a renewal
        shell.run(*arguments, status=2)
        assert "owned by" in shell.error
    owner.close()
    shell.check(3)


def test_create_and_stores_without_a_commit(lmdb_shell: Shell, tmp_path: Path) -> None:
    shell = lmdb_shell
    shell.uri = f"lmdb:{tmp_path / 'new'}"
    for arguments in (("keep",), ("compact",), ("reshard", 2)):
        shell.run(*arguments, status=2)
        assert "holds no commit yet" in shell.error
    assert not (tmp_path / "new").exists()
    shell.run("create")
    shell.run("create")
    assert (tmp_path / "new").exists()
    assert shell.run("show")["epoch"] is None
    assert shell.run("list")["current"] is None
    assert shell.run("check")["faults"] == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("memory:x", "a store in memory is that of one process"),
        ("redis:x", "must be memory:, memory:NAME, lmdb:DIRECTORY"),
    ],
)
def test_addresses_that_cannot_be(lmdb_shell: Shell, uri: str, said: str) -> None:
    shell = lmdb_shell
    shell.uri = uri
    shell.run("show", status=2)
    assert said in shell.error


def test_arguments_that_cannot_be(shell: Shell) -> None:
    shell.run("drop", 5, status=2)
    assert shell.error == f"{shell.uri}: there is no snapshot 5; there are: none\n"
    shell.run("reshard", 0, status=2)
    assert "shards = 0: must be 1..65536" in shell.error
    for arguments in (["restore"], ["restore", "5", "--from=x"], ["reshard", "two"], ["keep", "--store"]):
        with pytest.raises(SystemExit) as refused:
            main([*arguments, f"--store={shell.uri}"])
        assert refused.value.code == 2


@pytest.mark.parametrize("arguments", [("keep", "--to=memory:"), ("restore", "--from=memory:")])
def test_no_copy_is_in_memory(lmdb_shell: Shell, arguments: tuple[str, ...]) -> None:
    lmdb_shell.run(*arguments, status=2)
    assert f"{arguments[1]}: a store in memory is that of one process" in lmdb_shell.error


def test_as_a_program(lmdb_shell: Shell) -> None:
    shell = lmdb_shell
    command = [sys.executable, "-m", "monobeam.store"]
    done = subprocess.run([*command, "show", f"--store={shell.uri}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["epoch"] == 10_002
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for name in COMMANDS:
        assert f"\n    {name} " in told


def test_as_docs_operations_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of the page, in its order, as it is written there; EPOCH is that of a snapshot that was kept."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    lines = re.findall(r"^ +(python -m monobeam\.store .*--store=lmdb:.*|mv .*)$", page, re.MULTILINE)
    assert len(lines) == 11
    monkeypatch.chdir(tmp_path)
    shell = Shell(f"lmdb:{tmp_path / 'runs' / 'own_logs' / 'store'}", capsys)
    for line in lines:
        if "restore EPOCH" in line:
            shell.run("keep")  # the one before was dropped
            shell.train(1)
        words = line.replace("EPOCH", "10002").split()
        if words[0] == "mv":
            subprocess.run(words, check=True)
        else:
            assert main(words[3:]) == 0, line
        if "restore EPOCH" in line:
            shell.check(3, Whole().advance(10))
    shell.check(6, Whole().advance(10))
