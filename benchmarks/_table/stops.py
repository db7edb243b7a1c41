"""How long train steps are stopped by a save beside them."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks._table.contestant import spent_by_thread, waited


@dataclass(frozen=True)
class Step:
    """Seconds of one step.

    Attributes:
        cpu: of its thread.
        slept: it had given up its core, and whom it waited for was at work or slept as well.
        elapsed: all but its time in the queue of a core. What is neither ``cpu`` nor ``slept`` is the hypervisor's, or
            the other thread's time in such a queue.
    """

    cpu: float
    slept: float
    elapsed: float


def timed(step: Callable[[], object], other: str = "") -> Step:
    """A step; ``other`` is the thread that it may wait for, as a folder of /proc."""
    slept, queued = _sleeps(), waited(other)
    spent = spent_by_thread(step)
    queued = max(0.0, waited(other) - queued)
    away = spent["elapsed"] - spent["cpu"] if _sleeps() > slept else 0.0
    return Step(spent["cpu"], max(0.0, away - queued), spent["elapsed"])


def _sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def beside(save: Callable[[], object], step: Callable[[], object]) -> dict[str, float]:
    """Steps for as long as a save goes on in another thread, then as many alone; see ``stops``.

    After each step as long a rest: a hypervisor with a quota stops all cores of a machine whose two threads never rest,
    for some 10 ms in each 100, and whoever waits for the other one then has waited for that.
    """
    saving = threading.Thread(target=save)
    saving.start()
    during = [timed(step, saver := f"/proc/self/task/{saving.native_id}")]
    while saving.is_alive():
        time.sleep(during[-1].elapsed)
        during.append(timed(step, saver))
    saving.join()
    return stops(during, [timed(step) for _ in during])


def stops(during: list[Step], alone: list[Step]) -> dict[str, float]:
    """What the save made the steps wait at most, in seconds, and its parts.

    A step is stopped for as long as it sleeps, and for what it computes beyond the median of those alone: pages of what
    it puts aside for the save have faults.
    """
    usual = median(step.cpu for step in alone)
    return {
        "stop": max(step.slept + max(0.0, step.cpu - usual) for step in during),
        "step_slept": max(step.slept for step in during),
        "step_cpu": max(step.cpu for step in during),
        "step_cpu_alone": max(step.cpu for step in alone),
        "step": max(step.elapsed for step in during),
        "step_alone": max(step.elapsed for step in alone),
        "steps": len(during),
    }
