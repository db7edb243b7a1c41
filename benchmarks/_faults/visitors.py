"""People who ask for a ranking all the time, of whichever server answers, as behind any load balancer."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

THINK_S = 0.03
TRY_S = 0.5
PATIENCE_S = 5.0


def ask(port: int, method: str, path: str, body: bytes | None = None, timeout_s: float = TRY_S) -> tuple[int, bytes]:
    """Status and body of an answer; OSError or HTTPException where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Visitors:
    """One request after the other, to each server in turn; one that does not answer is passed over.

    ``requests`` that were made; ``errors``: those that no server answered for ``patience_s``; ``passed_over``: times
    that a server did not answer; ``longest_gap_s``: between one answer and the next, since ``start``.
    """

    def __init__(self, ports: Sequence[int], body: Callable[[int], bytes]) -> None:
        self._ports = ports
        self._body = body
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visitors", daemon=True)
        self._answered_s = time.monotonic()
        self.requests = self.errors = self.passed_over = 0
        self.longest_gap_s = 0.0
        self.patience_s = PATIENCE_S

    def start(self) -> None:
        """Begin to ask; the first gap begins now."""
        self._answered_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """No more requests."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(THINK_S):
            self.requests += 1
            if self._answered(self._body(self.requests)):
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - self._answered_s)
                self._answered_s = now
            else:
                self.errors += 1

    def _answered(self, body: bytes) -> bool:
        deadline = time.monotonic() + self.patience_s
        turn = self.requests
        while time.monotonic() < deadline and not self._stopping.is_set():
            port = self._ports[turn % len(self._ports)]
            with suppress(OSError, http.client.HTTPException):
                status, _ = ask(port, "POST", "/rank", body)
                if status == 200:
                    return True
            turn += 1
            self.passed_over += 1
            if turn % len(self._ports) == self.requests % len(self._ports):
                time.sleep(THINK_S)
        return self._stopping.is_set()
