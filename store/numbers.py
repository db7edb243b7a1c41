"""Numbers of shards and partitions, as people write them."""

from __future__ import annotations

import re


def numbers(text: str) -> list[int]:
    """What ``0-3``, ``5`` and ``0-1,6-7`` say, rising; ValueError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if first > last:
            raise ValueError(f"{text!r}: must be numbers or ranges from low to high, like 0-3 or 0-1,6")
        found.update(range(first, last + 1))
    return sorted(found)
