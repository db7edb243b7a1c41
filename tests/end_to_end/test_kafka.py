"""All logs in Kafka: every example exactly once, also when the broker dies under the job."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from monobeam.logs.log import AwayError
from tests.end_to_end import traffic
from tests.end_to_end.run import Run
from tests.end_to_end.test_exactly_once import check
from tests.kafka_cluster import Cluster

COUNT, PARTITIONS = 1500, 2


@dataclass(frozen=True)
class KafkaRun(Run):
    """A run whose logs are topics; ``raw_logs`` and ``logs`` are what their addresses begin with."""

    raw_logs: str = ""
    logs: str = ""

    def log(self, name: str) -> str:
        return f"{self.logs}-{name}"

    def raw_log(self, name: str) -> str:
        return f"{self.raw_logs}-{name}"


@pytest.fixture(scope="module")
def made() -> traffic.Traffic:
    return traffic.make(seed=4, count=COUNT)


@pytest.fixture(scope="module")
def raw(made: traffic.Traffic, kafka: Cluster) -> str:
    place = kafka.new("")
    traffic.write_to(made, lambda name: f"{place}-{name}", partitions=PARTITIONS)
    return place


def run_in(folder: Path, raw: str, kafka: Cluster) -> KafkaRun:
    created = Run.create(folder, folder)
    return KafkaRun(created.folder, folder, raw_logs=raw, logs=kafka.new(""))


@pytest.fixture(scope="module")
def undisturbed(raw: str, kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> KafkaRun:
    """A backfill that nothing happened to."""
    run = run_in(tmp_path_factory.mktemp("runs") / "undisturbed", raw, kafka)
    run.backfill()
    return run


def test_a_backfill_is_the_reference_join(undisturbed: KafkaRun, made: traffic.Traffic) -> None:
    check(undisturbed, made)
    assert all(letter["log"].startswith("kafka://") for letter in undisturbed.dead_letters())


def settled(run: KafkaRun, undisturbed: KafkaRun) -> bool:
    """Also asked of a broker that has just begun again."""
    with suppress(AwayError):
        return run.settled(undisturbed)
    return False


def test_the_broker_is_killed_under_the_job(
    undisturbed: KafkaRun, made: traffic.Traffic, raw: str, kafka: Cluster, tmp_path: Path
) -> None:
    run, total = run_in(tmp_path / "killed", raw, kafka), sum(undisturbed.ids().values())
    with run.streaming() as job:
        for share in (0.0, 0.4):
            run.wait(job, lambda share=share: run.updates_so_far() > share * total)
            kafka.broker.kill()
            assert run.updates_so_far() < total
            kafka.broker.start()
        run.wait(job, lambda: settled(run, undisturbed))
    check(run, made)
    assert run.parameters() == undisturbed.parameters()
