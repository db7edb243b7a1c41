"""Emulators of Google's services, each a process of its own on loopback that keeps nothing."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from examples.installed import program

BIGTABLE_HOST = "BIGTABLE_EMULATOR_HOST"
PUBSUB_HOST = "PUBSUB_EMULATOR_HOST"


def bigtable() -> AbstractContextManager[str]:
    """Bigtable's, at HOST:PORT; MissingError where it is not installed."""
    return _running([program("emulator", "Bigtable emulator"), "-host=127.0.0.1", "-port=0"], BIGTABLE_HOST)


def pubsub() -> AbstractContextManager[str]:
    """Pub/Sub's, at HOST:PORT; MissingError where it is not installed."""
    return _running([program("pubsub", "Pub/Sub emulator")], PUBSUB_HOST)


@contextmanager
def _running(command: Sequence[str], variable: str) -> Iterator[str]:
    """The process, which says where it listens; meanwhile the variable is what Google's libraries look for it by."""
    before = os.environ.get(variable)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"running on (\S+)", said)
            if found is None:
                raise RuntimeError(f"{command[0]}: said {said!r}, and not where it listens")
            os.environ[variable] = found[1]
            yield found[1]
        finally:
            if before is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = before
            process.kill()
