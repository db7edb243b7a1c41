"""The live page as one file that reads alone: ``python -m monobeam.serving.report --stats=FILE.json
--out=report.html``.

``FILE.json`` is what ``/stats.json`` answered. Style, scripts and figures are put into the page, so that it opens
from a disk, needs no server and loads nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

PAGE = files("monobeam.serving") / "page"
STYLE_TAG = '<link rel="stylesheet" href="page.css">'
SCRIPT_TAGS = {name: f'<script src="{name}"></script>' for name in ("chart.js", "page.js")}


def render(stats: Mapping[str, Any]) -> str:
    """The page of one snapshot, as one HTML text."""
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    page = _replace(page, STYLE_TAG, f"<style>\n{(PAGE / 'page.css').read_text(encoding='utf-8')}</style>")
    # "<" could end the script element early ("</script>" within a string of the data).
    data = json.dumps(stats, allow_nan=False).replace("<", "\\u003c")
    first = SCRIPT_TAGS["chart.js"]
    page = _replace(page, first, f'<script type="application/json" id="data">{data}</script>\n{first}')
    for name, tag in SCRIPT_TAGS.items():
        page = _replace(page, tag, f"<script>\n{(PAGE / name).read_text(encoding='utf-8')}</script>")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of one ``/stats.json``."""
    parser = argparse.ArgumentParser(prog="python -m monobeam.serving.report", description=__doc__.splitlines()[0])
    parser.add_argument("--stats", type=Path, required=True, metavar="FILE.json", help="what /stats.json answered")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page to write")
    options = parser.parse_args(arguments)
    options.out.write_text(render(json.loads(options.stats.read_text(encoding="utf-8"))), encoding="utf-8")


def _replace(page: str, tag: str, content: str) -> str:
    if page.count(tag) != 1:
        raise ValueError(f"the page holds {page.count(tag)} times {tag!r}; it must hold it once")
    return page.replace(tag, content)


if __name__ == "__main__":
    main()
