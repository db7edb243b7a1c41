from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of the session may have one, and a store that is asked for its model is another's there."""
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
