"""What a bounded run says of itself while it works."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from monobeam.logs import schemas
from monobeam.logs.log import open_log
from monobeam.pipelines.progress import Progress, Shown
from tests.end_to_end.run import wait_until


def report(component: str, key: str = "0", **values: float) -> dict[str, Any]:
    return {"component": component, "key": key, "position": 0, "time": 0, "values": values, "arrays": {}}


def test_shares_and_figures_of_two_slices() -> None:
    progress = Progress("backfill", 1000, now=0.0)
    progress.begin(fresh=600, spans=600)
    progress.observe(report("read", records=300))
    assert progress.line(10.0) == (
        "progress command=backfill percent=15.0 records=300 of=1000 examples=0 trained=0 per_second=30 left_s=57"
    )
    progress.observe(report("read", records=300))
    progress.observe(report("join", "0", examples=30, corrections=5))
    progress.observe(report("join", "0", examples=40, corrections=5))  # counters, not what was added
    progress.observe(report("join", "1", examples=5, corrections=0))
    progress.observe(report("train", examples=25))
    assert progress.share() == (600 + 600 * 0.5) / 2 / 1000
    progress.begin(fresh=400, spans=500)  # a hundred of them again
    progress.observe(report("read", records=250))
    found = progress.figures(20.0)
    assert (found["records"], found["examples"], found["trained"], found["percent"]) == (800, 50, 25, 70.0)
    assert progress.sentence(20.0) == (
        "backfill: 70 %: 800 of 1,000 records read, 50 examples, 25 trained, 40 records/s, 0:00:09 left"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_in_the_log_of_metrics_from_now_on(tmp_path: Path) -> None:
    uri, out = f"file:{tmp_path}/metrics", Terminal()
    with open_log(uri).appender(0, schemas.METRICS) as appender:
        appender.append([report("read", records=70)])
        with Shown(Progress("backfill", 100, now=0.0), uri, out) as shown:
            shown.begin(100, 100)
            appender.append([report("read", records=20)])
            wait_until(lambda: "20 of 100 records read" in out.getvalue())
    assert out.getvalue().endswith("\r\x1b[K")
