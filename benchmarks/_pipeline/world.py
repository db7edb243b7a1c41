"""A Flink cluster and a Kafka broker of this machine, in a folder of their own, for one benchmark."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks._pipeline.in_workers import sitecustomize
from benchmarks._pipeline.usage import Usage, usage
from examples.flink.cluster import Cluster
from examples.flink.settings import own_ports
from examples.kafka.broker import Broker

CHECKPOINT = "5s"


class World:
    """Both, for as long as the context lasts; workers say what they spend their time on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._said = self.folder / "cpu"
        self.cluster = Cluster(
            self.folder / "flink", changed=own_ports() | {"execution.checkpointing.interval": CHECKPOINT}
        )
        self.broker = Broker(self.folder / "kafka", settings={"log.segment.bytes": str(256 << 20)})

    def __enter__(self) -> World:
        self._said.mkdir(parents=True)
        inherited = {sitecustomize.FOLDER: self._said, "PYTHONPATH": Path(sitecustomize.__file__).parent}
        with ExitStack() as stack:  # whatever fails, what has started is ended
            stack.callback(os.environ.update, {name: os.environ.get(name, "") for name in inherited})
            os.environ.update({name: str(path) for name, path in inherited.items()})
            stack.callback(self.broker.kill)
            self.broker.start()
            stack.callback(self.cluster.stop)
            self.cluster.start()
            self._started = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def usage(self) -> Usage:
        """Of all that runs for the benchmark."""
        return usage(self._said)

    def state_mb(self, job: str) -> float:
        """What the job's last checkpoint holds."""
        found: Any = self.cluster.get(f"/jobs/{job}/checkpoints")["latest"]["completed"]
        return float(found["state_size"]) / 1e6 if found else 0.0
