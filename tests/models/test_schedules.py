"""Learning-rate schedules, beside torch's own where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from monobeam.models.schedules import CONSTANT, KINDS, Schedule

RATE = 0.4
schedules = st.builds(
    Schedule,
    kind=st.sampled_from(sorted(KINDS)),
    warmup=st.integers(0, 100),
    examples=st.integers(1, 1000),
    end_rate=st.floats(0, RATE),
    power=st.floats(0.1, 5),
    factor=st.floats(0.01, 0.99),
)


def torchs(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], RATE)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (CONSTANT, partial(lr_scheduler.ConstantLR, factor=1.0)),
        (
            Schedule("polynomial", examples=50, power=2.0),
            partial(lr_scheduler.PolynomialLR, total_iters=50, power=2.0),
        ),
        (
            Schedule("polynomial", examples=50, end_rate=0.1),
            partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0.25, total_iters=50),
        ),
        (Schedule("exponential", examples=1, factor=0.9), partial(lr_scheduler.ExponentialLR, gamma=0.9)),
        (
            Schedule("cosine", examples=70, end_rate=0.1),
            partial(lr_scheduler.CosineAnnealingLR, T_max=70, eta_min=0.1),
        ),
        (
            Schedule("inverse_sqrt", examples=10),
            partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: math.sqrt(10 / (10 + step))),
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Schedule) else "",
)
def test_torch_has_the_same_rates(schedule: Schedule, make: Callable[[torch.optim.Optimizer], LRScheduler]) -> None:
    assert [schedule.rate(RATE, trained) for trained in range(71)] == pytest.approx(torchs(make, 71), rel=1e-9)


def test_the_transformers_schedule() -> None:
    """Vaswani et al. 2017, equation 3: min(n^-1/2, n warmup^-3/2), up to a factor."""
    schedule = Schedule("inverse_sqrt", warmup=100, examples=100)
    for n in (1, 50, 99, 100, 101, 1000):
        assert schedule.rate(RATE, n) == pytest.approx(RATE * 10 * min(n**-0.5, n * 100**-1.5))


@given(schedules, st.integers(1, 10**12))
def test_rates_lie_between_the_last_and_the_first(schedule: Schedule, trained: int) -> None:
    rate = schedule.rate(RATE, trained)
    end = RATE if schedule.kind == "constant" else schedule.end_rate
    low = min(end, RATE / schedule.warmup) if schedule.warmup else end
    assert low * (1 - 1e-9) <= rate <= RATE * (1 + 1e-9)


@given(schedules, st.integers(1, 2000), st.integers(1, 2000))
def test_rates_rise_until_the_warmup_ends_and_never_again(schedule: Schedule, one: int, other: int) -> None:
    first, last = sorted((one, other))
    early, late = schedule.rate(RATE, first), schedule.rate(RATE, last)
    if last <= schedule.warmup:
        assert early <= late * (1 + 1e-9)
    if first >= schedule.warmup:
        assert early >= late * (1 - 1e-9)


@given(schedules)
def test_the_warmup_begins_above_zero_and_ends_at_the_learning_rate(schedule: Schedule) -> None:
    assert schedule.rate(RATE, 1) > 0 or schedule.warmup == 0
    if schedule.warmup:
        assert schedule.rate(RATE, schedule.warmup) == pytest.approx(RATE)
    for kind in ("polynomial", "cosine"):
        ended = Schedule(kind, schedule.warmup, schedule.examples, schedule.end_rate, schedule.power)
        assert ended.rate(RATE, schedule.warmup + schedule.examples) == pytest.approx(schedule.end_rate, abs=1e-12)


def test_the_constant_rate_is_the_very_number() -> None:
    assert CONSTANT.rate(0.001, 10**9) == 0.001
