"""The manifest: what the last commit of a store made true, except for its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 3


@dataclass(frozen=True)
class Manifest:
    """What a commit makes true of a store as a whole.

    ``fingerprint``: of the specification; ``epochs``: the last epoch of every shard; ``positions``: for every partition
    of the examples log the offset of the first record that is not included; ``dense_version``: counts publications of
    dense weights; ``time_us``: of the commit, microseconds since 1970; ``meta``: JSON values of the committer's own.
    """

    fingerprint: Mapping[str, Any]
    epochs: tuple[int, ...]
    positions: Mapping[int, int]
    dense_version: int
    time_us: int
    meta: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As JSON text, with the number of the store's format."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """The manifest in JSON text; ValueError where this version cannot read the store's format."""
        stored = json.loads(data)
        if stored.get("format") != FORMAT:
            raise ValueError(f"store format {stored.get('format')!r}: this version reads format {FORMAT}")
        return Manifest(
            fingerprint=stored["fingerprint"],
            epochs=tuple(stored["epochs"]),
            positions={int(partition): offset for partition, offset in stored["positions"].items()},
            dense_version=stored["dense_version"],
            time_us=stored["time_us"],
            meta=stored["meta"],
        )
