"""What a Flink cluster says about the job that trains: asked beside the requests, shown on the live page.

A cluster that does not answer is a state like others: what was last known of the job stays, and nothing else changes.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

_LOGGER = logging.getLogger(__name__)
TIMEOUT_S = 2.0
MAX_BYTES = 4 << 20  # of an answer
UNANSWERED = (OSError, ValueError, KeyError, TypeError)  # nobody, or not what was asked for
RUNNING = "running"
BEGINS = "initializing"  # a JobManager knows nothing more of it yet, and logs an error for each question
AWAY = "away"
NO_JOB = "no job"


@dataclass(frozen=True, slots=True)
class JobFigures:
    """A job at one moment; None: not known (yet).

    Attributes:
        state: Flink's word for it in small letters; "away" while no JobManager answers, "no job" where it has none.
        error: why it is away.
        url: of Flink's own page about the job, or about the cluster.
        name: of the job.
        started_us: when it was submitted, or taken up by a JobManager.
        restarts: how often it was restored since.
        completed, failed: checkpoints since.
        checkpoint_us: when the last one was complete.
        checkpoint_ms: how long it took.
        checkpoint_bytes: the state in it.
    """

    state: str
    url: str
    error: str | None = None
    name: str | None = None
    started_us: int | None = None
    restarts: int | None = None
    completed: int | None = None
    failed: int | None = None
    checkpoint_us: int | None = None
    checkpoint_ms: int | None = None
    checkpoint_bytes: int | None = None

    def as_json(self, now_us: int) -> dict[str, Any]:
        """As ``/stats.json`` has it: moments as what has passed since, in milliseconds."""
        return {
            "state": self.state,
            "error": self.error,
            "url": self.url,
            "job": self.name,
            "up_ms": _since_ms(self.started_us, now_us),
            "restarts": self.restarts,
            "checkpoints": self.completed,
            "checkpoints_failed": self.failed,
            "checkpoint_age_ms": _since_ms(self.checkpoint_us, now_us),
            "checkpoint_ms": self.checkpoint_ms,
            "checkpoint_bytes": self.checkpoint_bytes,
        }


def _since_ms(time_us: int | None, now_us: int) -> float | None:
    return None if time_us is None else max(0.0, (now_us - time_us) / 1e3)


Ask = Callable[[str], Any]


class FlinkJob:
    """Call ``step`` regularly, from one thread; ``figures`` may be read from any."""

    def __init__(self, address: str, ask: Ask | None = None) -> None:
        """
        Args:
            address: HOST:PORT or HOST:PORT/JOB, also with http:// or https:// before it; JOB is a job's name or id.
                Without it the job is the cluster's latest. ValueError quotes any other.
            ask: answers what Flink's REST API would; OSError where nobody does.
        """
        self._cluster, self._wanted = _parsed(address)
        self._ask = ask or self._over_http
        self.figures = JobFigures(AWAY, self._cluster, error="not asked yet")

    def step(self) -> bool:
        """Ask once; False, as there is never more to do at once."""
        try:
            job = self._job()
            self.figures = JobFigures(NO_JOB, self._cluster) if job is None else self._about(job)
        except UNANSWERED as error:
            if self.figures.state != AWAY:
                _LOGGER.warning("no Flink JobManager answers at %s: %s", self._cluster, error)
            self.figures = replace(self.figures, state=AWAY, error=f"{type(error).__name__}: {error}")
        return False

    def _about(self, job: Mapping[str, Any]) -> JobFigures:
        known = self.figures if self.figures.name == job["name"] else JobFigures(NO_JOB, self._cluster)
        found = replace(
            known,
            state=str(job["state"]).lower(),
            url=f"{self._cluster}/#/job/{'completed' if job['end-time'] >= 0 else 'running'}/{job['jid']}/overview",
            error=None,
            name=str(job["name"]),
            started_us=int(job["start-time"]) * 1000,
        )
        if found.state == BEGINS:
            return found
        with suppress(*UNANSWERED):
            return self._in_detail(found, f"/jobs/{quote(job['jid'], safe='')}")
        return found

    def _in_detail(self, found: JobFigures, path: str) -> JobFigures:
        restarts = {metric["id"]: metric.get("value") for metric in self._ask(f"{path}/metrics?get=numRestarts")}
        checkpoints = self._ask(f"{path}/checkpoints")
        last: Mapping[str, Any] = checkpoints["latest"]["completed"] or {}
        return replace(
            found,
            restarts=_whole(restarts.get("numRestarts")),
            completed=_whole(checkpoints["counts"]["completed"]),
            failed=_whole(checkpoints["counts"]["failed"]),
            checkpoint_us=int(last["latest_ack_timestamp"]) * 1000 if last else None,
            checkpoint_ms=_whole(last.get("end_to_end_duration")),
            checkpoint_bytes=_whole(last.get("state_size")),
        )

    def _job(self) -> Mapping[str, Any] | None:
        """The latest of those that are meant, one that has not ended before one that has."""
        jobs: list[Mapping[str, Any]] = self._ask("/jobs/overview")["jobs"]
        meant = [job for job in jobs if not self._wanted or self._wanted in (job["jid"], job["name"])]
        return max(meant, key=lambda job: (job["end-time"] < 0, job["start-time"]), default=None)

    def _over_http(self, path: str) -> Any:
        with urllib.request.urlopen(self._cluster + path, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read(MAX_BYTES))


def _parsed(address: str) -> tuple[str, str]:
    """The cluster's address with its scheme, and the job; '' for none."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:
        known = None
    job = parts.path.strip("/")
    if not known or "/" in job or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{address!r}: must be HOST:PORT or HOST:PORT/JOB")
    return f"{parts.scheme}://{parts.netloc}", job


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
