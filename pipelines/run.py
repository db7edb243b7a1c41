"""Run a pipeline until it ends or is told to stop."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineState

from monobeam.logs import diagnostics
from monobeam.logs.pubsub import PubSubError
from monobeam.pipelines import dataflow, flink, summary
from monobeam.store.backend import BackendError
from monobeam.store.room import TableFullError
from monobeam.store.spec import SpecError
from monobeam.transforms import join, pubsub, resources, train
from monobeam.transforms.pubsub import on_dataflow

_LOGGER = logging.getLogger(__name__)
_CHATTY = (
    "PrismRunner",
    "apache_beam.io.gcp",
    "apache_beam.options.pipeline_options",  # names options that only the job server understands
    "apache_beam.utils.subprocess_server",
)
_KNOWN = ("Waiting for grpc channel to be ready",)  # while the job server starts


class _Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""


def run(
    command: str, build: Callable[[beam.Pipeline], None], options: PipelineOptions, advice: str = ""
) -> summary.Counters:
    """Build and run, then print the Beam counters, which are also given back, and the advice; see ``execute``.

    On Dataflow a job is submitted, and goes on without this process.
    """
    started = time.monotonic()
    counters = execute(command, build, options)
    if counters is None:
        return {}
    summary.show(command, time.monotonic() - started, counters, advice)
    return counters


def execute(command: str, build: Callable[[beam.Pipeline], None], options: PipelineOptions) -> summary.Counters | None:
    """Build and run; gives the Beam counters, None for a job that goes on elsewhere.

    A streaming run goes on until SIGINT or SIGTERM, then the job is cancelled: whatever is not committed by then is
    trained after the next start. A bounded run that is interrupted is cancelled, too, and ends this process with
    status 128 + signal, a job that fails with status 1.
    """
    streaming = options.view_as(StandardOptions).streaming
    try:
        pipeline = beam.Pipeline(runner=flink.runner() if flink.is_runner(options) else None, options=options)
    except ValueError as error:  # Beam's own check of its options
        raise SystemExit(f"{command}: {error}") from None
    build(pipeline)
    if on_dataflow(pipeline):
        summary.show_submitted(command, dataflow.submitted(pipeline.run(), options))
        return None

    stopped: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(signal.Signals(number))
        logging.disable()  # Beam's threads have much to say about work and channels that end under them.
        threading.excepthook = lambda _: None
        raise _Stopped

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    result: Any = None
    counters: summary.Counters = {}
    try:
        if streaming:  # What Beam starts beside us inherits this: Ctrl-C is for this process, which then ends the job.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        result = pipeline.run()
        for number in previous:  # Beam's handlers took their place.
            signal.signal(number, stop)
        state = result.wait_until_finish()
        if state not in (PipelineState.DONE, PipelineState.CANCELLED, None):
            _LOGGER.error("the job ended in state %s", state)
            sys.exit(1)
        counters = _counters(result)
        _give_back()
    except BaseException as error:  # Raised in the midst of Beam, _Stopped may arrive as something else.
        if not stopped:
            if (said := _said_by_the_store(error)) is not None:
                print(f"{command}: {said}", file=sys.stderr)
                sys.exit(1)
            raise
        if streaming and result is not None:
            counters = _counters(result)
        _cancel(result, options)
        if not streaming:
            print(f"{command}: interrupted by {stopped[0].name}; start it again to go on", file=sys.stderr)
            sys.exit(128 + stopped[0])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return counters


def _cancel(result: Any, options: PipelineOptions) -> None:
    """End the job, of which there is no result while it is being submitted; where that fails, say so."""
    if result is not None:
        # The signal may have ended Beam's job server, too; in this process a job has nothing to be cancelled.
        with suppress(grpc.RpcError, NotImplementedError):
            result.cancel()
    try:
        flink.cancel(options)
    except flink.ClusterError as error:
        print(error, file=sys.stderr)


def _give_back() -> None:
    """Close what a job that ended had open in this process: a lease that is kept is waited for by the next owner."""
    train.close_all()
    join.close_all()
    pubsub.close_all()
    resources.close_all()


def _said_by_the_store(error: BaseException) -> str | None:
    """Why the store (or a subscription) ended the job, if it did: runners pass on but the text of a traceback."""
    kinds: list[type[Exception]] = [TableFullError, SpecError, BackendError, *_kinds_of(BackendError), PubSubError]
    names = "|".join(kind.__name__ for kind in kinds)
    text = f"{type(error).__name__}: {error}"
    found = re.findall(rf"\b({names}): (.*?)(?: \[while running .*)?$", text, re.MULTILINE)
    if not found:
        return None
    kind, said = found[-1]
    more = "; nothing that was committed is lost: start it with more" if kind == TableFullError.__name__ else ""
    return f"{said}{more}"


def _kinds_of(error: type[Exception]) -> set[type[Exception]]:
    """All kinds of an error, and their kinds."""
    kinds = set(error.__subclasses__())
    return kinds.union(*map(_kinds_of, kinds))


def _counters(result: Any) -> summary.Counters:
    """Counters of our steps, as far as the runner reports metrics."""
    try:
        found = result.metrics().query()["counters"]
    except Exception as error:  # a runner without metrics is no failure of the job
        _LOGGER.debug("no metrics from this runner: %s", error)
        return {}
    counters: dict[str, Counter[str]] = defaultdict(Counter)
    for counter in found:
        ours, _, step = counter.key.metric.namespace.partition(".")
        if ours == "monobeam":
            counters[step][counter.key.metric.name] += counter.result
    return dict(counters)


def quiet() -> None:
    """Structured, quiet logs by default; ``MONOBEAM_LOG=INFO`` shows more. SystemExit where that names no level."""
    try:
        diagnostics.to_standard_error(known=_KNOWN)
    except diagnostics.LogLevelError as error:
        raise SystemExit(str(error)) from None
    if diagnostics.level() == "WARNING":
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.ERROR)
