"""What processes say about themselves, read as a program would."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from monobeam.logs import diagnostics

PROGRAM = """
import logging, warnings
from monobeam.logs import diagnostics
diagnostics.to_standard_error(known=("as ever",))
log = logging.getLogger("monobeam.here")
log.info("all is %s", "well")
log.warning("as ever: %d", 1)
log.warning('two lines,\\none "quoted", ünïcode')
try:
    raise ValueError("in\\nvain")
except ValueError:
    log.exception("it failed")
warnings.warn("old", DeprecationWarning, stacklevel=1)
"""
FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)(?: |$)')


def said(level: str) -> list[dict[str, str]]:
    """The fields of each line that PROGRAM writes at that level."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM],
        env={"MONOBEAM_LOG": level, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [FIELD.findall(line) for line in done.stderr.splitlines()]
    return [{key: json.loads(text) if text[0] == '"' else text for key, text in line} for line in found]


def test_every_event_is_a_line_and_only_warnings_are_said() -> None:
    lines = said("")
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("warning", "monobeam.here"),
        ("error", "monobeam.here"),
        ("warning", "py.warnings"),
    ]
    assert lines[0]["message"] == 'two lines,\none "quoted", ünïcode'
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])
    assert lines[1]["message"] == "it failed"
    assert lines[1]["error"].startswith("Traceback")
    assert lines[1]["error"].endswith("ValueError: in\nvain")


def test_more_is_said_where_it_is_asked_for() -> None:
    assert [line["message"] for line in said("info")][:2] == ["all is well", "as ever: 1"]


def test_a_level_that_is_none_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOBEAM_LOG", "loud")
    for given, expected in (("", r"MONOBEAM_LOG 'loud': must be one of DEBUG,"), ("shrill", "log level 'shrill'")):
        with pytest.raises(diagnostics.LogLevelError, match=expected):
            diagnostics.to_standard_error(given)
