"""Where a run has its logs and its Beam job: in files and on Prism, or in Kafka and on a Flink cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from examples.flink.cluster import Cluster
from examples.flink.settings import own_ports
from examples.kafka.broker import Broker

CHECKPOINT_MS = 2000  # often enough that one is seen on the live page


class Place(Protocol):
    """What differs between them. ``needs``: what it starts, for people; '' for nothing."""

    needs: str

    def start(self) -> None:
        """Start what the run's processes need; RuntimeError says what is missing."""

    def stop(self) -> None:
        """End all of it, also what has started in part."""

    def log(self, name: str) -> str:
        """Address of a log of the run."""

    def runner(self) -> list[str]:
        """Options of the pipeline: where it runs."""

    def server(self) -> list[str]:
        """Options of the server: what more its live page shows."""

    def announcement(self) -> str:
        """What people may like to know once it has started; '' for nothing."""


@dataclass(frozen=True)
class Embedded:
    """Nothing but processes and files of this machine.

    Attributes:
        folder: of the run.
        prism: Beam's local streaming runner; None: Beam looks for it.
    """

    folder: Path
    prism: Path | None
    needs = ""

    def start(self) -> None:
        """Prism starts with the pipeline."""

    def stop(self) -> None:
        """It ends with the pipeline, too."""

    def log(self, name: str) -> str:
        """A directory of Avro files."""
        return f"file:{self.folder / 'logs' / name}"

    def runner(self) -> list[str]:
        """Prism, with workers in the pipeline's own process."""
        options = ["--runner=PrismRunner", "--environment_type=LOOPBACK"]
        return options + ([f"--prism_location={self.prism}"] if self.prism else [])

    def server(self) -> list[str]:
        """Nothing more."""
        return []

    def announcement(self) -> str:
        """Nothing."""
        return ""


class OnFlink:
    """A Flink cluster and a Kafka broker of the run's own, at ports that are free.

    Topics, checkpoints and what the cluster says stay in the run's folder. MissingError (a RuntimeError) where no
    broker is installed.
    """

    needs = "a Flink cluster and a Kafka broker (about 15 s)"

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder / "flink", changed=own_ports())
        self.broker = Broker(folder / "kafka")

    def start(self) -> None:
        """Broker and cluster: some 15 seconds."""
        self.broker.start()
        self.cluster.start()

    def stop(self) -> None:
        """The cluster, with its Python workers, then the broker."""
        self.cluster.stop()
        self.broker.stop()

    def log(self, name: str) -> str:
        """A topic."""
        return f"kafka://{self.broker.address}/{name}"

    def runner(self) -> list[str]:
        """The cluster."""
        master = f"--flink_master={self.cluster.address}"
        return ["--runner=FlinkRunner", master, f"--checkpointing_interval={CHECKPOINT_MS}"]

    def server(self) -> list[str]:
        """The job."""
        return [f"--flink={self.cluster.address}"]

    def announcement(self) -> str:
        """Where Flink's own page is."""
        return f"Flink's page: http://{self.cluster.address}   logs: kafka://{self.broker.address}/"
