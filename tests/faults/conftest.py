from __future__ import annotations

import pytest

from benchmarks._faults.nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Nursery:
    """The parent of all processes, which imports everything once."""
    return Nursery()
