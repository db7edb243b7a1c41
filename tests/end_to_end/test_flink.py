"""A real Flink cluster with two TaskManagers: the reference join, and each example once, whatever is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from examples.flink.cluster import Cluster
from monobeam.serving.flink import FlinkJob, JobFigures
from tests.end_to_end import reference, traffic
from tests.end_to_end.run import DECIDED, PATIENCE_S, ROOT, Run, kill, law

COUNT, SHARDS = 1500, 4
STEPS = 6
# Time moves with what is read alone: what is appended after a pause is not late.
CONFIG = traffic.CONFIG.replace('idle_after = "500ms"', 'idle_after = "1h"')


@pytest.fixture(scope="module")
def made() -> traffic.Traffic:
    return traffic.make(seed=4, count=COUNT, per_second=20)  # a step is much longer than the window


@pytest.fixture(scope="module")
def undisturbed(made: traffic.Traffic, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A backfill in process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    traffic.write(made, folder / "raw")
    run = Run.create(folder / "run", folder / "raw", SHARDS, config=CONFIG)
    run.backfill()
    return run


def on(cluster: Cluster, *options: str) -> list[str]:
    return ["--runner=FlinkRunner", f"--flink_master={cluster.address}", *options]


class Job:
    """An online job on the cluster, whose raw logs are written step by step."""

    def __init__(self, cluster: Cluster, run: Run, made: traffic.Traffic, whole: Run) -> None:
        self.cluster, self.run = cluster, run
        self._made, self._total = made, sum(whole.ids().values())
        self._length = (made.span() + 1 - traffic.START) // STEPS + 1
        self._step = 0

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Submitted by the ordinary command, and cancelled at the end unless it has ended."""
        streaming = on(self.cluster, "--streaming", "--checkpointing_interval=500", *options)
        with (self.run.folder / "pipeline.log").open("ab") as log:
            command = self.run.command("online", *streaming)
            process = subprocess.Popen(command, cwd=self.run.folder, stdout=log, stderr=log, start_new_session=True)
        try:
            self.wait(lambda: process.poll() is not None or bool(self.id()))
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)
                self.wait(lambda: not self.id())
        finally:
            kill(process)

    def id(self) -> str:
        """Of the job that runs now, '' for none."""
        return next(iter(self.cluster.running()), "")

    def has_checkpoint(self) -> bool:
        """Whether the JobManager that runs now has completed one of the job's."""
        with suppress(OSError, ValueError):
            return bool(job := self.id()) and self.cluster.checkpoints(job) > 0
        return False

    def go_on(self) -> None:
        """Log the next part of the traffic; wait until more was trained than the parts before can give."""
        start = traffic.START + self._step * self._length if self._step else 0
        self._step += 1
        stop = traffic.START + self._step * self._length
        traffic.write(self._made.between(start, stop), self.run.raw)
        least = (self._step - 0.7) / STEPS * self._total
        self.wait(lambda: self.run.updates_so_far() > least)

    def end(self) -> None:
        """Log records of a time long after, which decide all before them."""
        late = traffic.START + STEPS * self._length + 10 * traffic.RETENTION
        shown = {"impression_id": "last", "time": late, "user": "u", "item": 1, "tags": [], "price": None}
        liked = {"impression_id": "nobody", "time": late, "type": "like", "value": None}
        traffic.write(traffic.Traffic([(late, shown)], [(late, liked)]), self.run.raw)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{self.run.log_tail()} {self.cluster.log_tail()}"
            time.sleep(0.1)


def test_a_backfill_in_slices_hands_over_to_streaming(
    flink: Cluster, undisturbed: Run, made: traffic.Traffic, tmp_path: Path
) -> None:
    """At a time within open windows, and on no tick."""
    run = Run.create(tmp_path / "run", tmp_path / "raw", SHARDS, config=CONFIG)
    traffic.write(made, run.raw)
    at = traffic.START + COUNT // 2 * traffic.SECOND // 20 + 12_345
    first = run.backfill(*on(flink), f"--until={at}", "--slice=20s")["join"]
    law(first)
    assert first["pending"] > 0
    assert max(row["_decided"] for row in run.examples().values()) < at
    job = Job(flink, run, made, undisturbed)
    with job.running("--parallelism=2", f"--since={at}"):
        job.end()
        job.wait(lambda: run.settled(undisturbed, first))
    assert reference.as_set(run.examples()) == reference.join(made)[0]
    assert run.update_counts() == dict(run.ids())


@pytest.mark.timeout(900)  # it takes four minutes
def test_everything_is_killed_in_turn_and_nothing_is_lost_or_done_twice(
    flink: Cluster, undisturbed: Run, made: traffic.Traffic, tmp_path: Path
) -> None:
    """A Python worker, a TaskManager, the JobManager; then a savepoint, another parallelism, and a changed model."""
    run = Run.create(tmp_path / "run", tmp_path / "raw", SHARDS, config=CONFIG)
    job, shown, before = Job(flink, run, made, undisturbed), FlinkJob(flink.address), warnings(flink)
    with job.running("--parallelism=2") as process:
        job.go_on()
        job.wait(lambda: bool(seen(shown).checkpoint_us) and seen(shown).restarts == 0)
        assert shown.figures.state == "running"
        assert shown.figures.url == f"http://{flink.address}/#/job/running/{job.id()}/overview"
        known = shown.figures
        job.wait(lambda: set(scraped(flink)) >= DOCUMENTED)
        assert warnings(flink) - before <= 2  # a job that nothing happens to is quiet
        for worker in workers(flink):
            os.kill(worker, signal.SIGKILL)
        job.go_on()
        flink.kill("taskmanager-0")
        flink.start_process("taskmanager-0")
        job.go_on()
        flink.kill("jobmanager")
        assert (seen(shown).state, shown.figures.name) == ("away", known.name)
        flink.start_process("jobmanager")
        job.wait(job.has_checkpoint)  # until it is back, tasks go on without it
        job.go_on()
        assert process.poll() is None
        savepoint = flink.stop_with_savepoint(job.id())
        assert process.wait(PATIENCE_S) == 0, run.log_tail()
    assert (seen(shown).state, shown.figures.name) == ("finished", known.name)
    resubmitted = ("--parallelism=1", f"--savepoint_path={savepoint}")
    assert "the model needs shape" in refused(
        run, "hidden = [8]", "hidden = [9]", *on(flink, "--streaming", *resubmitted)
    )
    assert not flink.running()
    run.change('feature = "tags"', 'feature = "tags"\n[[slots]]\nfeatures = ["user", "item"]')
    with job.running(*resubmitted):
        job.go_on()
        job.go_on()
        job.end()
        job.wait(lambda: run.settled(undisturbed))
    check(run, made, new_slot=4)
    assert warnings(flink) > before


def seen(shown: FlinkJob) -> JobFigures:
    """What a server shows now."""
    shown.step()
    return shown.figures


DOCUMENTED = set(re.findall(r"`(flink_\w+)`", (ROOT / "docs/flink.md").read_text()))


def scraped(cluster: Cluster) -> list[str]:
    """What Prometheus finds at the ports of all processes."""
    found = ""
    for port in cluster.settings["metrics.reporter.prometheus.port"].split(","):
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            found += answer.read().decode()
    return re.findall(r"^# TYPE (\w+)", found, re.MULTILINE)


LINE = re.compile(r'time=\S+Z level=(\w+) logger=\S* message="(?:[^"\\]|\\.)*"(?: error="(?:[^"\\]|\\.)*")?')


def warnings(cluster: Cluster) -> int:
    """How many events of its processes and Python workers are worse than information; each must be a line of logfmt."""
    lines = [line for path in (cluster.folder / "log").glob("*.log") for line in path.read_text().splitlines()]
    assert [line for line in lines if LINE.fullmatch(line) is None] == []
    return sum("level=info" not in line for line in lines)


def check(run: Run, made: traffic.Traffic, new_slot: int) -> None:
    """The examples are the reference's, each was trained once, and since there is the slot its ids have rows."""
    examples, counts = reference.join(made)
    assert reference.as_set(run.examples()) == examples
    updates, ids = run.update_counts(), run.ids()
    old = {fid: count for fid, count in updates.items() if fid >> 48 != new_slot}
    assert old == {fid: count for fid, count in ids.items() if fid >> 48 != new_slot}
    new = {fid: count for fid, count in updates.items() if fid >> 48 == new_slot}
    assert 0 < sum(new.values()) < sum(count for fid, count in ids.items() if fid >> 48 == new_slot)
    found = run.counters()
    assert {name: found[name] for name in DECIDED} == {name: counts[name] for name in DECIDED}


def refused(run: Run, old: str, new: str, *options: str) -> str:
    """What an online job says that is not submitted, as its description was changed."""
    run.change(old, new)
    done = subprocess.run(run.command("online", *options), cwd=run.folder, capture_output=True, text=True)
    run.change(new, old)
    assert done.returncode == 1, done.stderr[-3000:]
    return done.stderr


def workers(cluster: Cluster) -> list[int]:
    """Python workers: they are in the sessions of the TaskManagers that started them."""
    sessions = ",".join(str(cluster.pid(name)) for name in cluster.task_managers)
    found = subprocess.run(
        ["pgrep", "-s", sessions, "-f", "sdk_worker_main"], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in found.stdout.split()]
