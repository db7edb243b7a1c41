"""People who ask the server for rankings while the replay runs: a steady load, and the requests that the plan names."""

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from examples.movielens.catalogue import Questions

TIMEOUT_S = 10.0
CANDIDATES = 100


class Server:
    """One keep-alive connection to ``/rank``, with a record of how it went. One thread at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"serving address {url!r} is not of the form http://host:port")
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
        self.latencies_ms: list[float] = []
        self.errors: list[str] = []

    def wait_until_ready(self, patience_s: float) -> None:
        """Returns when the server has a trained model to answer with; TimeoutError if that takes too long."""
        deadline = time.monotonic() + patience_s
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no trained model is served after {patience_s:.0f} s")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            self._connection.request("GET", "/stats.json")
            stats = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            return False
        return bool(stats.get("replica", {}).get("epoch"))

    def rank(self, body: str) -> dict[str, Any] | None:
        """The answer to one request; None where there was none (the reason is in ``errors``)."""
        started = time.perf_counter()
        try:
            self._connection.request("POST", "/rank", body.encode(), {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise http.client.HTTPException(f"status {response.status}: {content[:200].decode(errors='replace')}")
            answer: dict[str, Any] = json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            self.errors.append(f"{type(error).__name__}: {error}")
            return None
        finally:
            self.latencies_ms.append((time.perf_counter() - started) * 1e3)
        return answer


class Load(threading.Thread):
    """Asks for a ranking of random items for random people, ``per_second`` times a second, and logs nothing."""

    def __init__(self, server: Server, questions: Questions, per_second: float, seed: int) -> None:
        super().__init__(name="load", daemon=True)
        self._server, self._questions, self._period_s = server, questions, 1 / per_second
        self._rng = np.random.Generator(np.random.PCG64([seed, 1]))
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends after the request in flight."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Thread body."""
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period_s, time.monotonic())
            self._server.rank(self._questions.random(self._rng, CANDIDATES))


class Requests(threading.Thread):
    """Has single rated items ranked and logged by the server, and hands back the ids and times that it logged."""

    def __init__(self, server: Server, questions: Questions, served: Callable[[int, str, int], None]) -> None:
        super().__init__(name="requests", daemon=True)
        self._server, self._questions, self._served = server, questions, served
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def ask(self, rating: int) -> None:
        """Has the item of this rating ranked, soon."""
        self._waiting.put(rating)

    def finish(self) -> None:
        """Returns when everything that was asked is answered."""
        self._waiting.put(None)
        self.join()

    def run(self) -> None:
        """Thread body."""
        while (rating := self._waiting.get()) is not None:
            answer = self._server.rank(self._questions.about(rating))
            # Without an id the server was too busy to log it: there is nothing that a like could name.
            if answer is not None and (impression_id := answer["results"][0]["impression_id"]):
                self._served(rating, str(impression_id), int(answer["time"]))
