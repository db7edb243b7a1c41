"""The pace of the join's timers."""

from __future__ import annotations

from monobeam.transforms.pace import MAX_STEP_US, Pace

TICK = 50_000


def after(pace: Pace, event_us: int, now_us: int) -> int:
    """How far the next firing lies ahead of one now, when something is always due at the next tick."""
    pace.fired(event_us, now_us)
    return pace.next(event_us + TICK) - event_us


def test_one_tick_while_it_keeps_up() -> None:
    pace = Pace(TICK)
    assert {after(pace, n * TICK, n * TICK + n % 3) for n in range(1, 20)} == {TICK}


def test_longer_steps_when_firings_take_longer_than_a_tick() -> None:
    pace, event, steps = Pace(TICK), 0, []
    for n in range(12):
        steps.append(after(pace, event, n * 3 * TICK))
        event += steps[-1]
    assert max(steps) > 2 * TICK
    assert max(steps) <= MAX_STEP_US


def test_longer_steps_through_a_backlog_and_short_ones_after_it() -> None:
    pace, event, now = Pace(TICK), 0, 10**12
    for _ in range(10):
        now += 1000
        event += after(pace, event, now)
    assert after(pace, event, now + 1000) == MAX_STEP_US
    for _ in range(40):
        event, now = event + TICK, now + TICK
        last = after(pace, event, now)
    assert last == TICK


def test_what_is_due_later_is_not_awaited_earlier() -> None:
    pace = Pace(TICK)
    pace.fired(0, 0)
    assert pace.next(10 * TICK) == 10 * TICK
