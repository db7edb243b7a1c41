"""Programs of other projects that the Makefile installs, and where they are: in ``.tools``, or on PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

TOOLS = Path(__file__).parents[1] / ".tools"
_ELSEWHERE = {"emulator": "cbtemulator"}  # what the Google Cloud SDK calls it


class MissingError(RuntimeError):
    """What is needed and not on this machine; it says how it is installed."""


def program(name: str, what: str) -> str:
    """The path of a program that ``make NAME`` installs; MissingError, saying ``what`` it is, where it is not."""
    ours = TOOLS / "bin" / name
    found = str(ours) if ours.exists() else shutil.which(_ELSEWHERE.get(name, name))
    if found is None:
        raise MissingError(f"no {what} here: `make {name}` installs it")
    return found


def prism() -> str:
    """Beam's local streaming runner."""
    return program("prism", "Prism")


def check_flink() -> None:
    """MissingError unless all is here that a Flink cluster and jobs on it need."""
    needed = [TOOLS / "flink/lib", TOOLS / "flink/job-server.jar", TOOLS / "bin/boot"]
    if missing := [path.name for path in needed if not path.exists()]:
        raise MissingError(f"no {', '.join(missing)} of Flink here: `make flink` installs it")
    java()


def java() -> str:
    """A Java runtime."""
    found = shutil.which("java")
    if found is None:
        raise MissingError("no Java here, which must be 17: on Debian and Ubuntu, apt-get install default-jre-headless")
    return found
