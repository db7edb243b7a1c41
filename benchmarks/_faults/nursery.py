"""Processes that start quickly: what `python -m` of a module is, forked from a process that has imported everything.

Starting Python with torch and Beam takes seven seconds, and a thousand faults kill more than a thousand processes.
Each is a process of its own all the same, with its memory, files and locks; nothing but imports is shared.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks._faults import clock

_PR_SET_PDEATHSIG = 1
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads would not survive a fork


@dataclass(frozen=True)
class Program:
    """What to run, and with what: ``file_limit``: bytes that a file may have, None for any."""

    module: str
    arguments: Sequence[str]
    folder: Path
    clock: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    file_limit: int | None = None


class Child:
    """A process; what it started belongs to its group."""

    def __init__(self, process: BaseProcess, output: Path) -> None:
        self._process = process
        self._lock = threading.Lock()  # of two threads that ask at once, one would be told a wrong status
        self.output = output
        assert process.pid is not None
        self.pid = process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        with self._lock:
            return self._process.exitcode

    @property
    def has_said(self) -> bool:
        """Whether it has printed the line that says that it is ready."""
        return self.output.exists() and "flight://" in self.output.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to it and to what it started; back when it is gone."""
        self.signal(signal.SIGKILL)
        while self.status is None:
            time.sleep(0.001)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, or to the process alone where it has none yet."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stacks(self) -> None:
        """Let it write what its threads are doing."""
        if self.status is None:
            os.kill(self.pid, signal.SIGUSR1)

    def limit_files(self, limit: int | None) -> None:
        """From now on no file of it may grow beyond so many bytes."""
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard if limit is None else limit, hard))

    def end(self) -> None:
        """SIGKILL to what it started and left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Nursery:
    """Starts processes; one in a process of ours, as the method is multiprocessing's own forkserver."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__ + "_imports"])

    def start(self, program: Program, output: Path) -> Child:
        """Run a module; what it writes goes to a file."""
        process: Any = self._context.Process(target=_run, args=(program, output), daemon=True)
        with _environment(_ONE_THREAD):  # the fork server, which starts with the first process, inherits it
            process.start()
        return Child(process, output)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(program: Program, output: Path) -> None:
    """In the new process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(program.folder)
    os.environ.update(program.environment)
    faulthandler.register(signal.SIGUSR1)  # the stacks of a process that hangs
    clock.use(program.clock)
    if program.file_limit is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (program.file_limit, hard))
    sys.argv = [program.module, *program.arguments]
    importlib.invalidate_caches()
    runpy.run_module(program.module, run_name="__main__", alter_sys=True)
