"""A training job whose tables have no room: how it ends, and how it goes on with more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monobeam.logs import block, schemas
from monobeam.logs.log import open_log
from monobeam.models.config import load
from monobeam.pipelines.train import main
from monobeam.store.backend import open_backend
from monobeam.store.store import Store
from monobeam.transforms import resources, train
from tests.models import streams

BLOCKS, ROWS = 100, 2000  # a job looks after 64 blocks whether it is time to commit
MODEL = """
[logs]
examples = "file:{folder}/examples"
sync = "file:{folder}/sync-{name}"
metrics = "file:{folder}/metrics-{name}"
[store]
uri = "lmdb:{folder}/store-{name}"
commit_every = "1ms"
{limit}
[join]
window = "1s"
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
[model]
name = "m"
label = "like"
hidden = [4]
[training]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With an archive in which every example has a user of its own."""
    with open_log(f"file:{tmp_path}/examples").appender(0, schemas.EXAMPLES) as appender:
        for number in range(BLOCKS):
            users = [f"u{number * ROWS + i}" for i in range(ROWS)]
            made = streams.block(np.arange(ROWS) % 2, {"user": users}, 1 + number * ROWS)
            appender.append([{"shard": 0, "tick": number, "count": ROWS, "block": block.encode(made)}])
    yield tmp_path
    train.close_all()
    resources.close_all()


def config(folder: Path, name: str, limit: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(MODEL.format(folder=folder, name=name, limit=limit))
    return path


def job(path: Path) -> None:
    """Train to the end of the archive, and let go of the store, as a process that ends does."""
    try:
        main([f"--config={path}"])
    finally:
        train.close_all()
        resources.close_all()


def contents(path: Path) -> tuple[dict[int, int], dict[int, bytes]]:
    """Positions, and rows by id."""
    given = load(path)
    store = Store(given.store_spec(), open_backend(given.store.uri))
    (shard,) = store.host.shards.values()
    table = shard.tables["embeddings"]
    rows = dict(zip(table.keys().tolist(), map(bytes, table.export_rows(table.keys())), strict=True))
    store.close()
    return store.positions(), rows


def test_a_job_that_is_full_names_table_limit_and_key_and_goes_on_with_more(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # started as it was, it ends as it did
        with pytest.raises(SystemExit) as ended:
            job(config(folder, "one", 'memory_limit = "24MiB"'))
        assert ended.value.code == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("train: table ")
        assert 'has no room to grow within store.memory_limit = "24MiB": ' in last
        assert last.endswith("; nothing that was committed is lost: start it with more")
    (reached,) = contents(config(folder, "one"))[0].values()
    assert 64 <= reached < BLOCKS
    job(config(folder, "one", 'memory_limit = "64MiB"'))
    job(config(folder, "other"))
    positions, rows = contents(config(folder, "one"))
    assert positions == {0: BLOCKS}
    assert len(rows) == BLOCKS * ROWS
    assert (positions, rows) == contents(config(folder, "other"))
