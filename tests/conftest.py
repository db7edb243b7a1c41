"""One Bigtable emulator and one Kafka broker for all tests of a session, and what takes minutes, once, beside them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.flink import cluster as flink_cluster
from examples.flink import settings
from examples.kafka.broker import MissingError, free_ports
from tests import pubsub
from tests.kafka_cluster import Cluster
from tests.native.programs import Programs

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


def emulator_path() -> str:
    """The emulator; its absence skips the test, or fails it under CI."""
    found = str(ROOT / ".tools/bin/emulator") if (ROOT / ".tools/bin/emulator").exists() else None
    found = found or shutil.which("cbtemulator")
    if found is None:
        message = "no Bigtable emulator here: `make emulator` installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """An emulator at BIGTABLE_EMULATOR_HOST, HOST:PORT."""
    with subprocess.Popen(
        [emulator_path(), "-port=0", "-host=127.0.0.1"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"running on (\S+)", process.stdout.readline())
            assert found is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BIGTABLE_EMULATOR_HOST", found[1])
                yield found[1]
        finally:
            process.kill()


@pytest.fixture(scope="session")
def new_topic() -> Iterator[Callable[[], pubsub.Topic]]:
    """Makes topics in an emulator at PUBSUB_EMULATOR_HOST."""
    with pubsub.emulator() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUBSUB_EMULATOR_HOST", address)
        yield lambda: pubsub.Topic(f"topic-{next(_numbers)}")


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink_cluster.Cluster]:
    """A Flink cluster with two TaskManagers; its absence skips the test, or fails it under CI."""
    look_for_flink()
    made = flink_cluster.Cluster(tmp_path_factory.mktemp("flink"), changed={**settings.free_ports(), **reporter()})
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


def look_for_flink() -> None:
    needed = (flink_cluster.FLINK / "lib", flink_cluster.FLINK / "job-server.jar", ROOT / ".tools/bin/boot")
    missing = [str(path.relative_to(ROOT)) for path in needed if not path.exists()]
    missing += [] if shutil.which("java") else ["java"]
    if not missing:
        return
    message = f"no {', '.join(missing)} here: `make flink` installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


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
    """A Kafka broker; where it cannot be, its absence skips the test, or fails it under CI."""
    try:
        cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    except MissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    cluster.broker.start()
    yield cluster
    cluster.broker.kill()
