"""Training in several processes: whoever dies or is paused, the result has the bits of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monobeam.serving.replica import Replica
from monobeam.store.backend import AwayError, BackendError, open_backend
from monobeam.store.connection import Connection
from monobeam.transforms import resources, train
from tests.end_to_end import training
from tests.end_to_end.run import ROOT, wait_until
from tests.end_to_end.training import BLOCKS
from tests.store.servers import IMPATIENT, Process

Parameters = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    training.write(made)
    return made


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Parameters:
    """What a trainer with its own store learns."""
    training.fold(folder, "memory:undisturbed", 1)
    return parameters("memory:undisturbed")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(Connection, "PULSE_S", IMPATIENT[0])
    monkeypatch.setattr(Connection, "PATIENCE_S", IMPATIENT[1])
    monkeypatch.setattr(train, "LONGEST_PAUSE_S", 0.5)
    yield monkeypatch
    train.close_all()
    resources.close_all()


def parameters(store: str) -> Parameters:
    """Every row, bit for bit, and all else that a commit holds."""
    backend = open_backend(store)
    manifest = backend.manifest()
    assert manifest is not None
    rows = {
        (block.table, int(key)): row.tobytes()
        for shard in range(len(manifest.epochs))
        for block in backend.load(shard).blocks
        for key, row in zip(block.keys, block.rows, strict=True)
    }
    seen = sum(len(block.keys) for block in backend.seen())
    backend.close()
    return {"rows": rows, "dense": backend.dense(), "at": manifest.positions, "meta": manifest.meta, "seen": seen}


def position(store: str) -> int:
    """How far the log is trained."""
    with suppress(BackendError):
        manifest = open_backend(store).manifest()
        return manifest.positions.get(0, 0) if manifest else 0
    return 0


@pytest.fixture
def trainer(folder: Path, impatient: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], Future[None]]]:
    """Starts a trainer in a thread, which ends with the test."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda store, shards: pool.submit(training.fold, folder, store, shards)
        impatient.setattr(train, "LONGEST_PAUSE_S", -1)  # cannot be slept


@pytest.fixture
def processes() -> Iterator[Callable[[Process], Process]]:
    """Ends servers with the test."""
    with ExitStack() as stack:
        yield stack.enter_context


def test_a_server_that_is_killed_again_and_again(
    folder: Path,
    undisturbed: Parameters,
    tmp_path: Path,
    trainer: Callable[[str, int], Future[None]],
    processes: Callable[[Process], Process],
) -> None:
    store = f"lmdb:{tmp_path}/store"
    server = processes(Process("0-2", store))
    uri = server.ready()
    replica = Replica(training.configuration(3))
    running = trainer(uri, 3)
    for share in (0.2, 0.5):
        wait_until(lambda share=share: position(store) > share * BLOCKS, running)
        if share == 0.2:
            replica.load(open_backend(uri))
        server.kill()
        with pytest.raises(AwayError):
            replica.ahead(open_backend(uri))
        server = processes(Process("0-2", store, port=int(uri.rpartition(":")[2])))
        assert server.ready() == uri
    running.result()
    assert parameters(uri) == undisturbed
    for shard in range(3):
        replica.catch_up(shard, open_backend(uri))
    fresh = Replica(training.configuration(3))
    fresh.load(open_backend(store))
    for name, table in fresh.tables.items():
        np.testing.assert_array_equal(replica.tables[name].keys(), table.keys())
        np.testing.assert_array_equal(replica.tables[name].lookup(table.keys())[0], table.lookup(table.keys())[0])


def test_a_trainer_that_is_killed(
    folder: Path,
    undisturbed: Parameters,
    tmp_path: Path,
    trainer: Callable[[str, int], Future[None]],
    processes: Callable[[Process], Process],
) -> None:
    store = f"lmdb:{tmp_path}/store"
    uri = processes(Process("0", store)).ready()
    command = [sys.executable, "-m", "tests.end_to_end.training", str(folder), uri, "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_until(lambda: position(store) > 0.3 * BLOCKS or process.poll() is not None)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read()
    assert position(store) < BLOCKS
    trainer(uri, 1).result()
    assert parameters(uri) == undisturbed


@pytest.mark.parametrize("paused", [0, 1], ids=["head", "other"])
def test_a_server_that_is_paused_beyond_its_lease(
    new_table: Callable[[], str],
    undisturbed: Parameters,
    trainer: Callable[[str, int], Future[None]],
    processes: Callable[[Process], Process],
    impatient: pytest.MonkeyPatch,
    paused: int,
) -> None:
    """Another one takes its shards over; when it goes on, it neither commits nor answers."""
    store, parts = new_table(), ("0-1", "2-3")
    module = ("tests.store.servers", "1.5")
    servers = [processes(Process(part, store, module=module)) for part in parts]
    addresses = [server.ready() for server in servers]
    running = trainer(addresses[1 - paused], 4)
    wait_until(lambda: position(store) > 0.2 * BLOCKS, running)
    impatient.setattr(Connection, "PULSE_S", 1e6)  # these two do not mind, however long the test takes
    trainers, heads = Connection(addresses[paused]), Connection(addresses[paused])
    generation = trainers.call("generation", {}).header["generation"]
    servers[paused].popen.send_signal(signal.SIGSTOP)
    impatient.setattr(Connection, "PULSE_S", IMPATIENT[0])
    taken = processes(Process(parts[paused], store, module=module)).ready()
    wait_until(lambda: position(store) > 0.5 * BLOCKS, running)
    keys = np.empty(0, np.uint64), np.zeros(1, np.int64)
    pull = trainers.ask("pull", {"generation": generation, "table": "narrow", "now_s": 1, "pooled": True}, *keys)
    prepare = heads.ask("prepare", {"generation": generation, "epochs": [1 << 40] * 4})
    servers[paused].popen.send_signal(signal.SIGCONT)
    for late in (pull, prepare):
        with pytest.raises(AwayError, match=r"is owned by process|was taken over|waits for its shards|were not loaded"):
            late.answer()
    running.result()
    assert parameters(taken) == undisturbed
    trainers.close()
    heads.close()
