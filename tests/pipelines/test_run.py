"""How a pipeline ends: what it says, and the status of its process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import grpc
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from examples.ports import free_ports
from monobeam.logs.pubsub import PubSubError
from monobeam.pipelines import run, summary
from monobeam.store.backend import BackendError, LeasedError
from monobeam.store.chunk import CorruptError
from monobeam.store.spec import SpecError

UNTIL = 1_767_232_800_500_000


def count(number: int) -> int:
    Metrics.counter("monobeam.join", "impressions").inc(number)
    Metrics.counter("monobeam.join", "examples").inc(number)
    Metrics.counter("monobeam.train", "examples").inc(number + 1000)
    return number


def test_figures_for_people_and_one_json_object_as_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | "A" >> beam.Create([1, 2]) | "Count" >> beam.Map(count)
        _ = pipeline | "B" >> beam.Create([4]) | "CountToo" >> beam.Map(count)

    counters = run.run("backfill", build, PipelineOptions([]), "go on")
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["command"] == "backfill"
    assert found["seconds"] > 0
    assert found["join"]["impressions"] == counters["join"]["impressions"] == 7
    assert found["train"]["examples"] == 3007
    assert found["join"]["actions"] == 0
    assert lines[1:] == ["  7 impressions = 7 examples", "  0 actions = 0", "  3,007 examples trained", "  go on"]


def test_every_part_of_the_law_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    summary.show(
        "join",
        1.0,
        {"join": {"impressions": 1234, "sampled_out": 1000, "examples": 233, "impressions_rejected": 1}},
        "",
    )
    _, line, *_ = capsys.readouterr().out.splitlines()
    assert line == "  1,234 impressions = 233 examples + 1,000 sampled out + 1 rejected"


def test_how_to_go_on_with_streaming_is_said() -> None:
    said = summary.hand_over(2_500_000, None)
    assert "their last 2.5 s" in said
    assert "--until=T" in said
    assert "--since=2026-01-01T02:00:00.500000" in summary.hand_over(2_500_000, UNTIL)


@pytest.fixture
def no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process does to Beam's messages when it ends must not outlive a test."""
    monkeypatch.setattr(run, "logging", SimpleNamespace(disable=lambda: None))
    monkeypatch.setattr(run, "threading", SimpleNamespace())


def killing(number: int) -> int:
    """Beam turns what is raised here into an exception of its own."""
    os.kill(os.getpid(), number)
    return number


def killed_while_it_works(pipeline: beam.Pipeline, number: signal.Signals) -> None:
    _ = pipeline | beam.Create([int(number)]) | beam.Map(killing)


def killed_while_it_waits(pipeline: Any, number: signal.Signals) -> None:
    pipeline.run = lambda: Job(number)


@pytest.mark.usefixtures("no_silence")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("build", [killed_while_it_works, killed_while_it_waits])
def test_a_bounded_run_that_is_interrupted_says_so(
    build: Any, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        run.run("backfill", lambda pipeline: build(pipeline, number), PipelineOptions([]))
    assert ended.value.code == 128 + number
    said = capsys.readouterr()
    assert f"backfill: interrupted by {number.name}" in said.err
    assert said.out == ""
    assert signal.getsignal(number) == handler


class Job:
    """What a runner gives back."""

    def __init__(self, number: signal.Signals | None = None, state: str = PipelineState.DONE) -> None:
        self.number, self.state, self.cancelled = number, state, False

    def wait_until_finish(self) -> str:
        if self.number is not None:
            os.kill(os.getpid(), self.number)
        return self.state

    def cancel(self) -> None:
        self.cancelled = True
        raise grpc.RpcError  # as where the signal has ended the job server, too

    def metrics(self) -> Any:
        key = SimpleNamespace(metric=SimpleNamespace(namespace="monobeam.train", name="examples"))
        assert not self.cancelled
        return SimpleNamespace(query=lambda: {"counters": [SimpleNamespace(key=key, result=5)]})


@pytest.mark.usefixtures("no_silence")
def test_a_streaming_run_ends_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(signal.SIGTERM)

    def build(pipeline: Any) -> None:
        pipeline.run = lambda: job

    run.run("online", build, PipelineOptions(["--streaming", "--runner=PrismRunner"]))
    assert job.cancelled
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["train"]["examples"] == 5


@contextmanager
def job_manager() -> Iterator[tuple[str, list[str]]]:
    """What answers as Flink's does while the job "mine" runs; its address, and what it was told to change."""
    told: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            job = {"jid": "a1", "name": "mine", "start-time": 1, "end-time": -1}
            self.answer({"jobs": [job, job | {"jid": "b2", "name": "other"}]})

        def do_PATCH(self) -> None:
            told.append(self.path)
            self.answer({})

        def answer(self, found: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


def on_flink(master: str, *more: str) -> PipelineOptions:
    return PipelineOptions(["--runner=FlinkRunner", f"--flink_master={master}", "--job_name=mine", *more])


def killed_while_it_is_submitted(pipeline: Any) -> None:
    pipeline.run = lambda: os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("no_silence")
def test_an_interrupt_cancels_a_bounded_job_on_a_cluster() -> None:
    job = Job(signal.SIGTERM)
    with job_manager() as (master, told), pytest.raises(SystemExit, match="143"):
        run.run("backfill", lambda pipeline: setattr(pipeline, "run", lambda: job), on_flink(master))
    assert job.cancelled
    assert told == ["/jobs/a1?mode=cancel"]


@pytest.mark.usefixtures("no_silence")
def test_an_interrupt_cancels_a_job_that_is_being_submitted() -> None:
    with job_manager() as (master, told):
        run.run("online", killed_while_it_is_submitted, on_flink(master, "--streaming"))
        with pytest.raises(SystemExit, match="143"):
            run.run("backfill", killed_while_it_is_submitted, on_flink(master))
    assert told == ["/jobs/a1?mode=cancel"] * 2


@pytest.mark.usefixtures("no_silence")
def test_that_a_job_could_not_be_cancelled_is_said_beside_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    master, job = f"127.0.0.1:{free_ports(1)[0]}", Job(signal.SIGTERM)
    run.run("online", lambda pipeline: setattr(pipeline, "run", lambda: job), on_flink(master, "--streaming"))
    said = capsys.readouterr()
    assert said.err == f"mine goes on on the cluster: cancel it at http://{master}\n"
    assert json.loads(said.out.splitlines()[-1])["train"]["examples"] == 5


def test_a_job_that_fails_gives_status_1() -> None:
    def build(pipeline: Any) -> None:
        pipeline.run = lambda: Job(state=PipelineState.FAILED)

    with pytest.raises(SystemExit, match="1"):
        run.run("train", build, PipelineOptions([]))


@pytest.mark.parametrize("kind", [SpecError, BackendError, LeasedError, CorruptError, PubSubError])
def test_what_the_store_says_against_a_job_is_the_last_word(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(number: int) -> None:
        raise kind(f"lmdb:store: shards is {number} there")

    with pytest.raises(SystemExit) as ended:
        run.run("train", lambda pipeline: pipeline | beam.Create([3]) | beam.Map(refused), PipelineOptions([]))
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == "train: lmdb:store: shards is 3 there"
