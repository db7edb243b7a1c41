"""Ids and names as small numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def numbered(*ids: Iterable[str]) -> dict[str, int]:
    """Distinct ids, numbered in order of appearance."""
    index = dict.fromkeys(chain.from_iterable(ids), 0)
    return dict(zip(index, range(len(index)), strict=True))


def codes(index: Mapping[str, int], ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The numbers int64[n] of ids that are in the index."""
    return np.fromiter(map(index.__getitem__, ids.tolist()), np.int64, len(ids))


class Names:
    """A growing list of distinct names; a name's code is its place in it."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}
        for name in names:
            self.code(name)

    def code(self, name: str) -> int:
        """The code of a name, given now if it is new."""
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code

    def codes(self, array: pa.StringArray) -> npt.NDArray[np.int64]:
        """The codes int64[n] of an array of few distinct names."""
        encoded = pc.dictionary_encode(array)
        codes = np.array([self.code(name) for name in encoded.dictionary.to_pylist()], np.int64)
        return codes[encoded.indices.to_numpy()] if len(array) else codes

    def ranks(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The places of coded names in alphabetical order: codes depend on the order of arrival, these do not."""
        ranks = np.empty(len(self.names), np.int64)
        ranks[sorted(range(len(self.names)), key=self.names.__getitem__)] = np.arange(len(self.names))
        ranked: npt.NDArray[np.int64] = ranks[codes]
        return ranked

    def array(self, codes: npt.NDArray[Any]) -> pa.StringArray:
        """The names of some codes."""
        return pa.array(self.names, pa.string()).take(pa.array(codes, pa.int64()))
