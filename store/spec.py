"""What a store holds: its tables, their optimizers and policies, and the number of shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

DTYPES = ("fp32", "fp16", "bf16")
ROW_FORMATS = (*DTYPES, "int8")  # of rows in memory; those in int8 cannot learn
SLOT_SHIFT, MAX_SLOT = 48, 2**15 - 1  # bits of an id below its slot
DAY_US = 86_400_000_000


class SpecError(ValueError):
    """A specification that cannot be, or that a stored one contradicts."""


@dataclass(frozen=True)
class SlotPolicy:
    """Which ids of a slot get a row, and how long an unseen row lives (0: for ever; whole seconds count).

    Sightings of an id without a row are forgotten ``pending_us`` after the last one (0: as rows).
    """

    admit_count: int = 0
    admit_probability: float = 1.0
    expire_us: int = 0
    pending_us: int = 0


@dataclass(frozen=True)
class TableSpec:
    """One table: rows of ``dim`` float32 and what its optimizer keeps beside them.

    With ``dim`` 0 it is a set of ids and how often each was updated. Replicas have the tables that are ``synced``.
    ``row_format``: of embeddings in memory while they learn; they are stored as float32 whatever it is.
    """

    name: str
    dim: int
    optimizer: str
    learning_rate: float
    hyper: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    init_scale: float = 0.01
    policies: Mapping[int, SlotPolicy] = field(default_factory=lambda: MappingProxyType({}))
    synced: bool = True
    row_format: str = "fp32"

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError(f"table name {self.name!r}: must not be empty")
        if self.dim < (1 if self.synced else 0):
            raise SpecError(f"table {self.name!r}: dim = {self.dim}: must be at least 1, or 0 if it is not synced")
        if self.row_format not in DTYPES:
            raise SpecError(f"table {self.name!r}: row_format = {self.row_format!r}: must be one of {DTYPES}")
        for slot in self.policies:
            if not 0 <= slot <= MAX_SLOT:
                raise SpecError(f"table {self.name!r}: policy for slot {slot}: slots are 0..{MAX_SLOT}")


@dataclass(frozen=True)
class StoreSpec:
    """A store: its model's name, tables and shards.

    ``sync_dtype`` is the encoding of values in sync events; an example key is remembered for ``example_retention_us``.
    All tables of all shards, and the set of example keys, use at most ``memory_limit`` bytes together (0: no limit).
    ``fixed``: whatever else stored rows depend on, as JSON values by name.
    """

    model: str
    tables: tuple[TableSpec, ...]
    shards: int = 1
    sync_dtype: str = "fp32"
    example_retention_us: int = 7 * DAY_US
    memory_limit: int = 0
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        names = [table.name for table in self.tables]
        if not names or len(set(names)) != len(names):
            raise SpecError(f"tables {names}: there must be at least one, and names must differ")
        if not 1 <= self.shards <= 2**16:
            raise SpecError(f"shards = {self.shards}: must be 1..{2**16}")
        if self.sync_dtype not in DTYPES:
            raise SpecError(f"sync_dtype = {self.sync_dtype!r}: must be one of {DTYPES}")
        if self.memory_limit < 0:
            raise SpecError(f"memory_limit = {self.memory_limit}: must be bytes, or 0 for none")
        if self.example_retention_us < 1_000_000:
            raise SpecError(f"example_retention_us = {self.example_retention_us}: must be at least a second")

    def fingerprint(self) -> dict[str, Any]:
        """What stored rows depend on, as JSON values: all of it must be the same when a store is opened again.

        Learning rates, hyper-parameters, policies and row formats may change from run to run and are not in it.
        """
        tables = {
            table.name: {
                "dim": table.dim,
                "optimizer": table.optimizer,
                "seed": table.seed,
                "init_scale": table.init_scale,
            }
            for table in sorted(self.tables, key=lambda table: table.name)
        }
        return {"model": self.model, "shards": self.shards, "tables": tables, **self.fixed}

    def encode(self) -> bytes:
        """As JSON text: equal ones give equal text."""
        tables = [
            {**vars(table), "hyper": dict(table.hyper), "policies": {s: asdict(p) for s, p in table.policies.items()}}
            for table in self.tables
        ]
        return json.dumps({**vars(self), "tables": tables, "fixed": dict(self.fixed)}, sort_keys=True).encode()

    @staticmethod
    def decode(data: bytes) -> StoreSpec:
        """The specification in JSON text."""
        given = json.loads(data)
        tables = [
            TableSpec(**{**t, "policies": {int(slot): SlotPolicy(**p) for slot, p in t["policies"].items()}})
            for t in given["tables"]
        ]
        return StoreSpec(**{**given, "tables": tuple(tables)})


def check_fingerprint(uri: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise SpecError, naming both values of everything that differs, unless the two are equal."""
    differing = ", ".join(_differences(stored, given))
    if differing and {**stored, "shards": given.get("shards")} == given:
        there, here = stored["shards"], given["shards"]
        raise SpecError(
            f"{uri}: shards is {there} there and {here} here: set shards = {there} under [store], "
            f"or cut the store anew: python -m monobeam.store reshard {here} --store={uri}"
        )
    if differing:
        raise SpecError(
            f"{uri} holds another store: {differing}; open it with its own specification, or use another place"
        )


def check_model(uri: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """As ``check_fingerprint``, for readers: a store may have any number of shards."""
    check_fingerprint(uri, {**stored, "shards": given["shards"]}, given)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(there.keys() | here.keys()):
        path, was, now = prefix + key, there.get(key), here.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _differences(was, now, f"{path}.")
        elif key not in there:
            yield f"{path} is not there" + ("" if isinstance(now, Mapping) else f", and {now!r} here")
        elif key not in here:
            yield f"{path} is " + ("there" if isinstance(was, Mapping) else f"{was!r} there") + ", and not here"
        elif was != now:
            yield f"{path} is {was!r} there and {now!r} here"
