"""One Kafka broker of this machine, for trying things out: ``python -m examples.kafka.broker --folder=runs/kafka``.

It is real (KRaft: broker and controller in one process, topics on disk) and small: nothing is replicated, and it
listens on loopback only. `make kafka` installs it.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from examples import installed
from examples.installed import TOOLS, MissingError
from examples.ports import free_ports

JARS = TOOLS / "kafka"
# A small heap, and code compiled quickly rather than well: it is up in a few seconds.
JAVA = (
    "-Xms256m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
)
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
PATIENCE_S = 60.0


def _java() -> str:
    """The Java that runs it; MissingError, with what to do, where it or the broker's jars are not installed."""
    found = installed.java()
    if not (JARS / "installed").exists():
        raise MissingError("no Kafka broker here: `make kafka` installs it")
    return found


class Broker:
    """A broker whose topics are in ``folder``. ``start`` and ``kill`` as often as wanted: it keeps its ports.

    port: where it listens for plain connections; 0: any that is free. listeners: more places, such as
    ``SSL://127.0.0.1:9093``; settings: what they need, or others of Kafka's own.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        listeners: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._java = _java()
        self.folder = folder
        own, controller = free_ports(2)
        self.port = port or own
        own_listeners = (f"PLAINTEXT://{self.address}", f"CONTROLLER://127.0.0.1:{controller}")
        self._settings = {
            **_settings(folder, controller),
            "listeners": ",".join([*own_listeners, *listeners]),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT for plain connections."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the broker says."""
        return self.folder / "broker.log"

    def start(self) -> None:
        """Start it, and wait until it answers; RuntimeError, saying why, if it cannot be started."""
        self._check_port()
        properties = self.folder / "server.properties"
        if not properties.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._settings.items()))
        with self.log.open("ab") as log:
            if not (self.folder / "topics" / "meta.properties").exists():
                # In base 64, but for what would make an option of it.
                cluster = base64.b64encode(uuid.uuid4().bytes, b"AB").decode().rstrip("=")
                command = self._command("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties))
                if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
                    raise RuntimeError(f"{self.folder} cannot be formatted: {self._log_tail()}")
            command = self._command("kafka.Kafka", str(properties))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._wait()

    def _check_port(self) -> None:
        """What listens there already would be taken for the broker."""
        try:
            socket.create_server(("127.0.0.1", self.port)).close()
        except OSError as error:
            raise RuntimeError(f"no broker can listen at {self.address}: {error.strerror}") from None

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [self._java, *JAVA, "-cp", f"{JARS}/*", program, *arguments]

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker does not start: {self._log_tail()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a machine dies."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it has closed its files."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def wait(self) -> int:
        """Until it ends; its exit status."""
        assert self._process is not None
        return self._process.wait()


def _settings(folder: Path, controller: int) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": ",".join(f"{name}:{name}" for name in PROTOCOLS) + ",CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder.resolve() / "topics"),
        # Topics are made by whoever writes to them first, not by a reader's typing error.
        "auto.create.topics.enable": "false",
        # One that was killed may register again so soon.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # There is one broker.
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run a broker until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.kafka.broker", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/kafka"), help="where topics are kept")
    parser.add_argument("--port", type=int, default=9092, help="0: any that is free")
    options = parser.parse_args(argv)
    try:
        broker = Broker(options.folder, options.port)
    except MissingError as error:
        parser.error(str(error))
    try:
        broker.start()
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    print(f"a log is at kafka://{broker.address}/TOPIC; process {os.getpid()}, Ctrl-C ends it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        return broker.wait()
    broker.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
