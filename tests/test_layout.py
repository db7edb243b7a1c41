"""The architecture is visible in the folders, and stays so."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each folder may import of monobeam, besides itself.
ALLOWED = {
    "native": set(),
    "logs": {"native"},
    "join": {"native", "logs"},
    "store": {"native", "logs"},
    "models": {"native", "logs", "join", "store"},
    "transforms": {"native", "logs", "join", "store", "models"},
    "pipelines": {"native", "logs", "join", "store", "models", "transforms"},
    "serving": {"native", "logs", "store", "models"},
}
MAY_IMPORT_BEAM = {"transforms", "pipelines"}
MAX_LINES = 400


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split() if listed.returncode == 0 else []
    return [ROOT / name for name in names if (ROOT / name).exists()] or [
        path for pattern in patterns for path in ROOT.glob(pattern)
    ]


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_follow_the_one_direction(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            if name.startswith("monobeam."):
                other = name.split(".")[1]
                assert other == folder or other in ALLOWED[folder], f"{path.relative_to(ROOT)} imports {name}"
            if name.split(".")[0] == "apache_beam":
                assert folder in MAY_IMPORT_BEAM, f"{path.relative_to(ROOT)} imports Beam"


def test_no_file_is_long() -> None:
    sources = tracked("*.py", "*.h", "*.cpp", "*.js", "*.css", "*.html")
    assert len(sources) > 50
    long = {
        str(path.relative_to(ROOT)): lines for path in sources if (lines := path.read_text().count("\n")) > MAX_LINES
    }
    assert not long


def test_no_line_of_the_core_is_long() -> None:
    """Of Python ruff says it."""
    sources = tracked("*.h", "*.cpp")
    assert len(sources) > 50
    lines = {f"{path.relative_to(ROOT)}:{n}": line for path in sources for n, line in enumerate(path.open(), 1)}
    assert not [place for place, line in lines.items() if len(line.rstrip("\n")) > 120]


def test_no_generic_names() -> None:
    generic = re.compile(r"(utils?|helpers?|misc|common|manager)")
    assert not [path for path in tracked("*.py") if generic.fullmatch(path.stem)]


def test_every_folder_of_the_map_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for folder in [*ALLOWED, "benchmarks", "examples", "tests", "docs"]:
        assert f"`{folder}/`" in readme, f"README's folder map lacks {folder}/"
        assert (ROOT / folder).is_dir()
