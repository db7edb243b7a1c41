"""What must run for logs and runners, and be in logs; each is started or written when it is first asked for."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path

from benchmarks._portability.cells import Cell
from benchmarks._portability.command import RAW, SCHEMAS, log
from examples import emulators, installed
from examples.flink import settings
from examples.flink.cluster import Cluster
from examples.kafka.broker import Broker
from examples.ports import free_ports
from monobeam.logs.log import encode_records
from tests.end_to_end import reference, traffic
from tests.pubsub import Topic

COUNT, PARTITIONS = 1000, 2


class Places:
    """What all trials share, in a folder; what was started for them ends with the stack."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.made = traffic.make(seed=5, count=COUNT)
        self.reference = reference.join(self.made)
        self._stack = stack
        self._write_raw: Callable[[bool], None] = cache(self._write_raw_logs)

    def broker(self, cell: Cell) -> str:
        """HOST:PORT of the broker, as a cell's workers would reach it; '' for a cell without."""
        if not cell.needs_broker:
            return ""
        own, named = self._broker
        return f"{socket.gethostname()}:{named}" if cell.only_built else f"127.0.0.1:{own}"

    def cluster(self, cell: Cell) -> str:
        """HOST:PORT of the cluster, '' for a cell without."""
        return self._cluster.address if cell.runner == "Flink cluster" else ""

    def fill(self, cell: Cell, trial: str) -> None:
        """See that the records are there which a cell reads."""
        if cell.pipeline == "train":
            return
        if cell.log != "Pub/Sub":
            self._write_raw(cell.log == "Kafka")
        elif not cell.only_built:
            self._start_pubsub()
            for name in SCHEMAS:
                self._publish(f"{trial}-{name}", name)

    def _write_raw_logs(self, topics: bool) -> None:
        broker = f"127.0.0.1:{self._broker[0]}" if topics else ""
        traffic.write_to(self.made, lambda name: log(topics, self.folder / RAW, name, broker), partitions=PARTITIONS)

    def _publish(self, topic: str, name: str) -> None:
        """Every record as a message, in no order."""
        records = [record for _, record in getattr(self.made, name)]
        random.Random(5).shuffle(records)
        schema = json.dumps(SCHEMAS[name])
        Topic(topic).publish(b"\xff\xff\xff" if each is None else encode_records(schema, [each]) for each in records)

    @cached_property
    def _cluster(self) -> Cluster:
        installed.check_flink()
        self._start_pubsub()  # TaskManagers hand on what they know of it
        made = Cluster(self.folder / "flink", changed=settings.own_ports())
        self._stack.callback(made.stop)
        made.start()
        return made

    @cached_property
    def _broker(self) -> tuple[int, int]:
        """The broker's ports: on loopback, and one by the name of this machine."""
        (port,) = free_ports(1)
        named = {"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,NAMED:PLAINTEXT,CONTROLLER:PLAINTEXT"}
        made = Broker(self.folder / "kafka", listeners=[f"NAMED://{socket.gethostname()}:{port}"], settings=named)
        self._stack.callback(made.kill)
        made.start()
        return made.port, port

    @cache  # noqa: B019
    def _start_pubsub(self) -> str:
        return self._stack.enter_context(emulators.pubsub())
