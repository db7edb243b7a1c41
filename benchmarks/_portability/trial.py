"""One cell, tried: the command as a user types it, and what it left behind held against the reference join."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module

from benchmarks._portability import command
from benchmarks._portability.cells import FAILED, WORKS, Cell, Outcome
from benchmarks._portability.places import Places
from examples import installed
from tests.end_to_end import reference
from tests.end_to_end.run import DECIDED, Run, kill

PATIENCE_S, POLL_S = 300.0, 2.0


def tried(cell: Cell, places: Places) -> Outcome:
    """What becomes of a cell."""
    trial = Trial.of(cell, places, re.sub(r"[^a-z0-9]+", "-", cell.name.lower()))
    given = trial.arguments()
    if (found := command.refused(cell, given)) is not None:
        return found
    if cell.pipeline == "train":
        _join_before(cell.log, places)
    places.fill(cell, trial.folder.name)
    return built(cell, given) if cell.only_built else trial.outcome(given)


def built(cell: Cell, arguments: list[str]) -> Outcome:
    """Build a graph and have it checked, in this process: there is nothing to wait for."""
    try:
        with redirect_stdout(io.StringIO()):
            import_module(f"monobeam.pipelines.{cell.pipeline}").main(arguments)
    except SystemExit as ended:
        return Outcome(FAILED, str(ended))
    return Outcome(WORKS)


def _join_before(log: str, places: Places) -> None:
    """Examples to train on."""
    if (places.folder / (name := command.examples_of(log))).exists():
        return
    cell = Cell("in process", "join", False, log)
    places.fill(cell, name)
    trial = Trial.of(cell, places, name)
    if (found := trial.outcome(trial.arguments())).verdict != WORKS:
        raise RuntimeError(f"there are no examples in {log}: {found.said}")


@dataclass(frozen=True)
class Trial(Run):
    """A run of a cell; its folder has the description, what the command said, and the store."""

    cell: Cell = field(kw_only=True)
    places: Places = field(kw_only=True)
    addresses: dict[str, str] = field(kw_only=True)

    @staticmethod
    def of(cell: Cell, places: Places, name: str) -> Trial:
        """In a new folder."""
        folder = places.folder / name
        command.describe(cell, folder)
        addresses = command.addresses(cell, folder, places.broker(cell))
        return Trial(folder, folder, cell=cell, places=places, addresses=addresses)

    @property
    def store(self) -> str:
        return self.addresses["store"]

    def log(self, name: str) -> str:
        return self.addresses[name]

    def arguments(self) -> list[str]:
        """The command line after the module's name."""
        prism = installed.prism() if self.cell.runner == "Prism" else ""
        return command.arguments(self.cell, self.folder, self.addresses, prism, self.places.cluster(self.cell))

    def outcome(self, arguments: list[str]) -> Outcome:
        """Run it, to its end or until all is there."""
        program = [sys.executable, "-m", f"monobeam.pipelines.{self.cell.pipeline}", *arguments]
        with (self.folder / "pipeline.log").open("wb") as log:
            process = subprocess.Popen(program, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        try:
            wrong = self._wait(process)
        finally:
            kill(process)
        if process.returncode:
            return Outcome(FAILED, f"status {process.returncode}: {self.log_tail()}")
        return Outcome(FAILED, f"{wrong} {self.log_tail()}") if wrong else Outcome(WORKS)

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """What is wrong after the process has ended; a streaming one is told to when nothing is."""
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            if self.cell.streaming and not self._wrong():
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(POLL_S)
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(1.0, deadline - time.monotonic()))
        return "" if process.returncode else self._wrong()

    def _wrong(self) -> str:
        """How what is there differs from what should be; '' for not at all."""
        try:
            return "; ".join(self._differences())
        except (AssertionError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    def _differences(self) -> Iterator[str]:
        if self.cell.pipeline != "train":
            examples, counts = self.places.reference
            found, counted = reference.as_set(self.examples()), self.counters()
            if found != examples:
                yield f"{len(examples - found)} examples are missing, and {len(found - examples)} not the reference's"
            if differ := [name for name in DECIDED if counted.get(name, 0) != counts[name]]:
                yield f"counters differ: {', '.join(differ)}"
        if self.cell.pipeline != "join":
            if not self.trained():
                yield "not all examples are trained"
            elif self.update_counts() != dict(self.ids()):
                yield "not every example was trained once"
