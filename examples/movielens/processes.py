"""Child processes that end when their parent does, and whose death is noticed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

PATIENCE_S = 10.0
TAIL_LINES = 30


class ChildError(RuntimeError):
    """A process ended that should not have; the message holds the end of its log."""


class Children:
    """Processes by name, each in a session of its own, with its output in ``<folder>/<name>.log``.

    As a context manager it ends all that still run, the latest first: with SIGTERM, and after ten seconds with SIGKILL
    what is left of the session.
    """

    def __init__(self, folder: Path, cwd: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._cwd = folder, cwd
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in reversed(self._running):
            self._signal(name, signal.SIGTERM)
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Starts a process. As its session is its own, Ctrl-C reaches only the parent, who ends it in good order."""
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises ChildError if a process has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ChildError(
                    f"{name} ended with status {process.returncode}. The end of its log:\n{self.tail(name)}"
                )

    def ended(self, name: str) -> bool:
        """Whether a process that has work to do has done it; raises ChildError if it failed, or another one ended."""
        if self._running[name].poll() == 0:
            del self._running[name]
        self.check()
        return name not in self._running

    def stop(self, name: str) -> None:
        """Asks a process to end, waits until it has, and ends what it may have left behind in its session."""
        process = self._running[name]
        self._signal(name, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        self._signal(name, signal.SIGKILL)
        process.wait()
        del self._running[name]

    def tail(self, name: str) -> str:
        """The last lines that a process wrote."""
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])

    def _signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running[name].pid, number)
