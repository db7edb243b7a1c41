"""The coordinator's side of the benchmark: contestants as processes of which one at a time has a request."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks._table.contestant import Settings, anonymous_bytes

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".tools" / "peers"  # where `make peers` puts environments
_WATCH_S = 2.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Entry:
    """Who takes part: a module of this package, and the environment (None: this one) and variables it runs with."""

    name: str
    module: str
    environment: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    threads: int = 2  # that are of use to it
    share: float = 1  # of each window that it is asked for: less for the slow

    @property
    def python(self) -> Path:
        return Path(sys.executable) if self.environment is None else PEERS / self.environment / "bin" / "python"


class AbsentError(Exception):
    """A contestant that cannot take part, and why."""


class Process:
    """A contestant that has started and answers requests.

    Raises AbsentError when it is not installed or ends before it answers; then what it said last is quoted.
    """

    def __init__(self, entry: Entry, settings: Settings) -> None:
        self.name = entry.name
        if not entry.python.exists():
            raise AbsentError(f"not installed ({entry.python.relative_to(ROOT)} is what `make peers` makes)")
        self._said = Path(settings.folder) / f"{entry.name}.said"
        # Libraries print what they like; the answers have a pipe of their own.
        reader, writer = os.pipe()
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [entry.python, "-m", f"benchmarks._table.{entry.module}", json.dumps(asdict(settings)), str(writer)],
                cwd=ROOT,
                env=os.environ | _ONE_THREAD | dict(entry.variables),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                text=True,
            )
        os.close(writer)
        self._answers = os.fdopen(reader)
        held = self.call("held")
        self.keys: int = held["keys"]
        self.works: Sequence[str] = held["works"]

    def call(self, name: str, watch: Callable[[], object] | None = None, **arguments: Any) -> Any:
        """Ask and wait for the answer; ``watch`` is called now and then until it comes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; the answer is missing
        while watch is not None and not select.select([self._answers], [], [], _WATCH_S)[0]:
            watch()
        answer = self._answers.readline()
        if not answer:
            self._process.wait()
            lines = [line for line in self._said.read_text().splitlines() if line.strip()] or ["nothing"]
            raise AbsentError(f"ended with status {self._process.returncode} in {name}; it said last: {lines[-1]}")
        return json.loads(answer)

    def bytes_read(self) -> int:
        """What it has read from files and pipes since it started."""
        for line in Path(f"/proc/{self._process.pid}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
        return 0

    def anonymous_bytes(self) -> int:
        """Its memory that is no file."""
        return anonymous_bytes(self._process.pid)

    def kill(self) -> None:
        """As the system does that has no memory left."""
        self._process.kill()

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and a request to it is still in the buffer
            self._process.stdin.close()
        self._answers.close()
        self._process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()
