"""What a join does: one frozen value, which decides the output together with the records alone."""

from __future__ import annotations

from dataclasses import dataclass

from monobeam.join.policy import POLICIES


@dataclass(frozen=True)
class Label:
    """A binary label: 1 if an action of the type, with a value of at least ``min_value``, falls in the window."""

    name: str
    action: str
    min_value: float | None = None


@dataclass(frozen=True)
class JoinSettings:
    """Settings of ``shard``, one of ``shards`` of a join; every duration and time is in microseconds.

    An action counts for the labels of its impression if ``0 <= action time - impression time <= window_us``. For
    ``retention_us`` more, an impression stays known for late actions, and an action waits that long for a late
    impression. ``tick_us`` is the grid on which event time moves: blocks never span ticks. ``negative_rate`` in (0, 1]
    is the share of negatives (impressions without a positive label) that is kept, chosen by ``seed``. Decisions before
    ``since_us`` belong to an earlier run and are passed over; decisions from ``until_us`` on are left to a later one
    (both are taken down to the tick).

    Raises:
        ValueError: on a value that cannot work, quoted.
    """

    window_us: int
    retention_us: int
    tick_us: int
    labels: tuple[Label, ...]
    policy: str = "wait"
    negative_rate: float = 1.0
    seed: int = 0
    max_block_rows: int = 1024
    shard: int = 0
    shards: int = 1
    since_us: int | None = None
    until_us: int | None = None

    def __post_init__(self) -> None:
        for name in ("window_us", "tick_us", "max_block_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("retention_us", "shard", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if self.shard >= self.shards:
            raise ValueError(f"shard={self.shard}: must be below shards={self.shards}")
        if not 0.0 < self.negative_rate <= 1.0:
            raise ValueError(f"negative_rate={self.negative_rate}: must be in (0, 1]")
        if self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r}: must be one of {', '.join(sorted(POLICIES))}")
        names = [label.name for label in self.labels]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"labels={names}: must be at least one, each with its own name")

    @property
    def first_needed_us(self) -> int | None:
        """The time of the first impression that a continuation from ``since_us`` must be given; None: all of them.

        Windows that begin here or later may be open at ``since_us``; the cold store knows the impressions before it.
        """
        return None if self.since_us is None else self.tick_start(self.since_us) - self.window_us

    @property
    def first_action_needed_us(self) -> int | None:
        """The time of the first action that a continuation from ``since_us`` must be given; None: all of them.

        Actions from here on may belong to a window that is open at ``since_us``, or still wait for their impression.
        """
        if self.since_us is None:
            return None
        return self.tick_start(self.since_us) - max(self.window_us, self.retention_us)

    def tick_start(self, time_us: int) -> int:
        """The last tick boundary that is not after the time."""
        return time_us // self.tick_us * self.tick_us
