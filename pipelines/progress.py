"""What a bounded run says of itself while it works, from the log of metrics: on a terminal, or line by line."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from monobeam.logs.log import Log, open_log, records

EVERY_S, LINE_EVERY_S = 0.5, 10.0
_FIRST_ESTIMATE = 0.02


class Progress:
    """A fold over what readers, joins and trainers report. Time is passed in, in seconds.

    Half of the work is to read and join, half to train: an estimate, as how many examples there are is known only
    when all is joined.
    """

    def __init__(self, command: str, total: int, now: float) -> None:
        self._command, self._total, self._started = command, total, now
        self._done = 0  # records of slices before this one
        self._base = {"examples": 0.0, "trained": 0.0}
        self._fresh, self._spans = 0, 0
        self._read, self._trained = 0.0, 0.0
        self._joined: dict[str, float] = {}

    def begin(self, fresh: int, spans: int) -> None:
        """A slice begins, with so many records that were not read before, and so many in all that it reads."""
        for name, value in (("examples", sum(self._joined.values())), ("trained", self._trained)):
            self._base[name] += value
        self._done += self._fresh
        self._fresh, self._spans, self._read, self._trained, self._joined = fresh, spans, 0.0, 0.0, {}

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take in a record of the log of metrics."""
        component, values = record["component"], record["values"]
        if component == "read":
            self._read += values["records"]
        elif component == "join":
            self._joined[record["key"]] = values["examples"] + values["corrections"]
        elif component == "train":
            self._trained += values["examples"]

    def share(self) -> float:
        """How much of the work is done, 0 to 1."""
        read = min(1.0, self._read / self._spans) if self._spans else 1.0
        joined = sum(self._joined.values())
        trained = min(1.0, self._trained / joined) if joined and read == 1.0 else 0.0
        return (self._done + self._fresh * (read + trained) / 2) / self._total if self._total else 1.0

    def figures(self, now: float) -> dict[str, float]:
        """By name: percent, records, of, examples, trained, per_second, and, once it can be told, left_s."""
        share, elapsed = self.share(), max(now - self._started, 1e-9)
        read = self._done + (self._fresh * min(1.0, self._read / self._spans) if self._spans else 0)
        figures = {
            "percent": round(100 * share, 1),
            "records": int(read),
            "of": self._total,
            "examples": int(self._base["examples"] + sum(self._joined.values())),
            "trained": int(self._base["trained"] + self._trained),
            "per_second": int(read / elapsed),
        }
        return figures | ({"left_s": round(elapsed * (1 - share) / share)} if share > _FIRST_ESTIMATE else {})

    def line(self, now: float) -> str:
        """For a log: names and values."""
        return " ".join([f"progress command={self._command}", *(f"{k}={v}" for k, v in self.figures(now).items())])

    def sentence(self, now: float) -> str:
        """For people."""
        found = self.figures(now)
        left = f", {_duration(found['left_s'])} left" if "left_s" in found else ""
        return (
            f"{self._command}: {found['percent']:.0f} %: {found['records']:,} of {found['of']:,} records read, "
            f"{found['examples']:,} examples, {found['trained']:,} trained, {found['per_second']:,} records/s{left}"
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Shown:
    """Shows progress beside the run, from a thread: rewritten on a terminal, otherwise a line now and then.

    ``metrics``: address of the log; None: nobody waits for the run.
    """

    def __init__(self, progress: Progress, metrics: str | None, out: TextIO | None = None) -> None:
        self._progress, self._out = progress, out or sys.stderr
        self._log = open_log(metrics) if metrics else None
        self._rewritten = self._out.isatty()
        self._reached = _ends(self._log) if self._log else {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def begin(self, fresh: int, spans: int) -> None:
        """See ``Progress``."""
        with self._lock:
            self._look()
            self._progress.begin(fresh, spans)

    def _show(self) -> None:
        said = time.monotonic()
        while not self._ended.wait(EVERY_S):
            now = time.monotonic()
            with self._lock:
                self._look()
                if self._rewritten:
                    self._out.write(f"\r\x1b[K{self._progress.sentence(now)}")
                elif now - said >= LINE_EVERY_S:
                    self._out.write(f"{self._progress.line(now)}\n")
                    said = now
            self._out.flush()

    def _look(self) -> None:
        """Take in what is new; a log that is away is asked again later."""
        if (log := self._log) is None:
            return
        try:
            for number in log.partitions():
                offset = self._reached.get(number, 0)
                while chunks := log.read(number, offset, 10_000):
                    for record in records(chunks):
                        self._progress.observe(record)
                    self._reached[number] = offset = chunks[-1].end
        except (OSError, ValueError):
            return

    def __enter__(self) -> Self:
        if self._log:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * EVERY_S)
        if self._rewritten:
            self._out.write("\r\x1b[K")
            self._out.flush()


def _ends(log: Log) -> dict[int, int]:
    """Where the log of metrics ends now."""
    try:
        return {number: log.end(number) for number in log.partitions()}
    except OSError:
        return {}
