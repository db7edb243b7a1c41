"""Learning-rate schedules: the rate as a pure function of the number of examples trained.

Of examples, not of blocks (optimizer steps): blocks are as large as traffic happens to make them, and the loss is a sum
over examples, so how far a model has come is a matter of examples, whatever the tick and the size of blocks. A block is
trained at the rate of its last example; the rate is then above 0 from the first block of a warm-up on.

The count is of all examples that the store was ever trained on and part of every commit: after a restart a schedule
goes on where it was, and one that was changed is in force as if it had always been there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from monobeam.models.section import Section

# The keys of each kind beside ``kind`` and ``warmup``, with their defaults; None: it must be given.
KINDS: Mapping[str, Mapping[str, float | None]] = {
    "constant": {},
    "polynomial": {"examples": None, "power": 1.0, "end_rate": 0.0},
    "exponential": {"examples": None, "factor": 0.5, "end_rate": 0.0},
    "cosine": {"examples": None, "end_rate": 0.0},
    "inverse_sqrt": {"examples": None, "end_rate": 0.0},
}
TO_END_RATE = ("polynomial", "exponential", "cosine")  # those that come to it, whatever it is


@dataclass(frozen=True)
class Schedule:
    """Up in a straight line over ``warmup`` examples to the learning rate, and from there as its ``kind`` says.

    After ``x`` times ``examples`` more, with ``end`` for ``end_rate``, the rate is

    * constant: the learning rate;
    * polynomial: ``end + (learning rate - end) (1 - x)^power`` until ``x = 1``, then ``end``;
    * exponential: ``learning rate factor^x``, but at least ``end``;
    * cosine: ``end + (learning rate - end) (1 + cos(pi x)) / 2`` until ``x = 1``, then ``end`` (Loshchilov, Hutter
      2017, one cycle);
    * inverse_sqrt: ``learning rate / sqrt(1 + x)``, but at least ``end`` (Vaswani et al. 2017, section 5.3, if
      ``examples`` and ``warmup`` are the same).
    """

    kind: str = "constant"
    warmup: int = 0
    examples: int = 1
    end_rate: float = 0.0
    power: float = 1.0
    factor: float = 0.5

    def rate(self, learning_rate: float, trained: int) -> float:
        """The rate of a step, by the number of examples that will have been trained after it: 1 or more."""
        if trained < self.warmup:
            return learning_rate * trained / self.warmup
        return _RATES[self.kind](self, learning_rate, (trained - self.warmup) / self.examples)


CONSTANT = Schedule()


def _polynomial(schedule: Schedule, learning_rate: float, x: float) -> float:
    share = math.pow(max(1 - x, 0.0), schedule.power)
    return schedule.end_rate + (learning_rate - schedule.end_rate) * share


def _cosine(schedule: Schedule, learning_rate: float, x: float) -> float:
    share = (1 + math.cos(math.pi * min(x, 1.0))) / 2
    return schedule.end_rate + (learning_rate - schedule.end_rate) * share


_RATES: Mapping[str, Callable[[Schedule, float, float], float]] = {
    "constant": lambda schedule, rate, x: rate,
    "polynomial": _polynomial,
    "exponential": lambda schedule, rate, x: max(rate * math.pow(schedule.factor, x), schedule.end_rate),
    "cosine": _cosine,
    "inverse_sqrt": lambda schedule, rate, x: max(rate / math.sqrt(1 + x), schedule.end_rate),
}


def read(section: Section, learning_rate: float) -> Schedule:
    """The schedule in a section of its own, which may be empty."""
    kind = section.choice("kind", tuple(KINDS), Schedule.kind)
    warmup = section.integer("warmup", Schedule.warmup, low=0)
    keys = KINDS[kind]
    schedule = Schedule(
        kind,
        warmup,
        section.integer("examples", low=1) if "examples" in keys else Schedule.examples,
        section.number("end_rate", Schedule.end_rate, low=0.0) if "end_rate" in keys else Schedule.end_rate,
        section.number("power", Schedule.power, low=0.0) if "power" in keys else Schedule.power,
        section.number("factor", Schedule.factor, low=0.0) if "factor" in keys else Schedule.factor,
    )
    if schedule.power == 0:
        raise section.error("power", "must be above 0")
    if not 0 < schedule.factor < 1:
        raise section.error("factor", "must lie between 0 and 1")
    if schedule.end_rate > learning_rate:
        raise section.error("end_rate", f"must not be above the learning_rate, {learning_rate:g}")
    section.close()
    return schedule
