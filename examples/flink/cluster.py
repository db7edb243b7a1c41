"""A Flink cluster on this machine: ZooKeeper, a JobManager and TaskManagers, as flink-conf/ describes them.

It goes on when this command has ended. ``make flink`` installs Flink and runs ``start``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from examples import installed
from examples.flink import settings
from examples.installed import MissingError

ROOT = Path(__file__).parents[2]
FLINK = ROOT / ".tools/flink"
PATIENCE_S = 60.0

_RUNTIME = "org.apache.flink.runtime"
_ZOOKEEPER = f"{_RUNTIME}.zookeeper.FlinkZooKeeperQuorumPeer"
_JOB_MANAGER = f"{_RUNTIME}.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = f"{_RUNTIME}.taskexecutor.TaskManagerRunner"
_SIZES = f"{_RUNTIME}.util.bash.BashJavaUtils"
_SAID = "BASH_JAVA_UTILS_EXEC_RESULT:"


class ClusterError(RuntimeError):
    """The cluster cannot be started, or does not answer."""


class Cluster:
    """Processes by name (``zookeeper``, ``jobmanager``, ``taskmanager-0``, ...), each with its log in ``folder``.

    Started ones are remembered in the folder, so that another process can stop them. ``changed``: settings that win
    over those of flink-conf/.
    """

    def __init__(self, folder: Path, task_managers: int = 2, changed: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.task_managers = [f"taskmanager-{number}" for number in range(task_managers)]
        self.settings = settings.layers(self.folder, changed or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """What ``--flink_master`` takes."""
        return f"{self.settings['rest.address']}:{self.settings['rest.port']}"

    @property
    def conf(self) -> Path:
        """The folder with the cluster's configuration."""
        return self.folder / "conf"

    def start(self) -> None:
        """Start every process and wait until all TaskManagers are there; ClusterError with the end of a log if not."""
        if running := [name for name in self._names() if self.pid(name)]:
            raise ClusterError(f"{self.folder}: {', '.join(running)} runs already: `make flink-stop` ends it")
        self._write_configuration()
        self.start_process("zookeeper")
        self.wait(self._zookeeper_listens)
        for name in self._names()[1:]:
            self.start_process(name)
        self.wait(lambda: self._overview().get("taskmanagers") == len(self.task_managers))

    def start_process(self, name: str) -> None:
        """Start one, for the first time or after its end."""
        commands = {"zookeeper": self._zookeeper, "jobmanager": self._job_manager}
        command = commands.get(name, self._task_manager)()
        log = self.folder / "log" / f"{name}.log"
        java = [
            installed.java(),
            f"-Dlog.file={log}",
            f"-Dlog4j.configurationFile=file:{settings.CONF / 'log4j.properties'}",
        ]
        with log.with_suffix(".out").open("ab") as output:
            child = subprocess.Popen(
                [*java, *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "FLINK_PLUGINS_DIR": str(FLINK / "plugins")},
            )
        self._children[child.pid] = child
        self._pid_file(name).write_text(str(child.pid))

    def kill(self, name: str) -> None:
        """SIGKILL to this one process; what it had started is left to itself."""
        self._end(name, signal.SIGKILL)

    def stop(self) -> None:
        """End every process, and the workers that TaskManagers have started."""
        for name in reversed(self._names()):
            pid = self.pid(name)
            self._end(name, signal.SIGTERM)
            if pid:  # workers have process groups of their own, but this session
                subprocess.run(["pkill", "-KILL", "-s", str(pid)], check=False)

    def status(self) -> dict[str, Any]:
        """Pids of what runs, and what the JobManager says about jobs; empty where it does not answer."""
        return {"pids": {name: self.pid(name) for name in self._names()}, "jobs": self.jobs()}

    def jobs(self) -> list[dict[str, Any]]:
        """Every job that the JobManager knows, the latest first."""
        with suppress(OSError, ValueError):
            found: list[dict[str, Any]] = self.get("/jobs/overview")["jobs"]
            return sorted(found, key=lambda job: -job["start-time"])
        return []

    def running(self) -> list[str]:
        """The ids of jobs that have not ended."""
        ended = ("FINISHED", "CANCELED", "FAILED", "SUSPENDED")
        return [job["jid"] for job in self.jobs() if job["state"] not in ended]

    def checkpoints(self, job: str) -> int:
        """How many a job has completed since it was submitted."""
        return int(self.get(f"/jobs/{job}/checkpoints")["counts"]["completed"])

    def stop_with_savepoint(self, job: str) -> str:
        """Take a savepoint and end the job; what ``--savepoint_path`` takes. ClusterError if it cannot be taken."""
        begun = self.get(f"/jobs/{job}/stop", {"targetDirectory": self.settings["state.savepoints.dir"]})["request-id"]
        found: dict[str, Any] = {}

        def done() -> bool:
            found.update(self.get(f"/jobs/{job}/savepoints/{begun}"))
            return bool(found["status"]["id"] == "COMPLETED")

        self.wait(done)
        if "location" not in found["operation"]:
            raise ClusterError(f"job {job}: no savepoint: {found['operation']}")
        return str(found["operation"]["location"])

    def get(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Flink's REST API; a body is posted."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until it holds; ClusterError if it does not for a minute, or a process ends that was started here."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if any(child.poll() is not None for child in self._children.values()):
                raise ClusterError(f"a process has ended; the end of the logs:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {PATIENCE_S:g} s in vain; the end of the logs:\n{self.log_tail()}")
            time.sleep(0.1)

    def log_tail(self) -> str:
        """The last lines of every log."""
        paths = sorted((self.folder / "log").glob("*"))
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-1000:]}" for path in paths)

    def pid(self, name: str) -> int | None:
        """Of the process that has this name, if it runs."""
        with suppress(OSError, ValueError):
            pid = int(self._pid_file(name).read_text())
            child = self._children.get(pid)
            if child is not None:
                return pid if child.poll() is None else None
            if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def _names(self) -> list[str]:
        known = {path.stem for path in (self.folder / "pid").glob("taskmanager-*")}
        return ["zookeeper", "jobmanager", *sorted(known.union(self.task_managers))]

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pid" / f"{name}.pid"

    def _end(self, name: str, number: signal.Signals) -> None:
        if (pid := self.pid(name)) is None:
            return
        os.kill(pid, number)
        deadline = time.monotonic() + 10
        while self.pid(name):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self._pid_file(name).unlink()
        self._children.pop(pid, None)

    def _zookeeper_listens(self) -> bool:
        host, _, port = self.settings[settings.QUORUM].rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        return False

    def _overview(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found: dict[str, Any] = self.get("/overview")
            return found
        return {}

    def _write_configuration(self) -> None:
        for name in ("conf", "log", "pid", "tmp", "ha", "zookeeper", "checkpoints", "savepoints"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        settings.write(self.conf / "config.yaml", self.settings)
        port = self.settings[settings.QUORUM].rpartition(":")[2]
        (self.conf / "zoo.cfg").write_text(
            f"clientPort={port}\nclientPortAddress=127.0.0.1\ndataDir={self.folder / 'zookeeper'}\n"
            "initLimit=10\nsyncLimit=5\nadmin.enableServer=false\ntickTime=1000\n"
        )

    def _zookeeper(self) -> list[str]:
        place = ["--zkConfigFile", str(self.conf / "zoo.cfg"), "--peerId", "1"]
        return ["-Xmx64m", "-cp", _class_path(), _ZOOKEEPER, *place]

    def _job_manager(self) -> list[str]:
        sizes, arguments = self._sizes["JM"]
        place = ["--configDir", str(self.conf), "--executionMode", "cluster"]
        return [*sizes, *self._opens(), "-cp", _class_path(), _JOB_MANAGER, *place, *arguments]

    def _task_manager(self) -> list[str]:
        sizes, arguments = self._sizes["TM"]
        place = ["--configDir", str(self.conf)]
        return [*sizes, *self._opens(), "-cp", _class_path(), _TASK_MANAGER, *place, *arguments]

    def _opens(self) -> list[str]:
        return self.settings.get("env.java.opts.all", "").split()

    @cached_property
    def _sizes(self) -> dict[str, tuple[list[str], list[str]]]:
        """JVM options and program arguments for memory.process.size, found out as Flink's own scripts do."""
        return {kind: self._asked(kind) for kind in ("JM", "TM")}

    def _asked(self, kind: str) -> tuple[list[str], list[str]]:
        command = [
            installed.java(),
            "-XX:TieredStopAtLevel=1",
            "-cp",
            _class_path(FLINK / "bin/bash-java-utils.jar"),
            _SIZES,
        ]
        asked = [*command, f"GET_{kind}_RESOURCE_PARAMS", "--configDir", str(self.conf)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        found = [line.removeprefix(_SAID).split() for line in done.stdout.splitlines() if line.startswith(_SAID)]
        if len(found) != 2:
            raise ClusterError(f"Flink refuses the memory settings of {self.conf}: {done.stdout[-2000:]}{done.stderr}")
        return found[0], found[1]


def _class_path(*first: Path) -> str:
    if not (FLINK / "lib").is_dir():
        raise ClusterError(f"no Flink in {FLINK}: `make flink` installs it")
    return ":".join(map(str, [*first, *sorted((FLINK / "lib").glob("*.jar"))]))


def _start(cluster: Cluster) -> None:
    """All of it or nothing."""
    try:
        cluster.start()
    except (ClusterError, MissingError):
        cluster.stop()
        raise


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m examples.flink.cluster``."""
    parser = argparse.ArgumentParser(prog="python -m examples.flink.cluster", description=__doc__)
    parser.add_argument("command", choices=["start", "stop", "status", "savepoint"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/flink", help="configuration, logs, checkpoints")
    parser.add_argument("--task_managers", type=int, default=2)
    given = parser.parse_args(argv)
    cluster = Cluster(given.folder, given.task_managers)
    try:
        if given.command == "start":
            _start(cluster)
            print(f"Flink: http://{cluster.address}, logs in {cluster.folder / 'log'}; `make flink-stop` ends it")
        elif given.command == "stop":
            cluster.stop()
        elif given.command == "savepoint":
            if not (jobs := cluster.running()):
                raise ClusterError(f"no job runs on {cluster.address}")
            for job in jobs:
                print(f"--savepoint_path={cluster.stop_with_savepoint(job)}")
    except (ClusterError, MissingError) as error:
        raise SystemExit(str(error)) from None
    print(json.dumps({"command": given.command, "address": cluster.address, **cluster.status()}))


if __name__ == "__main__":
    main()
