"""A campaign: rounds, each a new deployment that lives through its faults, and after each of them the laws."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._faults import laws
from benchmarks._faults.kinds import FAULTS
from benchmarks._faults.nursery import Nursery
from benchmarks._faults.plan import Plan, plan
from benchmarks._faults.world import World

TOLD_CHARACTERS = 3000
LONGEST_GAP_S = 5.0


@dataclass(frozen=True)
class Violation:
    """What did not hold: in which round, after which of its faults (from 0) and of which kind."""

    seed: int
    number: int
    kind: str
    law: str
    detail: str

    def __str__(self) -> str:
        return f"round {self.seed}, fault {self.number} ({self.kind}): {self.law}: {self.detail}"


@dataclass
class Report:
    """What a campaign found."""

    by_kind: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    requests: int = 0
    request_errors: int = 0
    passed_over: int = 0
    longest_gap_s: float = 0.0
    blocks: int = 0
    examples: int = 0
    repeated: int = 0
    starts: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        """How many hit."""
        return sum(self.by_kind.values())


class Campaign:
    """Runs rounds one after the other; ``say`` is told how it goes."""

    def __init__(self, nursery: Nursery, emulator: str, prism: str, say: Callable[[str], None]) -> None:
        self._nursery = nursery
        self._emulator = emulator
        self._prism = prism
        self._say = say
        self.report = Report()

    def run(self, seed: int, stores: Sequence[str], faults: int, per_round: int) -> Report:
        """So many faults, in rounds of the seeds from ``seed`` on."""
        number = seed
        while (left := faults - self.report.faults) > 0:
            self.round(plan(number, stores, min(left, per_round)))
            number += 1
        return self.report

    def round(self, planned: Plan) -> None:
        """One deployment and its faults; where a law is broken, that is the end of the round."""
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{planned.seed}-"))
        world = World(planned, self._nursery, folder, self._emulator, self._prism)
        before, started = len(self.report.violations), time.monotonic()
        try:
            Round(world, self.report).run()
            if len(self.report.violations) > before:
                _ask_for_stacks(world)
        finally:
            world.end()
            self._add(world)
            self.report.seconds += time.monotonic() - started
        found = self.report.violations[before:]
        if found:
            self._say("\n".join(f"VIOLATION {violation}" for violation in found))
            self._say(_told(world))
            self._say(f"what is left of the round: {folder}")
        else:
            shutil.rmtree(folder)
        said = f"round {planned.seed} ({planned}): {time.monotonic() - started:.0f} s; so far "
        self._say(f"{said}{self.report.faults} faults, {len(self.report.violations)} violations")

    def _add(self, world: World) -> None:
        report, visitors, archive = self.report, world.visitors, world.archive
        report.requests += visitors.requests
        report.request_errors += visitors.errors
        report.passed_over += visitors.passed_over
        report.longest_gap_s = max(report.longest_gap_s, visitors.longest_gap_s)
        report.blocks += sum(archive.ends.values())
        report.examples += len(archive.keys)
        report.repeated += archive.repeated
        report.starts.update({role.name: role.starts for role in world.keeper.roles.values()})


class Round:
    """One world, its reference and its watcher."""

    def __init__(self, world: World, report: Report) -> None:
        self._world = world
        self._report = report
        self._reference = laws.Reference(world.config)
        self._number, self._kind = -1, "start"

    def run(self) -> None:
        """All faults of the plan, until a law is broken."""
        world, rng = self._world, random.Random(self._world.plan.seed)
        try:
            world.begin()
        except TimeoutError as error:
            self._violated("recovery", str(error))
            return
        watcher = laws.Watcher(world)
        try:
            for self._number, self._kind in enumerate(world.plan.faults):
                if not (self._struck(rng) and self._holds(watcher)):
                    return
        finally:
            watcher.close()

    def _struck(self, rng: random.Random) -> bool:
        """Let the fault hit while examples come."""
        world = self._world
        world.grow(True)
        try:
            time.sleep(rng.uniform(0.05, 0.2))
            FAULTS[self._kind](world, rng)
            time.sleep(rng.uniform(0, 0.1))
        except TimeoutError as error:
            return self._violated("the fault hits", str(error))
        finally:
            world.grow(False)
        self._report.by_kind[self._kind] += 1
        return True

    def _holds(self, watcher: laws.Watcher) -> bool:
        """Wait until everything is at rest; then every law."""
        world, started = self._world, time.monotonic()
        try:
            world.wait("the whole archive to be trained", world.is_trained)
            world.wait("servers to be at the store's epoch", self._is_served(watcher))
        except TimeoutError as error:
            return self._violated("recovery", str(error))
        self._report.recovery_s.setdefault(self._kind, []).append(time.monotonic() - started)
        self._reference.follow(world.archive)
        broken = list(self._broken(watcher))
        for law, detail in broken:
            self._violated(law, detail)
        return not broken

    def _is_served(self, watcher: laws.Watcher) -> Callable[[], bool]:
        world = self._world
        manifest = world.manifest()
        assert manifest is not None
        epoch = min(manifest.epochs)
        return lambda: watcher.epoch >= epoch and all(world.epoch_of(name) >= epoch for name in world.ports)

    def _broken(self, watcher: laws.Watcher) -> Iterator[tuple[str, str]]:
        world, manifest = self._world, self._world.manifest()
        assert manifest is not None
        rows = laws.rows_of(world.config, world.backend, manifest)
        checks = {
            "exactly once": laws.exactly_once(world, manifest, rows),
            "reference fold": self._reference.differs(world, manifest, rows),
            "replica": watcher.differs(manifest),
            "answers": laws.answers(world),
        }
        for law, details in checks.items():
            for detail in details:
                yield law, detail
        if world.visitors.errors:
            yield "served throughout", f"{world.visitors.errors} requests had no answer"
        if world.visitors.longest_gap_s > LONGEST_GAP_S:
            yield "served throughout", f"no answer for {world.visitors.longest_gap_s:.1f} s"

    def _violated(self, law: str, detail: str) -> bool:
        self._report.violations.append(Violation(self._world.plan.seed, self._number, self._kind, law, detail))
        return False


def _ask_for_stacks(world: World) -> None:
    for role in world.keeper.roles.values():
        if role.child is not None:
            role.child.stacks()
    time.sleep(0.5)


def _told(world: World) -> str:
    """What the processes wrote last."""
    told = []
    for role in world.keeper.roles.values():
        for start in range(max(1, role.starts - 1), role.starts + 1):
            output = world.folder / f"{role.name}.{start}.out"
            if output.exists() and output.stat().st_size:
                told.append(f"--- {output.name}\n{output.read_text(errors='replace')[-TOLD_CHARACTERS:]}")
    return "\n".join(told)
