"""Keeps processes alive as an operator's supervisor does: what ends is started again, with the same command."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks._faults.clock import Clock
from benchmarks._faults.nursery import Child, Nursery, Program

EVERY_S = 0.02
AGAIN_AFTER_S = 0.1


class Role:
    """One process of a deployment, whoever plays it at the moment."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.clock = Clock(folder / f"{name}.clock")
        self.wanted: Callable[[], bool] = lambda: True
        self.file_limit: int | None = None
        self.child: Child | None = None
        self.starts = 0
        self.held = False
        self._module, self._arguments, self._folder, self._environment = module, arguments, folder, environment
        self._started_s = 0.0

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.child is not None and self.child.status is None

    def start(self, nursery: Nursery) -> Child:
        """Start it, whatever runs already."""
        self.starts += 1
        program = Program(
            self._module, self._arguments, self._folder, self.clock.path, self._environment, self.file_limit
        )
        return nursery.start(program, self._folder / f"{self.name}.{self.starts}.out")

    def keep(self, nursery: Nursery) -> None:
        """Start it again if it ended and is wanted."""
        if self.held or self.is_running or time.monotonic() - self._started_s < AGAIN_AFTER_S or not self.wanted():
            return
        if self.child is not None:
            self.child.end()
        self._started_s = time.monotonic()
        self.child = self.start(nursery)

    def limit_files(self, limit: int | None, *, later: bool = True) -> None:
        """As ``Child.limit_files``, and for those that come after."""
        self.file_limit = limit if later else None
        if self.child is not None:
            self.child.limit_files(limit)


class Keeper:
    """A thread that looks after roles."""

    def __init__(self, nursery: Nursery, roles: Sequence[Role]) -> None:
        self.nursery = nursery
        self.roles = {role.name: role for role in roles}
        self.lock = threading.RLock()  # whoever holds it may kill without something being started at once
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin to start things."""
        self._thread.start()

    def stop(self) -> None:
        """Kill everything."""
        self._stopping.set()
        self._thread.join()
        for role in self.roles.values():
            if role.child is not None:
                role.child.kill()
                role.child.end()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            with self.lock:
                for role in self.roles.values():
                    role.keep(self.nursery)
