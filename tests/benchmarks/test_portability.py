"""docs/portability.md has every cell, and quotes what the commands say."""

from __future__ import annotations

from pathlib import Path

from benchmarks._portability import command
from benchmarks._portability.cells import WORKS, Outcome, cells
from benchmarks._portability.page import page
from examples.flink.cluster import Cluster

PAGE = Path(__file__).parents[2] / "docs/portability.md"


def test_what_is_refused_is_on_the_page_and_all_else_works(flink: Cluster, tmp_path: Path) -> None:
    """A page from a matrix in which something failed says so, and is another one; cells may wait for their run."""
    outcomes = {}
    for cell in cells():
        command.describe(cell, tmp_path)
        given = command.arguments(cell, tmp_path, command.addresses(cell, tmp_path, "broker:9"), "prism", flink.address)
        outcomes[cell] = command.refused(cell, given) or Outcome(WORKS)
    assert page(outcomes) == PAGE.read_text().replace("| not run ", "| works ")
