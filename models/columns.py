"""The columns of a network's first layer: they belong to slots, which may come and go while their rows stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Columns(NamedTuple):
    """Of the parameter with a name: ``dim`` for each slot, by its number, then those of numbers."""

    parameter: str
    slots: tuple[int, ...]
    dim: int

    @property
    def label(self) -> str:
        """Under which a state holds the numbers of the slots."""
        return f"slots/{self.parameter}"

    def state(self) -> Floats:
        """The numbers of the slots, which float32 holds exactly."""
        return np.array(self.slots, np.float32)

    def arranged(
        self, arrays: Mapping[str, npt.NDArray[Any]], first: Floats, begins: Mapping[str, float]
    ) -> dict[str, npt.NDArray[Any]]:
        """A state with the columns of these slots: new ones are those of ``first``, and begin with the optimizer.

        ``begins``: with what each kind of the optimizer's state does, 0 for a kind that is not in it. As it is where it
        does not say whose its columns are, or where something else has changed.
        """
        found = dict(arrays)
        before = [int(slot) for slot in found.get(self.label, self.slots)]
        if before == list(self.slots):
            return found
        for label, value in arrays.items():
            kind, _, name = label.partition("/")
            if name == self.parameter and kind != "slots" and value.ndim == first.ndim:
                new = first if kind == "weight" else np.full_like(first, begins.get(kind, 0.0))
                found[label] = self._moved(value, before, new)
        return found

    def _moved(self, value: npt.NDArray[Any], before: list[int], first: Floats) -> npt.NDArray[Any]:
        numbers = value.shape[1] - len(before) * self.dim
        if value.shape[0] != first.shape[0] or numbers != first.shape[1] - len(self.slots) * self.dim:
            return value
        moved = first.copy()
        for place, slot in enumerate(self.slots):
            if slot in before:
                moved[:, self._of(place)] = value[:, self._of(before.index(slot))]
        moved[:, len(self.slots) * self.dim :] = value[:, len(before) * self.dim :]
        return moved

    def _of(self, place: int) -> slice:
        return slice(place * self.dim, (place + 1) * self.dim)
