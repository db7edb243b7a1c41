"""The core's test program, built with each sanitizer and run, one after the other, beside the other tests.

They take minutes of one core and nothing else; the other tests leave as much free, waiting for servers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).with_name("core")
CORE = [path for path in sorted((ROOT / "native").glob("*.cpp")) if path.name != "binding.cpp"]
SOURCES = [*CORE, *sorted(HERE.glob("*.cpp"))]
AS_USERS = " ".join(re.findall(r'^ +"(-\S+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE))
SANITIZERS = ("", "-O1 -fsanitize=address,undefined", "-O2 -fsanitize=thread")
FLAGS = ["-Wall", "-Wextra", "-Werror", "-pthread"]
CALLS = 1_000_000
LIMIT_S = 1500
MEMORY = Path("/dev/shm")  # some thousand small files are flushed to disk otherwise

Finished = subprocess.CompletedProcess[str]


class Programs:
    """``results``: by sanitizer, what became of the program, or of the compiler where that failed."""

    def __init__(self, compiler: str) -> None:
        self._compiler = compiler
        self._running: subprocess.Popen[str] | None = None
        self._ended = False
        self._thread = ThreadPoolExecutor(1, "core")
        self.results: Mapping[str, Future[Finished]] = {how: self._thread.submit(self._run, how) for how in SANITIZERS}

    def close(self) -> None:
        """End what still runs."""
        self._ended = True
        if self._running and self._running.returncode is None:
            _kill(self._running)
        self._thread.shutdown(cancel_futures=True)

    def _run(self, how: str) -> Finished:
        with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            program, unity = Path(folder, "program"), Path(folder, "unity.cpp")
            # One translation unit: most of the time goes into reading the same headers.
            unity.write_text("".join(f'#include "{source}"\n' for source in SOURCES))
            flags = [*FLAGS, *AS_USERS.split(), *how.split(), "-fno-sanitize-recover=all"]
            includes = [f"-I{ROOT / 'native'}", f"-I{HERE}"]
            built = self._finished([self._compiler, *flags, *includes, str(unity), "-o", str(program)])
            return built if built.returncode else self._finished([str(program), folder, str(CALLS)])

    def _finished(self, command: list[str]) -> Finished:
        polite = ["nice", "-n", "19", *command]
        pipe = subprocess.PIPE
        with subprocess.Popen(polite, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as running:
            self._running = running
            if self._ended:
                _kill(running)
            try:
                output, errors = running.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                _kill(running)
                raise
        return Finished(command, running.returncode, output, errors)


def _kill(running: subprocess.Popen[str]) -> None:
    """With what it started: a compiler is several processes."""
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
