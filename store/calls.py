"""What a shard server answers on one connection."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from monobeam.store.backend import AwayError, Backend, StaleError, is_shared
from monobeam.store.bags import Bags
from monobeam.store.head import Head
from monobeam.store.host import ShardHost
from monobeam.store.hosting import Hosting
from monobeam.store.reading import announcement_of, events_message, manifest_header, read
from monobeam.store.spec import StoreSpec
from monobeam.store.wire import Array, Message, as_array

MOST_PULLS = 1024
_READ = "read."
Header = Mapping[str, Any]
Answer = Callable[[Header, tuple[Array, ...]], Message]
_DONE = Message({})
_NUMBERS = {"generation", "partition", "offset", "position", "now_s", "now_us", "budget", "pull", "ended"}
_OTHERS = {"spec": str, "name": str, "head": str, "table": str, "positions": dict, "meta": dict, "epochs": list}


class _Checked(dict[str, Any]):
    """A header whose fields are what they must be, or ValueError; those that a caller need not know are missing."""

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        for name, value in header.items():
            if name in _NUMBERS and not _is_number(value):
                raise ValueError(f"{name} {value!r}: must be a whole number, not below 0")
            if name in _OTHERS and not isinstance(value, _OTHERS[name]):
                raise ValueError(f"{name} {value!r}: must be a {_OTHERS[name].__name__}")

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"request {self.get('method')!r}: {name} is missing")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


class Tenure:
    """What a server has for as long as it owns its shards; ``head`` only with shard 0."""

    def __init__(self, backend: Backend, address: str, hosting: Hosting, head: Head | None) -> None:
        self.backend = backend
        self.address = address
        self.hosting = hosting
        self.head = head

    def head_address(self) -> str:
        """Where the head of the store is."""
        if self.head is not None:
            return self.address
        owner = self.backend.owners().get(0) if is_shared(self.backend) else None
        if owner is None:
            raise AwayError(f"{self.backend.uri}: shard 0 has no server, which would be the head")
        return owner


class Calls:
    """One caller: its session, if it is a trainer, and its pulls whose gradients are still to come."""

    def __init__(self, tenure: Callable[[], Tenure]) -> None:
        self._tenure = tenure
        self._session: tuple[Head, str] | None = None
        self._pulls: dict[int, tuple[int, Any]] = {}  # with their generations
        self._numbers = itertools.count()
        self._answers: Mapping[str, Answer] = {
            "where": lambda header, arrays: Message({"head": self._now().head_address()}),
            "open": self._open,
            "work": self._work,
            "begin": self._begin,
            "end": self._end,
            "unseen": self._unseen,
            "expire_seen": self._expire_seen,
            "expired": self._expired,
            "commit": self._commit,
            "head_figures": self._head_figures,
            "close": self._close,
            "generation": lambda header, arrays: Message({"generation": self._now().hosting.generation}),
            "begin_generation": self._begin_generation,
            "prepare": self._prepare,
            "committed": self._committed,
            "pull": self._pull,
            "push": self._push,
            "lookup": self._lookup,
            "known": self._known,
            "update_counts": self._update_counts,
            "erase": self._erase,
            "expire_keys": self._expire_keys,
            "expire": self._expire,
            "events": self._events,
            "figures": self._figures,
        }

    def answers(self, request: Message) -> Iterator[Message]:
        """One answer, or, to a request to read, several and an end.

        OwnedError, in place of an answer, where the server's leases are not in force when it is ready.
        """
        method = request.header.get("method", "")
        if method.startswith(_READ):
            yield from read(self._tenure().backend, method.removeprefix(_READ), request.header)
            yield Message({"end": True})
            return
        if method not in self._answers:
            raise ValueError(f"request {method!r}: there is no such one")
        tenure = self._now()
        answer = self._answers[method](_Checked(request.header), request.arrays)
        tenure.hosting.check()
        yield answer

    def ended(self) -> None:
        """The connection is gone."""
        if self._session is not None:
            head, session = self._session
            head.close(session, "lost its connection")

    def _now(self) -> Tenure:
        return self._tenure()

    # ---- the head ----

    def _open(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head = self._now().head
        if head is None:
            raise AwayError("this server is not the head of the store any more")
        if self._session is not None:
            raise ValueError("this connection has opened the store already")
        partitions = header["partitions"]
        opened = head.open(
            StoreSpec.decode(header["spec"].encode()),
            header["name"],
            None if partitions is None else frozenset(partitions),
            time.monotonic(),
        )
        self._session = head, opened.session
        head.alive(opened.session, time.monotonic())  # loading may have taken longer than a session may be silent
        told = {"session": opened.session, "generation": opened.generation, "ended": opened.ended}
        servers = {address: list(numbers) for address, numbers in opened.servers.items()}
        dense = () if opened.dense is None else (as_array(opened.dense),)
        return Message({**told, "servers": servers, **manifest_header(opened.manifest)}, dense)

    def _at_head(self) -> tuple[Head, str]:
        if self._session is None:
            raise ValueError("open the store first")
        if self._now().head is not self._session[0]:
            raise StaleError("this server lost its shards, and is their owner anew")
        return self._session

    def _work(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        head.work(session, time.monotonic())
        return _DONE

    def _begin(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        head.begin(session, header["partition"], header["offset"], time.monotonic())
        return _DONE

    def _end(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        ended = head.end(session, header["partition"], header["position"], header["meta"], time.monotonic())
        return Message({"ended": ended})

    def _unseen(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        return Message({}, (head.unseen(session, arrays[0], header["now_s"], time.monotonic()),))

    def _expire_seen(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        head.expire(session, header["now_s"], header["budget"], time.monotonic())
        return _DONE

    def _expired(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        head.expired(session, time.monotonic())
        return _DONE

    def _commit(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        given, arrivals = iter(arrays[:-1]), arrays[-1]
        dense, values = (next(given).tobytes() if header[name] else None for name in ("dense", "dense_values"))
        positions = {int(partition): offset for partition, offset in header["positions"].items()}
        if strange := [offset for offset in positions.values() if not _is_number(offset)]:
            raise ValueError(f"positions {strange}: must be whole numbers, not below 0")
        if arrivals.dtype != np.int64:
            raise ValueError(f"arrivals of {arrivals.dtype}: must be int64")
        committed = head.commit(
            session,
            positions,
            dense,
            values,
            header["now_us"],
            header["meta"],
            arrivals,
            header["ended"],
            time.monotonic(),
        )
        told = {"before": list(committed.before), "published": committed.published}
        return Message({**told, **manifest_header(committed.manifest)})

    def _head_figures(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        return Message({"memory_bytes": self._at_head()[0].memory_bytes})

    def _close(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        head, session = self._at_head()
        head.close(session, "ended between two commits")
        self._session = None
        return _DONE

    # ---- shards, for the head ----

    def _begin_generation(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        spec = StoreSpec.decode(header["spec"].encode())
        self._now().hosting.begin(header["generation"], spec, header["head"])
        return _DONE

    def _prepare(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        self._now().hosting.prepare(header["generation"], header["epochs"])
        return _DONE

    def _committed(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        said = announcement_of(header, arrays)
        self._now().hosting.committed(header["generation"], header["epochs"], said)
        return _DONE

    # ---- shards, for trainers ----

    def _host(self, header: Header) -> ShardHost:
        host = self._now().hosting.at(header["generation"])
        if (table := header.get("table")) and table not in (known := [table.name for table in host.spec.tables]):
            raise ValueError(f"table {table!r}: there are {known}")
        return host

    def _pull(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        bags = Bags(*arrays)
        values, pulls = self._host(header).pull(header["table"], bags, header["now_s"], header["pooled"])()
        number = next(self._numbers)
        self._pulls[number] = header["generation"], pulls
        if len(self._pulls) > MOST_PULLS:
            del self._pulls[next(iter(self._pulls))]
        return Message({"pull": number}, (values,))

    def _push(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        host, (of, pulls) = self._host(header), self._pulls.pop(header["pull"], (0, None))
        if of != header["generation"]:
            raise ValueError(f"pull {header['pull']}: pushed before, or {MOST_PULLS} others came after it")
        host.push(pulls, arrays[0], header["rate"])
        return _DONE

    def _lookup(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        return Message({}, (self._host(header).lookup(header["table"], Bags(*arrays), header["pooled"])(),))

    def _known(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        return Message({}, (self._host(header).known(header["table"], arrays[0])(),))

    def _update_counts(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        return Message({}, (self._host(header).update_counts(header["table"], arrays[0])(),))

    def _erase(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        self._host(header).erase(header["table"], arrays[0])
        return _DONE

    def _expire_keys(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        self._host(header).expire_keys(arrays[0], header["now_s"])
        return _DONE

    def _expire(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        return Message({"count": self._host(header).expire(header["now_s"], header["budget"])()})

    def _events(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        return events_message(self._host(header).events(header["epochs"])(), header["dtype"])

    def _figures(self, header: Header, arrays: tuple[Array, ...]) -> Message:
        figures = self._host(header).figures()()
        return Message({"rows": figures.rows, "memory_bytes": figures.memory_bytes})
