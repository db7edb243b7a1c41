"""The Bigtable emulator, for as long as a campaign lasts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "BIGTABLE_EMULATOR_HOST"


@contextmanager
def running(program: str) -> Iterator[str]:
    """Start it at a free port, which this process uses from then on; gives HOST:PORT."""
    with subprocess.Popen([program, "-host=127.0.0.1", "-port=0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"running on (\S+)", line)
            if found is None:
                raise RuntimeError(f"{program}: said {line!r}, and not where it listens")
            os.environ[HOST] = found[1]
            yield found[1]
        finally:
            process.kill()
