"""A small MovieLens of our own making."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.examples.layouts import write

USERS, ITEMS, RATINGS = 40, 60, 1200


@pytest.fixture(scope="session")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings that depend on user and item, in the layout of ml-100k."""
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, USERS, RATINGS), rng.integers(0, ITEMS, RATINGS)
    user[:USERS], item[:ITEMS] = np.arange(USERS), np.arange(ITEMS)  # each occurs
    taste = rng.normal(size=USERS)[user] + rng.normal(size=ITEMS)[item]
    stars = np.clip(np.round(3.4 + taste), 1, 5).astype(int)
    rows = zip(user.tolist(), item.tolist(), stars.tolist(), strict=True)
    files = {
        "u.data": "".join(f"{u}\t{i}\t{s}\t{second}\n" for second, (u, i, s) in enumerate(rows)),
        "u.user": "".join(f"{u}|24|M|other|85711\n" for u in range(USERS)),
        "u.item": "".join(f"{i}|Film (1995)|||{'|0' * 19}\n" for i in range(ITEMS)),
    }
    return write(files, tmp_path_factory.mktemp("movielens"))
