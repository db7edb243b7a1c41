"""Between the trainer's sync log and the one that servers follow: passes events on, or loses, repeats and reorders."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from monobeam.logs.log import Appender, open_log, records
from monobeam.store.sync import SYNC

EVERY_S = 0.02


class Relay:
    """A thread between two logs. ``disturb`` says what becomes of the next events; ``done`` counts what did."""

    def __init__(self, source: str, target: str, partitions: int) -> None:
        self._source = open_log(source)
        log = open_log(target, partitions=partitions)
        self._appenders: list[Appender] = [log.appender(number, SYNC) for number in range(partitions)]
        self._offsets = [0] * partitions
        self._held: list[list[dict[str, Any]]] = [[] for _ in range(partitions)]
        self._kind, self._left = "", 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self.done: Counter[str] = Counter()
        self._thread.start()

    def disturb(self, kind: str, events: int) -> None:
        """What to do with so many of the next events: ``lose``, ``repeat`` or ``reorder`` them."""
        with self._lock:
            self._kind, self._left = kind, events

    def settle(self) -> None:
        """Pass on everything from now on, what is held back to be reordered first."""
        with self._lock:
            self._left = 0
            for partition in range(len(self._held)):
                self._release(partition)

    def send(self, partition: int, event: dict[str, Any]) -> None:
        """Pass on an event that did not come from the trainer."""
        with self._lock:
            self._append(partition, event)

    def close(self) -> None:
        """Stop, and close the logs."""
        self._stopping.set()
        self._thread.join()
        for appender in self._appenders:
            appender.close()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            for partition in range(len(self._offsets)):
                chunks = self._source.read(partition, self._offsets[partition], 256)
                if not chunks:
                    continue
                with self._lock:
                    for event in records(chunks):
                        self._pass_on(partition, event)
                self._offsets[partition] = chunks[-1].end

    def _pass_on(self, partition: int, event: dict[str, Any]) -> None:
        if self._left <= 0:
            self._append(partition, event)
            return
        self._left -= 1
        self.done[self._kind] += 1
        if self._kind == "repeat":
            self._append(partition, event, event)
            self._held[partition].append(event)  # and once more, when others have come
        elif self._kind == "reorder":
            self._held[partition].insert(0, event)
        if self._left == 0:
            for number in range(len(self._held)):
                self._release(number)

    def _release(self, partition: int) -> None:
        held, self._held[partition] = self._held[partition], []
        self._append(partition, *held)

    def _append(self, partition: int, *events: dict[str, Any]) -> None:
        if events:
            self._appenders[partition].append(events)
