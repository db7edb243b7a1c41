"""A saved table that every later build must read: `python -m tests.native.golden > tests/native/golden/table_v4.hex`.

It is made again only when the format gets a new version, under that version's name.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from monobeam.native import Table
from tests.native.hashes import GOLDEN, WORD, unmix

FILE = Path(__file__).with_name("table_v4.hex")
KEYS = np.array([7, 1 << 48 | 7, 2**64 - 1, 2**63, 0], np.uint64)
PENDING = np.array([3 << 48 | 1, 3 << 48 | 2], np.uint64)
# Their hashes agree in the low 20 bits: they share two buckets of four slots, and the rest overflows.
CROWD = np.array([unmix((i << 52 | 5 << 32 | i << 20 | 9) & WORD) - GOLDEN & WORD for i in range(10)], np.uint64)
ERASED = np.array([1 << 48 | 99], np.uint64)
DIM = 40


def golden_table() -> Table:
    """With something of all that a file holds."""
    table = Table(DIM, "adagrad", {"initial_accumulator": 0.25, "epsilon": 1e-6}, 2**64 - 3, 0.5, 100, "fp16", 1 << 24)
    table.set_policy(1, admit_count=1, expire_seconds=1000)
    table.set_policy(3, admit_count=3, admit_probability=0.9, pending_seconds=60)
    handles = table.find_or_insert(np.concatenate([KEYS, CROWD, ERASED]), 1_700_000_000)
    table.find_or_insert(PENDING[[0, 1, 1]], 1_700_000_001)
    table.apply(handles[:3], np.arange(3 * DIM, dtype=np.float32).reshape(3, DIM) / 64 - 1, 0.125)
    table.clear_touched()
    table.apply(np.repeat(handles[1:2], 20_000), np.full((20_000, DIM), 2.0**-20, np.float32), 0.5)
    table.erase(ERASED)
    table.expire(1_700_000_002, 3)
    return table


def file_of(table: Table) -> bytes:
    """The bytes that save() writes."""
    with TemporaryDirectory() as folder:
        table.save(f"{folder}/table")
        return Path(folder, "table").read_bytes()
