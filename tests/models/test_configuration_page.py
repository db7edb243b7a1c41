"""docs/configuration.md says what the parser knows: every key, every default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from monobeam.models import optimizers, schedules
from monobeam.models.config import parse
from monobeam.models.section import Section

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
REQUIRED = {
    "join": 'window = "2s"',
    "labels": 'name = "like"\naction = "like"',
    "slots": 'feature = "user"',
    "numerics": 'feature = "price"',
    "model": 'name = "shop"\nlabel = "like"',
}
LISTS = {"labels", "slots", "numerics"}


def documented() -> dict[str, dict[str, str]]:
    """The default cell of every key of every section of the page."""
    sections = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)[1:]
    row = re.compile(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \| [^|]*\|$", re.MULTILINE)
    headings = [[name.strip("[]") for name in heading.split(", ")] for heading in sections[::2]]
    return {
        name: dict(row.findall(text)) for names, text in zip(headings, sections[1::2], strict=True) for name in names
    }


def text(with_defaults: bool) -> str:
    """A small configuration; with every default of the page written out, or with none."""
    lines: list[str] = []
    for section, keys in documented().items():
        lines.append(f"[[{section}]]" if section in LISTS else f"[{section}]")
        lines.append(REQUIRED.get(section, ""))
        if with_defaults:
            lines += [
                f"{key} = {cell.strip('`')}" for key, cell in keys.items() if cell.startswith("`") and cell != "`{}`"
            ]
    return "\n".join(lines)


def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Every section that the parser reads, and the keys that it asks for."""
    asked: dict[str, list[str]] = {}
    close = Section.close

    def spy(section: Section) -> None:
        asked[re.sub(r"\[\d+\]", "", section.name)] = section.known()
        close(section)

    with monkeypatch.context() as patched:
        patched.setattr(Section, "close", spy)
        parse(text(with_defaults=False))
    del asked[""]
    yield from asked.items()


def test_every_key_is_described_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hyper = {name for options in (*optimizers.SPARSE.values(), *optimizers.DENSE.values()) for name in options}
    read = {section: sorted(set(keys) - (hyper - optimizers.COMMON.keys())) for section, keys in known(monkeypatch)}
    assert read == {section: sorted(keys) for section, keys in documented().items()}


def test_the_defaults_are_those_that_are_said() -> None:
    assert parse(text(with_defaults=True)) == parse(text(with_defaults=False))
    assert sum(cell.startswith("`") for keys in documented().values() for cell in keys.values()) > 35


@pytest.mark.parametrize(("section", "known"), [("sparse", optimizers.SPARSE), ("dense", optimizers.DENSE)])
def test_every_optimizer_is_described(section: str, known: Mapping[str, Mapping[str, float]]) -> None:
    assert options(rf"training\.{section}", r"\| `(\w+)` \| ([^|]*)\|") == known


def test_every_schedule_is_described() -> None:
    assert (
        options(r"training\.sparse\.schedule, training\.dense\.schedule", r"\| `(\w+)` \| [^|]* \| ([^|]*)\|")
        == schedules.KINDS
    )


def options(section: str, row: str) -> dict[str, dict[str, object]]:
    """The names of a table's rows, with the keys that each lists; None where a key has no default."""
    (part,) = re.findall(rf"^## {section}$(.*?)(?:^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return {
        name: {
            key: tomllib.loads(f"default = {default}")["default"] if default else None
            for key, default in re.findall(r"`(\w+)(?: = ([^`]*))?`", cell)
        }
        for name, cell in re.findall(rf"^{row}$", part, re.MULTILINE)
    }
