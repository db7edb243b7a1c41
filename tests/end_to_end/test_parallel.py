"""Several training processes over one store in shard servers, each with partitions of the examples log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monobeam.logs import block, schemas
from monobeam.logs.log import open_log, records
from monobeam.models.config import Config, load
from monobeam.models.dense_table import NAME as DENSE
from monobeam.models.features import FeatureEncoder
from monobeam.pipelines import train
from monobeam.serving.replica import Replica
from monobeam.store.backend import open_backend
from monobeam.store.sync import SyncEvent
from tests.end_to_end.run import PATIENCE_S, ROOT, wait_until
from tests.models import streams
from tests.store.servers import Process

PARTITIONS, BLOCKS, ROWS = 3, 120, 16
CONFIG = f"""
[join]
window = "1s"
shards = {PARTITIONS}
[store]
shards = 2
commit_every = "20ms"
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
[[slots]]
feature = "item"
tail = "narrow"
admit_count = 4
[model]
name = "shared"
label = "like"
dim = 4
tail_dim = 2
hidden = [16]
[training]
parallel = true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.toml").write_text(CONFIG)
    rng, key = np.random.default_rng(1), 1
    for partition in range(PARTITIONS):
        made = []
        for _ in range(BLOCKS):
            features = {name: [f"{name}{i}" for i in rng.zipf(1.4, ROWS) % 200] for name in ("user", "item")}
            made.append(streams.block(rng.random(ROWS) < 0.3, features, key))
            key += ROWS
        with open_log(f"file:{tmp_path}/examples").appender(partition, schemas.EXAMPLES) as appender:
            for tick, batch in enumerate([*made, *made[-30:]]):  # as a join does that is started again
                appender.append([{"shard": partition, "tick": tick, "count": ROWS, "block": block.encode(batch)}])
    return tmp_path


def trainer(folder: Path, store: str, partitions: str) -> subprocess.Popen[str]:
    logs = [f"--{name}=file:{folder}/{name}" for name in ("examples", "sync", "metrics")]
    module, config = "monobeam.pipelines.train", f"--config={folder}/model.toml"
    command = [sys.executable, "-m", module, config, f"--store={store}", f"--partitions={partitions}", *logs]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a trainer says last."""
    out, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complaints[-3000:]
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


def examples(folder: Path) -> list[pa.RecordBatch]:
    """The distinct blocks of the log."""
    log, found = open_log(f"file:{folder}/examples"), []
    for partition in log.partitions():
        found += [block.decode(record["block"]) for record in records(log.read(partition, 0, BLOCKS))]
    return found


def update_counts(store: str) -> dict[str, dict[int, int]]:
    """By table and id, how often rows were updated: their last eight bytes."""
    backend, counts = open_backend(store), dict[str, dict[int, int]]()
    manifest = backend.manifest()
    assert manifest is not None
    for shard in range(len(manifest.epochs)):
        for found in backend.load(shard).blocks:
            counts.setdefault(found.table, {}).update(
                (int(key), int.from_bytes(row[-8:].tobytes(), "little"))
                for key, row in zip(found.keys, found.rows, strict=True)
            )
    backend.close()
    return counts


def check(folder: Path, config: Config, store: str) -> None:
    """Every example was trained once: rows by how often their ids occur, dense ones by the number of blocks."""
    blocks, encoder, ids = examples(folder), FeatureEncoder(config), Counter[int]()
    for batch in blocks:
        ids.update(encoder.encode(batch).bags.keys.tolist())
    counts = update_counts(store)
    item = {key: count for key, count in ids.items() if key >> 48 == 2}
    assert counts["narrow"] == item
    assert {key: count for key, count in counts["embeddings"].items() if key >> 48 == 1} == {
        key: count for key, count in ids.items() if key >> 48 == 1
    }
    assert set(counts[DENSE].values()) == {len(blocks)}


def logged(folder: Path) -> dict[int, list[SyncEvent]]:
    """The sync events of every shard."""
    log = open_log(f"file:{folder}/sync")
    return {n: list(map(SyncEvent.from_record, records(log.read(n, 0, 1 << 40)))) for n in log.partitions()}


def replicated(events: list[SyncEvent], config: Config, store: str) -> Replica:
    """A replica that was fed with sync events, in order of commit; it reads the store where one is missing."""
    replica = Replica(config)
    for event in sorted(events, key=lambda event: (event.epoch, event.shard)):
        replica.apply(event, open_backend(store))
    return replica


def test_processes_share_a_store(folder: Path) -> None:
    """Three trainers, of which one is killed on the way, and then their server: everything once."""
    config, store, sync = load(folder / "model.toml"), f"lmdb:{folder}/store", f"--sync=file:{folder}/sync"
    blocks = PARTITIONS * BLOCKS
    with Process("0-1", store, sync) as server:
        uri = server.ready()
        started = {partition: trainer(folder, uri, str(partition)) for partition in range(PARTITIONS)}
        wait_until(lambda: trained(store) > 0.1 * blocks)
        started[1].kill()
        started[1].communicate()
        started[1] = trainer(folder, uri, "1")
        wait_until(lambda: trained(store) > 0.5 * blocks)
        server.kill()
    with Process("0-1", store, sync, port=int(uri.rpartition(":")[2])) as server:
        assert server.ready() == uri
        said = [ended(process) for process in started.values()]
        check(folder, config, store)
        assert sum(each["train"]["repeated"] for each in said) > 0
        check_replica(folder, config, uri)


def check_replica(folder: Path, config: Config, uri: str) -> None:
    """Sync events, of which at most those of the commit that the server died in are missing, lead to the store."""
    found, loaded = logged(folder), Replica(config)
    loaded.load(open_backend(uri))
    assert set(found) == {shard.index for shard in loaded.shards}
    for number, events in found.items():
        ends = [0, *(event.epoch for event in events)]
        gaps = sum(event.previous_epoch != end for event, end in zip(events, ends, strict=False))
        assert ends == sorted(set(ends))
        assert ends[-1] == loaded.shards[number].epoch
        assert gaps <= 1
    replica = replicated([event for events in found.values() for event in events], config, uri)
    for name, table in loaded.tables.items():
        keys = np.sort(table.keys())
        np.testing.assert_array_equal(np.sort(replica.tables[name].keys()), keys)
        np.testing.assert_array_equal(replica.tables[name].lookup(keys)[0], table.lookup(keys)[0])
    for parameter, other in zip(replica.dense.module.parameters(), loaded.dense.module.parameters(), strict=True):
        assert parameter.equal(other)


def test_partitions_that_are_none_and_a_part_without_parallel(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(partitions: str) -> str:
        with pytest.raises(SystemExit) as refusal:
            train.main(
                [f"--config={folder}/model.toml", f"--examples=file:{folder}/examples", f"--partitions={partitions}"]
            )
        return f"{refusal.value}{capsys.readouterr().err}"

    assert "--partitions: [5]: with join.shards = 3 there are 0 to 2" in refused("0,5")
    assert "argument --partitions: '1-0': must be numbers or ranges from low to high" in refused("1-0")
    alone = (folder / "model.toml").read_text().replace("parallel = true", "")
    (folder / "model.toml").write_text(alone)
    assert "--partitions: [0, 1] of 3: needs parallel = true under [training]" in refused("0-1")


def trained(store: str) -> int:
    """How many blocks are trained."""
    backend = open_backend(store)
    manifest = backend.manifest()
    backend.close()
    return sum(manifest.positions.values()) if manifest else 0
