import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
AnyKeys = npt.NDArray[np.uint64] | npt.NDArray[np.int64]
Handles = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

NONE: int
"""The handle of a key that has no row: 0xFFFFFFFF."""

def hash_strings(
    offsets: npt.NDArray[np.int32] | npt.NDArray[np.int64], data: npt.NDArray[np.uint8], seed: int
) -> npt.NDArray[np.uint64]:
    """Hash data[offsets[i]:offsets[i + 1]] for i < n; offsets [n + 1] need not start at 0 (a slice of a column)."""

def hash_ints(values: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Hash integers [n]: a bijection for every seed."""

class Room:
    """What several tables together may use: they take from it as they grow, and give back; those that are gone all."""

    def __init__(self, limit: int) -> None:
        """Make room for `limit` bytes (at least 1) of indices and rows."""

    @property
    def limit(self) -> int: ...
    @property
    def used(self) -> int: ...

class Table:
    """Rows of `dim` numbers with optimizer state by uint64 key: a collisionless cuckoo table.

    Every uint64 is a key; int64 arrays of keys are read as the same 64 bits (-1 is 2**64 - 1), and keys come out as
    uint64. Arrays must have exactly the dtype given here and be C-contiguous; nothing is converted.
    Embeddings go in and out as float32, whatever the rows hold. All results are a pure function of the sequence of
    calls. Every method may be called from any thread; reading methods run beside one that changes the table, and see
    each row before or after an update, never in between. A handle is valid until its key is erased or expires.
    Where a method takes `out`, the result is written to that array, which is returned: new memory for each call costs
    more than a lookup.

    Bags are `offsets` int64[M + 1] into N keys or handles: bag m is [offsets[m], offsets[m + 1]), offsets[0] = 0,
    offsets[M] = N.

    Raises TypeError for a wrong dtype or number of dimensions, ValueError for a wrong value or width, MemoryError where
    memory_limit, the room or a limit of the process leaves no more: what was done before stays done, and the table goes
    on.
    """

    def __init__(
        self,
        dim: int,
        optimizer: str,
        hyper: dict[str, float],
        seed: int,
        init_scale: float,
        pending_limit: int = 1 << 20,
        row_format: str = "fp32",
        memory_limit: int = 0,
        room: Room | None = None,
    ) -> None:
        """Make an empty table.

        Args:
            dim: floats of an embedding; 0 for a set of keys.
            optimizer: sgd, momentum, adagrad, rowwise_adagrad, rmsprop, adadelta, adam, adamw, amsgrad, ftrl or
                group_ftrl.
            hyper: its hyper-parameters, and clip_value, clip_norm, weight_decay; those not given have defaults.
            seed: of initial rows and admission draws, in [0, 2**64).
            init_scale: initial components are uniform in [-init_scale, init_scale), a pure function of key and seed.
            pending_limit: keys that may wait for admission at a time, about 30 bytes each: a key is forgotten when so
                many began to wait after it.
            row_format: of embeddings in memory: fp32; fp16 or bf16, rounded stochastically at each step (Gupta et al.
                2015); int8 with a scale for each row, for serving, where nothing is learnt. State is always float32.
            memory_limit: bytes of index and rows, beyond which new rows are refused; 0: none, and the system ends a
                process that outgrows it. Not in it, but in memory_bytes: 8 bytes for each key that expired() and
                touched() remember and each that waits for admission, 48 for each update count above 2**14.
            room: what these bytes are taken from besides; tables that share it grow up to its limit together. save()
                does not keep it.
        """

    @staticmethod
    def load(path: Path, progress: Progress | None = None) -> Table:
        """Read what save() wrote; OSError for the file system, ValueError for a file that is not a whole table.

        `progress(done, all)` is told bytes now and then; what it raises ends the work.
        """

    def save(self, path: Path, progress: Progress | None = None) -> None:
        """Write the table as it is now, while other threads go on changing it: none waits for more than 2 ms.

        The file is replaced when all of it is on disk. `progress(done, all)` is told bytes now and then, and may do
        anything with the table but clear() or save() it; what it raises ends the work. OSError for the file system,
        MemoryError where there is none for rows that change meanwhile; the old file stays then.
        """

    def set_policy(
        self,
        slot: int,
        admit_count: int = 0,
        admit_probability: float = 1.0,
        expire_seconds: int = 0,
        pending_seconds: int = 0,
    ) -> None:
        """Set what keys of a slot (bits 48 to 62) need to get and to keep a row.

        A key gets a row at a sighting that is at least its `admit_count`-th and whose draw, a pure function of key,
        sighting and seed, is below `admit_probability`. It loses it `expire_seconds` after it was last seen (0: never).
        Sightings of a key without a row are forgotten `pending_seconds` after the last one (0: like rows).
        """

    def reserve(self, rows: int) -> None:
        """Have memory for `rows` rows in all ready, so that their first use costs no page fault.

        Growth never pauses; but on a virtual machine the first use of a page may take some milliseconds. MemoryError
        for more than memory_limit or the machine (or container) has.
        """

    def find_or_insert(self, keys: AnyKeys, now: int) -> Handles:
        """Count a sighting of each key [N] at `now` seconds; handles uint32[N], NONE where there is no row yet."""

    def find(self, keys: AnyKeys) -> Handles:
        """Handles uint32[N] of keys [N], NONE where there is no row."""

    def gather(self, handles: Handles, out: Floats | None = None) -> Floats:
        """Embeddings float32[N, dim] of handles [N], zeros for NONE."""

    def gather_pooled(self, handles: Handles, offsets: Offsets, out: Floats | None = None) -> Floats:
        """Sum the embeddings of each bag in order: float32[M, dim]."""

    def lookup(self, keys: AnyKeys, out: Floats | None = None) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Embeddings float32[N, dim] of keys [N], zeros where there is no row, and bool[N] whether there is one."""

    def lookup_pooled(self, keys: AnyKeys, offsets: Offsets, out: Floats | None = None) -> Floats:
        """Sum the embeddings of each bag of keys in order: float32[M, dim]."""

    def apply(self, handles: Handles, gradients: Floats, learning_rate: float) -> None:
        """Update with a gradient for each handle: apply_pooled() with bags of one; gradients float32[N, dim]."""

    def apply_pooled(self, handles: Handles, offsets: Offsets, gradients: Floats, learning_rate: float) -> None:
        """Make one optimizer step for every distinct row, with a gradient for each bag: float32[M, dim].

        The gradient of a row is the sum over its occurrences in order; its update count grows by their number.
        """

    def touched(self) -> Keys:
        """Keys, sorted, whose rows were updated, or erased and made anew, since the last clear_touched()."""

    def expired(self) -> Keys:
        """Keys, sorted, that were erased or have expired since the last clear_touched() and have no row now."""

    def clear_touched(self) -> None:
        """Start touched() and expired() anew; without it the table remembers every key that it erased."""

    def export_rows(self, keys: AnyKeys) -> Bytes:
        """Rows as bytes, uint8[N, row_bytes]; ValueError if a key has no row.

        Little endian: float32[dim] embedding, float32[state_floats], uint32 last seen (seconds), uint32 0, uint64
        update count.
        """

    def import_rows(self, keys: AnyKeys, rows: Bytes) -> None:
        """Insert or overwrite rows [N, row_bytes]; they are neither touched nor subject to admission."""

    def import_values(self, keys: AnyKeys, values: Floats) -> None:
        """Insert or overwrite embeddings [N, dim]; optimizer state becomes that of a new row.

        With ftrl and group_ftrl, whose weights are a function of their state, the values last until the next step.
        """

    def erase(self, keys: AnyKeys) -> int:
        """Erase keys; returns how many had a row."""

    def expire(self, now: int, budget: int) -> Keys:
        """Look at the next `budget` buckets and erase what was not seen for its slot's expire_seconds at `now`.

        Goes on where the last call ended; a budget of stats()["buckets"] looks at all. Returns the keys, sorted.
        """

    def expire_keys(self, keys: AnyKeys, now: int) -> int:
        """Erase those of the keys [N] that expire() would if it came to them now; returns how many had a row.

        Called before each find_or_insert() with times that never go back, it makes values of rows and who is admitted
        the same whenever expire() is called; not handles, nor what is left of keys that never come again.
        """

    def clear(self) -> None:
        """Empty the table and its history; policies stay."""

    def keys(self) -> Keys:
        """All keys that have a row, sorted."""

    def check(self) -> None:
        """Verify every invariant; RuntimeError names the broken one."""

    def stats(self) -> dict[str, int]:
        """Counters.

        buckets, pending (keys waiting for admission), overflowing (keys outside buckets), forgotten (pending keys
        dropped at the limit), most_saved (bytes that save() copied while others waited, at most), splits and moves in
        all, most_splits, most_moves and most_searched by one insert.
        """

    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def update_count_sum(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def state_floats(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def row_format(self) -> str: ...
    @property
    def seed(self) -> int: ...
