from __future__ import annotations

from collections.abc import Callable

import pytest

from monobeam.store.storage import Storage
from tests.store.places import PLACES, Opener


@pytest.fixture(params=PLACES, scope="session")
def new_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Opener]:
    """Makes places for stores; what it returns opens a backend on the same contents each time."""
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
