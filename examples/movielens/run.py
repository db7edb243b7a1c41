"""One run of the demo: where it keeps what, the commands of its processes, and what it can be asked while it runs."""

import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.movielens.places import Place

CONFIG = Path(__file__).with_name("model.toml")
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Run:
    """A run in a folder of its own.

    Attributes:
        folder: holds the stores and what the processes print.
        place: where its logs are, and its pipeline runs.
        url: of the serving process, "http://host:port".
        data: MovieLens, in any known layout.
        ratings: how many of them are replayed.
        seconds: in how much time.
        seed: of what the replay draws at random.
    """

    folder: Path
    place: Place
    url: str
    data: Path
    ratings: int
    seconds: float
    seed: int

    def log(self, name: str) -> str:
        """Address of a log of this run."""
        return self.place.log(name)

    @property
    def store(self) -> str:
        """Address of the parameter store."""
        return f"lmdb:{self.folder / 'store'}"

    @property
    def report(self) -> Path:
        """What the replay says at its end."""
        return self.folder / "replay.json"

    def serving(self) -> list[str]:
        """Command of the serving process."""
        host, port = self.url.removeprefix("http://").split(":")
        logs = self._logs("sync", "served", "metrics")
        options = [*logs, f"--host={host}", f"--port={port}", *self.place.server()]
        return _python("monobeam.serving", f"--store={self.store}", *options)

    def pipeline(self) -> list[str]:
        """Command of the one streaming Beam job: join and train."""
        logs = self._logs("impressions", "actions", "examples", "sync", "dead_letters", "metrics")
        stores = [f"--impressions={self.log('served')}", f"--store={self.store}", f"--cold=lmdb:{self.folder / 'cold'}"]
        return _python("monobeam.pipelines.online", *logs, *stores, "--streaming", *self.place.runner())

    def frozen(self, train_examples: int) -> list[str]:
        """Command of the model that stops learning after so many examples."""
        logs = self._logs("examples", "metrics")
        return _python("examples.movielens.frozen", *logs, f"--train_examples={train_examples}")

    def replay(self) -> list[str]:
        """Command of the replay."""
        size = [f"--ratings={self.ratings}", f"--seconds={self.seconds}", f"--seed={self.seed}"]
        logs = self._logs("impressions", "actions", "metrics")
        ends = [f"--serving={self.url}", f"--report={self.report}"]
        return _python("examples.movielens.replay", f"--data={self.data}", *logs, *size, *ends)

    def stats(self) -> dict[str, Any]:
        """The figures of the live page; OSError where nobody answers."""
        with urllib.request.urlopen(f"{self.url}/stats.json", timeout=TIMEOUT_S) as answer:
            stats: dict[str, Any] = json.load(answer)
        return stats

    def is_ready(self) -> bool:
        """Whether the server has a trained model to answer with."""
        try:
            return bool(self.stats().get("replica", {}).get("epoch"))
        except OSError:
            return False

    def _logs(self, *names: str) -> list[str]:
        return [f"--{name}={self.log(name)}" for name in names]


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, f"--config={CONFIG}", *arguments]
