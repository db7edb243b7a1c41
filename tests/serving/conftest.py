from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    result = World(tmp_path)
    yield result
    result.close()
