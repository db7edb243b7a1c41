"""Readers beside a writer. What a reader sees of a row is always one state of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np

from monobeam.native import NONE, Table

DIM = 64
KEYS = np.arange(1_000, dtype=np.uint64)


def all_alike(rows: np.ndarray) -> bool:
    """All components of each row are equal: true of every state of these tables, and false of torn rows."""
    return bool((rows == rows[:, :1]).all())


def run_beside(write: Callable[[], None], *readers: Callable[[], bool]) -> None:
    done = Event()

    def read(reader: Callable[[], bool]) -> tuple[bool, int]:
        rounds, good = 0, True
        while not done.is_set() or rounds == 0:
            good = reader() and good
            rounds += 1
        return good, rounds

    with ThreadPoolExecutor(len(readers)) as pool:
        results = [pool.submit(read, reader) for reader in readers]
        try:
            write()
        finally:
            done.set()
        assert all(result.result()[0] for result in results)


def test_no_torn_rows() -> None:
    table = Table(DIM, "adagrad", {}, 0, 0.0)
    table.find_or_insert(KEYS, 0)
    offsets = np.arange(len(KEYS) + 1)

    def write() -> None:
        for step in range(150):
            new = np.arange(1_000 + 40 * step, 1_040 + 40 * step, dtype=np.uint64)
            keys = np.concatenate([KEYS, new])
            gradients = np.full((len(keys), DIM), 0.5 - step % 3, np.float32)
            table.apply(table.find_or_insert(keys, step), gradients, 0.1)
            table.erase(new[:20])

    def gather() -> bool:
        handles = table.find(KEYS)
        return bool((handles != NONE).all()) and all_alike(table.gather(handles))

    def pooled() -> bool:
        return all_alike(table.lookup_pooled(KEYS, offsets))

    def export() -> bool:
        rows = table.export_rows(KEYS)
        updates = rows[:, -8:].copy().view(np.uint64)
        return all_alike(rows[:, : 4 * DIM].copy().view(np.float32)) and bool((updates == updates[0]).all())

    run_beside(write, lambda: all_alike(table.lookup(KEYS)[0]), gather, pooled, export)
    table.check()
    assert table.update_count_sum == 150 * 1_000 + 150 * 20


def test_writers_follow_one_another() -> None:
    table = Table(1, "sgd", {}, 0, 0.0)

    def write() -> None:
        for _ in range(50):
            table.apply(table.find_or_insert(KEYS, 0), np.ones((len(KEYS), 1), np.float32), 0.0)

    with ThreadPoolExecutor(3) as pool:
        for result in [pool.submit(write) for _ in range(3)]:
            result.result()
    assert table.update_count_sum == 3 * 50 * len(KEYS)
    table.check()


def test_forgetting_touched_rows_and_reading_do_not_wait_for_each_other() -> None:
    """It goes over all notes and marks. A bag is read as a whole: who waits for this one has one call end meanwhile."""
    table = Table(16, "sgd", {}, 0, 0.0)
    table.find_or_insert(KEYS, 0)
    handles, offsets = np.zeros(30_000_000, np.uint32), np.array([0, 30_000_000])
    started = Event()

    def read() -> None:
        started.set()
        table.gather_pooled(handles, offsets)

    ended = 0
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        started.wait()
        while not reading.done():
            table.clear_touched()
            ended += not reading.done()
    assert ended > 1


def test_snapshots_beside_a_writer(tmp_path: object) -> None:
    table = Table(2, "sgd", {}, 0, 0.0)
    path = f"{tmp_path}/table"

    def write() -> None:
        for step in range(60):
            keys = np.arange(500 * step, 500 * step + 500, dtype=np.uint64)
            table.apply(table.find_or_insert(keys, 0), np.ones((500, 2), np.float32), 0.1)

    def save() -> bool:
        table.save(path)
        loaded = Table.load(path)
        return len(loaded) % 500 == 0 and len(loaded) - loaded.update_count_sum in (0, 500)

    def check() -> bool:
        table.check()
        return len(table.keys()) % 500 == 0

    run_beside(write, save, check)
