"""What a machine may lack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from examples.installed import MissingError


@contextmanager
def needed() -> Iterator[None]:
    """What is found missing here skips the test, or fails it under CI."""
    try:
        yield
    except MissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
