"""What the replay will send and when: a pure function of the ratings, the seed and the join's settings.

Real logs are untidy, and so is the plan: records arrive out of order and twice, likes come before their impression has
arrived, after the window has closed, or for impressions that nobody has seen, and some records are malformed. How many
of each is known exactly, and the demo holds the pipeline to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

LIKED = 4.0  # stars from which a rating counts as a like


class Kind(IntEnum):
    """What is sent. From EMPTY_ID on: malformed records, which the pipeline has to reject."""

    IMPRESSION = 0
    REQUEST = 1  # the server is asked to rank this item, and logs the impression itself
    LIKE = 2
    STRAY_LIKE = 3  # for an impression that never was
    EMPTY_ID_IMPRESSION = 4
    ZERO_TIME_IMPRESSION = 5
    GARBAGE_IMPRESSION = 6
    EMPTY_ID_LIKE = 7
    ZERO_TIME_LIKE = 8
    INFINITE_LIKE = 9
    GARBAGE_LIKE = 10


MALFORMED = range(Kind.EMPTY_ID_IMPRESSION, Kind.GARBAGE_LIKE + 1)
OF_IMPRESSIONS = {Kind.IMPRESSION, Kind.EMPTY_ID_IMPRESSION, Kind.ZERO_TIME_IMPRESSION, Kind.GARBAGE_IMPRESSION}


@dataclass(frozen=True)
class Settings:
    """What the plan has to know of the join, in microseconds; ``disorder_us`` is how late a record may be logged."""

    window_us: int
    retention_us: int
    disorder_us: int

    def __post_init__(self) -> None:
        if (
            self.window_us < 2 * self.disorder_us
            or self.disorder_us < 100_000
            or self.retention_us < 4 * self.window_us
        ):
            raise ValueError(
                "the replay needs a disorder of at least 100 ms, a window of at least twice that and a retention of at "
                f"least four windows; they are {self.disorder_us}, {self.window_us} and {self.retention_us} us"
            )

    @property
    def longest_delay_us(self) -> int:
        """From a record's time to its place in the log: half of what is allowed, the rest is for a busy machine."""
        return self.disorder_us // 2

    @property
    def longest_reaction_us(self) -> int:
        """From an impression to a like that counts: a replay that stretches for a moment must not push it out."""
        return self.window_us * 3 // 4


@dataclass(frozen=True)
class Untidiness:
    """Shares of the untidy cases."""

    requests: float = 0.05  # of the ratings: ranked and logged by the server
    duplicates: float = 0.01  # of the impressions, and of the likes
    early: float = 0.02  # of the likes: logged before their impression
    late: float = 0.01  # of the likes: after the window
    stray: float = 0.005  # likes for no impression, per like
    malformed: float = 0.001  # of all records


@dataclass(frozen=True)
class Plan:
    """Everything to send, in the order of sending. Times are in microseconds from the start of the replay.

    Attributes:
        send_us: int64[R], when the record goes out, rising.
        time_us: int64[R], the record's event time; never later than ``send_us``.
        kind: int8[R], a ``Kind``.
        rating: int64[R], which rating it is about (for stray and malformed records: one whose features it borrows).
        partition: int32[R].
        reaction_us: int64[N], for each rating the time from the impression to the like; 0 without one.
    """

    send_us: np.ndarray
    time_us: np.ndarray
    kind: np.ndarray
    rating: np.ndarray
    partition: np.ndarray
    reaction_us: np.ndarray

    def __len__(self) -> int:
        return len(self.send_us)

    def count(self, *kinds: Kind) -> int:
        """How many records of these kinds there are, duplicates included."""
        return int(np.isin(self.kind, kinds).sum())


def plan(
    stars: np.ndarray,
    seconds: float,
    seed: int,
    settings: Settings,
    partitions: int = 1,
    untidiness: Untidiness | None = None,
) -> Plan:
    """Spread ratings (float32[N] of stars, in time order) evenly over ``seconds`` and add what is untidy."""
    if len(stars) == 0 or seconds <= 0:
        raise ValueError(f"nothing to replay: {len(stars)} ratings in {seconds} seconds")
    shares, longest_delay_us = untidiness or Untidiness(), settings.longest_delay_us
    rng = np.random.Generator(np.random.PCG64(seed))
    count, end = len(stars), int(seconds * 1e6)
    shown = np.arange(count, dtype=np.int64) * end // count
    requested = rng.random(count) < shares.requests
    liked = stars >= LIKED
    case = rng.random(count)
    early = liked & ~requested & (case < shares.early)
    late = liked & ~requested & (case >= 1 - shares.late)

    reaction = _reactions(rng, count, settings)
    reaction[early] = rng.integers(5_000, 30_000, early.sum())
    reaction[late] = rng.integers(settings.window_us * 6 // 5, 2 * settings.window_us, late.sum())
    reaction[~liked] = 0
    impression_delay = rng.integers(0, longest_delay_us, count)
    impression_delay[early] = rng.integers(longest_delay_us * 9 // 10, longest_delay_us, early.sum())
    like_delay = rng.integers(0, longest_delay_us, count)
    like_delay[early] = rng.integers(0, 5_000, early.sum())

    def rows(kind: Kind, which: np.ndarray, time: np.ndarray, delay: np.ndarray) -> list[np.ndarray]:
        return [time + delay, time, np.full(len(which), kind, np.int64), which]

    plain, likes = np.flatnonzero(~requested), np.flatnonzero(liked & ~requested)
    parts = [
        rows(Kind.IMPRESSION, plain, shown[plain], impression_delay[plain]),
        rows(Kind.REQUEST, np.flatnonzero(requested), shown[requested], np.zeros(requested.sum(), np.int64)),
        rows(Kind.LIKE, likes, shown[likes] + reaction[likes], like_delay[likes]),
    ]
    for kind, all_of in ((Kind.IMPRESSION, plain), (Kind.LIKE, likes)):
        again = all_of[(rng.random(len(all_of)) < shares.duplicates) & ~early[all_of]]
        time = shown[again] + (reaction[again] if kind == Kind.LIKE else 0)
        parts.append(rows(kind, again, time, rng.integers(0, longest_delay_us, len(again))))
    # Stray likes are only known to be stray after the retention, so they come in the first four fifths.
    stray = rng.integers(0, count, round(len(likes) * shares.stray))
    parts.append(
        rows(Kind.STRAY_LIKE, stray, rng.integers(0, end * 4 // 5, len(stray)), np.zeros(len(stray), np.int64))
    )
    parts += _malformed(rng, sum(len(part[0]) for part in parts), count, end, shares.malformed)
    return _in_order(rng, parts, partitions, reaction)


def _reactions(rng: np.random.Generator, count: int, settings: Settings) -> np.ndarray:
    """Most people react soon."""
    drawn = rng.exponential(settings.window_us / 6, count) + 10_000
    return np.minimum(drawn, settings.longest_reaction_us).astype(np.int64)


def _malformed(
    rng: np.random.Generator, records: int, ratings: int, end_us: int, share: float
) -> list[list[np.ndarray]]:
    """Every kind in turn, at random times."""
    kinds = np.resize(np.array(MALFORMED, np.int64), round(records * share))
    time = rng.integers(0, end_us, len(kinds))
    return [[time, time, kinds, rng.integers(0, ratings, len(kinds))]]


def _in_order(
    rng: np.random.Generator, parts: Sequence[list[np.ndarray]], partitions: int, reaction: np.ndarray
) -> Plan:
    send, time, kind, rating = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(send, kind="stable")
    partition = rng.integers(0, partitions, len(order)).astype(np.int32)
    return Plan(send[order], time[order], kind[order].astype(np.int8), rating[order], partition, reaction)
