"""What expires in training is deleted in replicas and in Bigtable, where in the end nothing is left of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monobeam.models.tails import TABLE
from monobeam.serving.replica import Replica
from monobeam.store.bigtable import BigtableBackend
from tests.serving import world as worlds
from tests.serving.test_reshard import Following, InTable
from tests.serving.world import rows_of

KEEP, SPARE = 4, 16  # commits that are kept, and how many more there are until they are trimmed
ITEM = 3  # the number of the slot that expires, after an hour


def items(replica: Replica) -> set[int]:
    return {fid for fid in rows_of(replica.tables[TABLE]) if fid >> 48 == ITEM}


def cells(backend: BigtableBackend) -> Counter[int]:
    """How many versions there are of every id."""
    return Counter(cell.fid for cell in backend.raw_cells())


@pytest.fixture
def remembers_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "open_backend", lambda uri: BigtableBackend(uri, keep_epochs=KEEP))


@pytest.mark.usefixtures("remembers_little")
def test_expired_ids_are_deleted_everywhere(tmp_path: Path, new_table: Callable[[], str]) -> None:
    world = InTable(tmp_path, new_table())
    following, backend = Following(world), BigtableBackend(world.uri("store"))
    world.publish_by_shard(world.commit(1))
    following.step()
    before = items(following.replica)

    world.publish_by_shard(world.commit(2, rows=2, later_s=7200))
    following.step()
    following.check()
    gone = before - items(following.replica)
    assert len(gone) > 30
    assert following.counts()["gaps"] == 0, "by events, and not by reading the store again"
    assert gone <= cells(backend).keys(), "a replica that missed the event can still read of it"

    late = Replica(world.config)
    for shard in late.shards:
        late.catch_up(shard.index, backend)
    assert not gone & items(late)

    for number in range(KEEP + 2 * SPARE):
        world.publish_by_shard(world.commit(3, rows=2, later_s=7201 + number))
    following.step()
    following.check()
    left = cells(backend)
    assert not (gone - items(following.replica)) & left.keys()
    assert max(left.values()) <= KEEP + SPARE + 2
    assert np.mean(list(left.values())) < 3
    following.follower.stop()
    backend.close()
    world.close()
