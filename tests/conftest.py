"""One Bigtable emulator and one Kafka broker for all tests of a session, and what takes minutes, once, beside them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples import emulators, installed
from examples.flink import cluster as flink_cluster
from examples.flink import settings
from examples.ports import free_ports
from tests.kafka_cluster import Cluster
from tests.native.programs import Programs
from tests.needed import needed
from tests.pubsub import Topic

ROOT = Path(__file__).parents[1]
_numbers = itertools.count()


def uses_core_programs(item: pytest.Item) -> bool:
    return item.path == ROOT / "tests/native/test_core.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last comes who waits for the core's programs, which run meanwhile."""
    items.sort(key=uses_core_programs)


@pytest.fixture(scope="session", autouse=True)
def core_programs(request: pytest.FixtureRequest) -> Iterator[Programs | None]:
    """Started with the session if one of its tests is about them; None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None or not any(map(uses_core_programs, request.session.items)):
        yield None
        return
    programs = Programs(compiler)
    yield programs
    programs.close()


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """An emulator at BIGTABLE_EMULATOR_HOST, HOST:PORT."""
    with needed():
        running = emulators.bigtable()
    with running as address:
        yield address


@pytest.fixture(scope="session")
def new_topic() -> Iterator[Callable[[], Topic]]:
    """Makes topics in an emulator at PUBSUB_EMULATOR_HOST."""
    with needed():
        running = emulators.pubsub()
    with running:
        yield lambda: Topic(f"topic-{next(_numbers)}")


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink_cluster.Cluster]:
    """A Flink cluster with two TaskManagers."""
    with needed():
        installed.check_flink()
    made = flink_cluster.Cluster(tmp_path_factory.mktemp("flink"), changed={**settings.own_ports(), **reporter()})
    try:
        made.start()
        yield made
    finally:
        made.stop()


def reporter() -> dict[str, str]:
    """Flink's reporter for Prometheus, as config.yaml has it and local.yaml has not, at ports for four processes."""
    found = settings.read(settings.CONF / "config.yaml").items()
    ports = ",".join(map(str, free_ports(4)))
    return {key: value for key, value in found if ".prometheus." in key} | {"metrics.reporter.prometheus.port": ports}


@pytest.fixture(scope="session")
def new_table(emulator: str) -> Callable[[], str]:
    """Makes the tables of stores, and says their addresses."""
    from monobeam.store.bigtable import create

    def new() -> str:
        uri = f"bigtable://project/instance/table-{next(_numbers)}"
        assert create(uri)
        return uri

    return new


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kafka broker."""
    with needed():
        cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    cluster.broker.start()
    yield cluster
    cluster.broker.kill()
