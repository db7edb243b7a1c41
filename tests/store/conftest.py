from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from monobeam.store.backend import Backend


@pytest.fixture(scope="session")
def bigtable_place(new_table: Callable[[], str]) -> Iterator[Callable[[], Callable[[], Backend]]]:
    """Makes places for stores in Bigtable; what it returns opens a backend on the same contents each time."""
    from monobeam.store.bigtable import BigtableBackend

    opened: list[BigtableBackend] = []

    def place() -> Callable[[], Backend]:
        uri = new_table()

        def opener() -> Backend:
            opened.append(BigtableBackend(uri, keep_epochs=40, lease_s=3.0))
            return opened[-1]

        return opener

    yield place
    for backend in opened:
        backend.close()
