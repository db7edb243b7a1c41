from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from monobeam.store.storage import Storage
from tests.store.places import PLACES, Opener


@pytest.fixture(scope="session")
def bigtable_place(new_table: Callable[[], str]) -> Iterator[Callable[[], Opener]]:
    """Makes places for stores in Bigtable; what it returns opens a backend on the same contents each time."""
    from monobeam.store.bigtable import BigtableBackend

    opened: list[BigtableBackend] = []

    def place() -> Opener:
        uri = new_table()

        def opener() -> BigtableBackend:
            opened.append(BigtableBackend(uri, keep_epochs=40, lease_s=3.0))
            return opened[-1]

        return opener

    yield place
    for backend in opened:
        backend.close()


@pytest.fixture(params=[*PLACES, "bigtable"], scope="session")
def new_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Opener]:
    """Makes places for stores; what it returns opens a backend on the same contents each time."""
    if request.param == "bigtable":
        bigtable_place: Callable[[], Opener] = request.getfixturevalue("bigtable_place")
        return bigtable_place
    directory = tmp_path_factory.mktemp("backends")
    return lambda: PLACES[request.param](directory)


@pytest.fixture
def place(new_place: Callable[[], Opener]) -> Opener:
    return new_place()


@pytest.fixture
def backend(place: Opener) -> Storage:
    opened = place()
    opened.own()
    return opened
