"""The pace of the join's timers."""

from __future__ import annotations

from monobeam.transforms.pace import FIRST_LIMIT_US, LAST_LIMIT_US, LONG_US, TRY_EVERY, Pace

TICK = 50_000


def after(pace: Pace, event_us: int, now_us: int, took_us: int = 0) -> int:
    """How far the next firing lies ahead of one now, when something is always due at the next tick."""
    pace.fired(event_us, now_us, took_us)
    return pace.next(event_us + TICK) - event_us


def test_one_tick_while_it_keeps_up_and_two_now_and_then() -> None:
    pace, event, now, steps = Pace(TICK), 0, 0, []
    for n in range(160):
        steps.append(after(pace, event, now + n % 3))
        event, now = event + steps[-1], now + steps[-1]  # it fires when the time has come
    assert set(steps) == {TICK, 2 * TICK}
    assert steps.count(2 * TICK) == 160 // TRY_EVERY - 1


def test_longer_steps_when_firings_take_longer_than_a_tick() -> None:
    pace, event, steps = Pace(TICK), 0, []
    for n in range(12):
        steps.append(after(pace, event, n * 3 * TICK))
        event += steps[-1]
    assert max(steps) > 2 * TICK
    assert max(steps) <= FIRST_LIMIT_US


def test_longer_steps_through_a_backlog_and_short_ones_after_it() -> None:
    pace, event, now = Pace(TICK), 0, 10**12
    for _ in range(20):
        now += 1000
        event += after(pace, event, now)
    assert after(pace, event, now + 1000) == LAST_LIMIT_US
    for _ in range(40):
        event, now = event + TICK, now + TICK
        last = after(pace, event, now)
    assert last == TICK


def test_steps_through_a_backlog_are_as_long_as_their_work_allows() -> None:
    pace, event, now, steps = Pace(TICK), 0, 10**12, []
    for _ in range(60):
        now += 1000
        took_us = steps[-1] // 20 if steps else 0  # a second of event time is 50 ms of work
        steps.append(after(pace, event, now, took_us))
        event += steps[-1]
    assert LONG_US / 2 <= max(steps[30:]) / 20 <= 2 * LONG_US
    now += 10**6
    assert after(pace, event, now, 10 * LONG_US) < max(steps)


def test_the_last_step_of_a_backlog_ends_where_records_are_now() -> None:
    """The watermark is half a second behind the clock; what is fired later than that is late."""
    pace, event, now, delays = Pace(TICK), 0, 60 * 10**6, []
    for _ in range(300):
        event += after(pace, event, now)
        delays.append(max(0, event + 500_000 - now))  # until the watermark is there
        now += 50_000 + delays[-1]
    assert now - event < 10**6
    assert max(delays) < 10**6


def test_what_is_due_later_is_not_awaited_earlier() -> None:
    pace = Pace(TICK)
    pace.fired(0, 0)
    assert pace.next(10 * TICK) == 10 * TICK
