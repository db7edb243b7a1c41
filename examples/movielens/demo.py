"""The whole loop on MovieLens, as separate processes: replay, serving, pipeline and a frozen model to compare with.

With ``--flink`` the pipeline runs on a Flink cluster, and every log is a topic in Kafka; both are started for the demo.

While it runs, a live page shows what happens. When everything is decided, the demo checks the conservation laws, the
replay's own books, and that every example in the log was trained exactly once; it exits with status 1 if one of them is
broken. The last line on standard output is one JSON object.
"""

import argparse
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import FrameType

from examples.movielens import checks, summary, twin
from examples.movielens.catalogue import Catalogue
from examples.movielens.dataset import Ratings, read
from examples.movielens.places import Embedded, OnFlink
from examples.movielens.processes import ChildError, Children
from examples.movielens.replay import RATINGS_PER_SECOND
from examples.movielens.run import CONFIG, Run
from monobeam.models.config import load
from monobeam.serving import report

ROOT = Path(__file__).parents[2]
START_S = 240.0  # until the first model is served; it takes about 20 s, on Flink 40
PROGRESS_S = 5.0
FROZEN_SHARE = 0.2  # of the examples; then the frozen model stops learning
PORTS = range(8080, 8100)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m examples.movielens.demo``; returns the exit status."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        ratings = read(options.data)
        run = _new_run(options, len(ratings))
        with ExitStack() as stack:
            stack.callback(run.place.stop)
            if run.place.needs:
                _say(f"starting {run.place.needs}")
            run.place.start()
            if started := run.place.announcement():
                _say(started)
            children = Children(run.folder, ROOT, {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"})
            return _Demo(run, ratings, stack.enter_context(children)).run()
    except KeyboardInterrupt:
        print("\nstopped; every process of the demo has ended", file=sys.stderr)
        return 130
    except (RuntimeError, ValueError, OSError) as error:
        print(f"\nthe demo cannot go on: {error}", file=sys.stderr)
        return 1


class _Demo:
    """One run, from the first process to the verdict."""

    def __init__(self, run: Run, ratings: Ratings, children: Children) -> None:
        self._run, self._ratings, self._children = run, ratings.head(run.ratings), children
        self._config = load(CONFIG)
        self._started = time.monotonic()

    def run(self) -> int:
        """Returns the exit status."""
        run, children = self._run, self._children
        _say(f"{run.ratings:,} ratings in {run.seconds:.0f} s; logs and stores in {run.folder}")
        _say("starting serving, pipeline, frozen model and replay (20 to 40 s)")
        children.start("serving", run.serving())
        children.start("pipeline", run.pipeline())
        children.start("frozen", run.frozen(int(FROZEN_SHARE * run.ratings)))
        children.start("replay", run.replay())
        self._until(run.is_ready, START_S, "the first model is served")
        _say(f"live page: {run.url}/   (Ctrl-C ends every process)")
        self._until(lambda: children.ended("replay"), 3 * run.seconds + START_S, "the replay ends", talk=True)
        replayed = json.loads(run.report.read_text())
        _say("the replay is done; waiting until everything is decided")
        settled = self._settles(replayed["expected"])
        return self._conclude(replayed, settled)

    def _until(self, condition: Callable[[], bool], patience_s: float, what: str, talk: bool = False) -> None:
        """Waits until the condition holds, and says now and then how things are."""
        deadline, spoken = time.monotonic() + patience_s, time.monotonic()
        while not condition():
            self._children.check()
            if time.monotonic() > deadline:
                tail = self._children.tail("pipeline")
                raise ChildError(
                    f"waited {patience_s:.0f} s in vain until {what}. The end of the pipeline's log:\n{tail}"
                )
            if talk and time.monotonic() >= spoken + PROGRESS_S:
                spoken = time.monotonic()
                line = summary.progress(self._run.stats())
                print(f"{spoken - self._started:5.0f} s  {line}", flush=True)
            time.sleep(0.2)

    def _settles(self, expected: checks.Counters) -> bool:
        """Waits until nothing is open, at most for as long as that can take; False if something still is."""
        patience_s = 2 * (self._config.join.retention_us + self._config.join.window_us) / 1e6 + 30
        try:
            self._until(lambda: self._is_settled(expected), patience_s, "everything is decided", talk=True)
        except ChildError:
            self._children.check()
            return False
        return True

    def _is_settled(self, expected: checks.Counters) -> bool:
        stats = self._run.stats()
        if not checks.decided(stats["join"], expected):
            return False
        return checks.caught_up(self._run.log("examples"), self._run.store, stats["replica"]["epoch"])

    def _conclude(self, replayed: summary.Figures, settled: bool) -> int:
        run = self._run
        stats = run.stats()
        found = twin.compare(run.url, run.store, self._config, Catalogue.of(self._ratings), run.seed)
        self._children.stop("pipeline")
        counters = checks.join_counters(run.log("metrics"))
        examples, ids = checks.in_log(self._config, run.log("examples"))
        updates = checks.updates_in_store(self._config, run.store)
        found += checks.conservation(counters) + checks.books(counters, replayed["expected"])
        found += [
            checks.Check("requests without an answer", replayed["request_errors"], 0),
            checks.Check("impressions still pending", counters["pending"], 0),
            checks.Check("actions still waiting", counters["waiting"], 0),
            checks.Check("distinct examples in the log", examples, counters["examples"] + counters["corrections"]),
            checks.Check("updates in the store, one for every id of every example in the log", updates, ids),
        ]
        figures = summary.figures(counters, ids, updates, stats, replayed, time.monotonic() - self._started)
        (run.folder / "stats.json").write_text(json.dumps(stats))
        (run.folder / "report.html").write_text(report.render(stats), encoding="utf-8")
        for error in replayed["request_error_examples"]:
            _say(f"a request failed: {error}")
        if not settled:
            _say("not everything was decided in time; the figures say what is open")
        print(summary.text(figures, replayed, [str(check) for check in found]))
        _say(f"report: {run.folder / 'report.html'}")
        print(json.dumps(figures), flush=True)
        return 0 if all(check.holds for check in found) else 1


def _new_run(options: argparse.Namespace, ratings: int) -> Run:
    """Makes the run's folder; nothing is left behind by what could not start."""
    port = options.port or _free_port()
    folder = (options.runs / f"demo-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    place = OnFlink(folder) if options.flink else Embedded(folder, options.prism)
    folder.mkdir(parents=True)
    latest = options.runs / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return Run(
        folder=folder,
        place=place,
        url=f"http://127.0.0.1:{port}",
        data=options.data.resolve(),
        ratings=min(ratings, options.ratings or int(options.seconds * RATINGS_PER_SECOND)),
        seconds=options.seconds,
        seed=options.seed,
    )


def _free_port() -> int:
    """The first of PORTS that nobody listens on, or else any."""
    for port in (*PORTS, 0):
        if free := _bound(port):
            return free
    raise ChildError("no port is free on 127.0.0.1")


def _bound(port: int) -> int:
    """The port that one gets by asking for this one; 0 if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(f"\033[1m==>\033[0m {line}" if sys.stdout.isatty() else f"==> {line}", flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; SystemExit where one cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.movielens.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=_path, required=True, help="folder or zip file with MovieLens in any known layout"
    )
    parser.add_argument("--seconds", type=_seconds, default=150, help="how long the replay takes (default: 150)")
    parser.add_argument(
        "--ratings", type=_whole(1), help=f"how many ratings; default: {RATINGS_PER_SECOND} a second, or all"
    )
    parser.add_argument("--seed", type=_whole(0), default=1, help="of the replay (default: %(default)s)")
    parser.add_argument("--prism", type=_path, help="Beam's local streaming runner; without it Beam downloads one")
    parser.add_argument("--flink", action="store_true", help="on a Flink cluster, with logs in Kafka")
    parser.add_argument(
        "--port", type=_whole(1, 65535), help="of the live page; default: the first free one from 8080 on"
    )
    parser.add_argument("--runs", type=_path, default=Path("runs"), help="where the run's folder goes (default: runs)")
    options = parser.parse_args(argv)
    if options.prism and not (options.prism.is_file() and os.access(options.prism, os.X_OK)):
        parser.error(f"--prism: {str(options.prism)!r} is no program")
    if options.port and not _bound(options.port):
        parser.error(f"--port: {options.port} is in use")
    return options


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number above 0")
    return seconds


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
            limit = f" to {high}" if high is not None else ""
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from {low}{limit}")
        return int(text)

    return whole


if __name__ == "__main__":
    sys.exit(main())
