"""docs/operations.md explains every counter there is."""

from __future__ import annotations

import re
from pathlib import Path

from monobeam.join.counters import NAMES
from monobeam.transforms.append import TOO_LARGE
from monobeam.transforms.measures import MEASURES
from monobeam.transforms.train import COUNTED

PAGE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()


def test_every_counter_is_explained() -> None:
    assert explained("## Counters", "## Measures") == {*NAMES, *COUNTED, TOO_LARGE}


def test_every_measure_is_explained() -> None:
    assert explained("## Measures", None) == {f"{step}/{name}" for step, names in MEASURES.items() for name in names}


def explained(begin: str, end: str | None) -> set[str]:
    """The names in the first column of the tables between two headings."""
    text = PAGE[PAGE.index(begin) : PAGE.index(end) if end else None]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w/]+)`", row)}


def test_its_programs_are_programs() -> None:
    programs = re.findall(r"(?:^      .*\n|^\n)+", PAGE, re.MULTILINE)
    found = [re.sub(r"^      ", "", program, flags=re.MULTILINE) for program in programs if "import" in program]
    assert len(found) == 2
    for program in found:
        compile(program, "operations.md", "exec")
