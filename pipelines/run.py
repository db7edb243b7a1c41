"""Run a pipeline until it ends or is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineState

_LOGGER = logging.getLogger(__name__)


class _Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""


def run(build: Callable[[beam.Pipeline], None], options: PipelineOptions) -> dict[str, int]:
    """Build and run; returns the Beam counters of a bounded run.

    A streaming run goes on until SIGINT or SIGTERM, then the job is cancelled: whatever is not committed by then is
    trained after the next start. A job that fails ends this process with status 1.
    """
    pipeline = beam.Pipeline(options=options)
    build(pipeline)

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    result: Any = None
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
        if state not in (PipelineState.DONE, PipelineState.CANCELLED, None):
            _LOGGER.error("the job ended in state %s", state)
            sys.exit(1)
    except _Stopped:
        _LOGGER.info("stopping")
        if result is not None and options.view_as(StandardOptions).streaming:
            result.cancel()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return _counters(result)


def _counters(result: Any) -> dict[str, int]:
    """Counters of our steps by name, as far as the runner reports metrics."""
    try:
        found = result.metrics().query()["counters"]
    except Exception as error:  # a runner without metrics is no failure of the job
        _LOGGER.debug("no metrics from this runner: %s", error)
        return {}
    return {
        counter.key.metric.name: counter.result
        for counter in found
        if counter.key.metric.namespace.startswith("monobeam.")
    }


def quiet() -> None:
    """Structured, quiet logs by default; ``MONOBEAM_LOG=INFO`` shows more."""
    level = os.environ.get("MONOBEAM_LOG", "WARNING")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if level == "WARNING":
        for chatty in ("apache_beam.utils.subprocess_server", "PrismRunner", "apache_beam.io.gcp"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
