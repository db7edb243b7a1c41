"""What the replay writes, held against a join of a few lines over the whole logs."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from examples.movielens.catalogue import ACTIONS, IMPRESSIONS, Catalogue
from examples.movielens.dataset import Ratings, read
from examples.movielens.ledger import Ledger
from examples.movielens.plan import MALFORMED, Kind, Plan, Settings, Untidiness, plan
from examples.movielens.replay import BEHIND_US, GARBAGE, Clock, Replay
from monobeam.logs.log import Log, open_log
from tests.examples.layouts import ML_100K, write

SETTINGS = Settings(window_us=2_000_000, retention_us=20_000_000, disorder_us=300_000)
WINDOW_US = SETTINGS.window_us
START_US = 1_700_000_000_000_000
SHARES = Untidiness(duplicates=0.05, late=0.05, early=0.05, stray=0.02, malformed=0.02, requests=0)


class FakeClock:
    """Stands still but for ``sleep``; ``stall_at`` says how far the plan is when the machine stops for ``stall_us``."""

    def __init__(self, stall_at_us: int = -1, stall_us: int = 0) -> None:
        self.time_us = START_US
        self._stall_at_us, self._stall_us = stall_at_us, stall_us

    def now_us(self) -> int:
        return self.time_us

    def sleep(self, seconds: float) -> None:
        self.time_us += int(seconds * 1e6)
        if 0 <= self._stall_at_us <= self.time_us - START_US:
            self.time_us += self._stall_us
            self._stall_at_us = -1


def some_ratings(tmp_path: Path, count: int) -> Ratings:
    """Four rated items, over and over, with other stars each time."""
    small = read(write(ML_100K, tmp_path / "data"))
    stars = np.random.Generator(np.random.PCG64(1)).integers(1, 6, count).astype(np.float32)
    again = np.arange(count) % len(small)
    return Ratings(
        "ml-100k", small.user[again], small.item[again], stars, small.timestamp[again], small.users, small.items
    )


def replay(tmp_path: Path, todo: Plan, ratings: Ratings, clock: FakeClock, **options: Any) -> tuple[Replay, Ledger]:
    ledger = Ledger(WINDOW_US)
    logs = [open_log(f"file:{tmp_path / name}", partitions=2) for name in ("impressions", "actions")]
    player = Replay(todo, Catalogue.of(ratings), *logs, ledger, clock=Clock(clock.now_us, clock.sleep), **options)
    player.run()
    player.finish()
    return player, ledger


def records(log: Log, schema: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Every record of a log, partition by partition; None for one that cannot be decoded."""
    for partition in log.partitions():
        offset = 0
        while chunks := log.read(partition, offset, 1000):
            offset = chunks[-1].end
            for part, _ in (part for chunk in chunks for part in chunk.split()):
                if part.payload == GARBAGE:
                    yield None
                else:
                    stream = io.BytesIO(part.payload)
                    for _ in range(part.count):
                        yield fastavro.schemaless_reader(stream, schema, None)  # type: ignore[misc]


def micros(record: dict[str, Any]) -> int:
    return round(record["time"].timestamp() * 1e6)


def usable(record: dict[str, Any] | None) -> bool:
    return bool(record and record["impression_id"] and micros(record) > 0 and np.isfinite(record.get("value", 1.0)))


def reference(impressions: list[Any], actions: list[Any]) -> dict[str, int]:
    """The join, a few lines long, over everything that was logged."""
    shown = {record["impression_id"]: micros(record) for record in impressions if usable(record)}
    likes = {(record["impression_id"], micros(record)) for record in actions if usable(record)}
    reactions = [time - shown[impression] for impression, time in likes if impression in shown]
    good = [sum(map(usable, log)) for log in (impressions, actions)]
    return {
        "impressions": len(impressions),
        "shown": len(shown),
        "impressions_duplicated": good[0] - len(shown),
        "impressions_rejected": len(impressions) - good[0],
        "actions": len(actions),
        "joined": sum(0 <= reaction <= WINDOW_US for reaction in reactions),
        "corrections": sum(reaction > WINDOW_US for reaction in reactions),
        "actions_duplicated": good[1] - len(likes),
        "unmatched": sum(impression not in shown for impression, _ in likes),
        "actions_rejected": len(actions) - good[1],
    }


@pytest.mark.parametrize("stall_us", [0, 700_000])
def test_the_books_are_those_of_a_plain_join(stall_us: int, tmp_path: Path) -> None:
    ratings = some_ratings(tmp_path, 3000)
    todo = plan(ratings.rating, 10, 3, SETTINGS, untidiness=SHARES)
    player, ledger = replay(tmp_path, todo, ratings, FakeClock(4_000_000, stall_us))
    impressions = list(records(open_log(f"file:{tmp_path}/impressions"), IMPRESSIONS))
    actions = list(records(open_log(f"file:{tmp_path}/actions"), ACTIONS))
    expected = ledger.expected()
    assert expected == reference(impressions, actions)
    assert all(count > 5 for count in expected.values()), expected
    assert expected["impressions_rejected"] + expected["actions_rejected"] == todo.count(*map(Kind, MALFORMED))
    assert len(impressions) + len(actions) == len(todo)
    assert abs(player.stretched_us - stall_us) <= 2 * BEHIND_US


@pytest.mark.parametrize("stall_us", [0, 700_000])
def test_no_record_is_logged_later_than_the_disorder_allows(stall_us: int, tmp_path: Path) -> None:
    ratings = some_ratings(tmp_path, 1000)
    todo = plan(ratings.rating, 5, 3, SETTINGS, untidiness=SHARES)
    replay(tmp_path, todo, ratings, FakeClock(2_000_000, stall_us))
    late = 0
    for record in records(open_log(f"file:{tmp_path}/actions"), ACTIONS):
        if usable(record):
            assert record is not None
            delay_us = round(record["ingest_time"].timestamp() * 1e6) - micros(record)
            assert delay_us >= 0
            late += delay_us > SETTINGS.longest_delay_us + BEHIND_US
    # A like that was sent twice keeps its time; when the machine stalls between the two, the second is late.
    assert late <= (20 if stall_us else 0)


def test_same_seed_same_logs(tmp_path: Path) -> None:
    ratings = some_ratings(tmp_path, 500)
    contents = []
    for name in ("one", "two"):
        todo = plan(ratings.rating, 3, 9, SETTINGS, untidiness=SHARES)
        replay(tmp_path / name, todo, ratings, FakeClock())
        log = open_log(f"file:{tmp_path / name}/actions")
        contents.append([(c.offset, c.payload) for p in log.partitions() for c in log.read(p, 0, 10_000)])
    assert contents[0] == contents[1]


def test_likes_of_what_the_server_showed_go_to_its_impressions(tmp_path: Path) -> None:
    """The server's part is played by the clock: every request is answered at once."""
    ratings = some_ratings(tmp_path, 400)
    todo = plan(ratings.rating, 4, 5, SETTINGS, untidiness=Untidiness(requests=0.5, malformed=0, stray=0))
    asked: list[int] = []

    def answer(rating: int) -> None:
        asked.append(rating)
        player.served(rating, f"served{rating}", clock.now_us())

    ledger, clock = Ledger(WINDOW_US), FakeClock()
    logs = [open_log(f"file:{tmp_path / name}", partitions=2) for name in ("impressions", "actions")]
    player = Replay(todo, Catalogue.of(ratings), *logs, ledger, clock=Clock(clock.now_us, clock.sleep), ask=answer)
    player.run()
    player.finish()
    assert len(asked) == todo.count(Kind.REQUEST) > 100
    liked = {f"served{rating}" for rating in asked if todo.reaction_us[rating]}
    actions = [record for record in records(open_log(f"file:{tmp_path}/actions"), ACTIONS) if record]
    assert {record["impression_id"] for record in actions if record["impression_id"].startswith("served")} == liked
    impressions = list(records(open_log(f"file:{tmp_path}/impressions"), IMPRESSIONS))
    assert ledger.counts["impressions"] == len(impressions) + len(asked)
    assert ledger.counts["shown"] == len(ratings)


def test_the_ledger_counts_each_kind_once() -> None:
    ledger = Ledger(WINDOW_US)
    ledger.impression("a")
    ledger.impression("a")
    ledger.like("a", WINDOW_US)
    ledger.like("a", WINDOW_US)
    ledger.like("b", WINDOW_US + 1)
    ledger.stray_like()
    ledger.malformed(Kind.GARBAGE_LIKE)
    ledger.malformed(Kind.EMPTY_ID_IMPRESSION)
    assert json.loads(json.dumps(ledger.expected())) == {
        "impressions": 3,
        "shown": 1,
        "impressions_duplicated": 1,
        "impressions_rejected": 1,
        "actions": 5,
        "joined": 1,
        "corrections": 1,
        "actions_duplicated": 1,
        "unmatched": 1,
        "actions_rejected": 1,
    }
    with pytest.raises(ValueError, match="before its impression"):
        ledger.like("c", -1)
