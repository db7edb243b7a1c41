"""Google Cloud Pub/Sub, for raw records: a subscription delivers messages in no order until they are acknowledged.

It is no log: it has no offsets, no partitions and no end. So it can feed a streaming join, which knows a record that
comes twice by its id, but nothing that must be read from a position: no bounded run, and none of the logs that
training, serving and the archive read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

LEASE_S = 30
"""What a process that died had received is delivered again within this time."""

MAX_UNACKNOWLEDGED = 500_000
MAX_UNACKNOWLEDGED_BYTES = 1 << 30
FORM = "pubsub://PROJECT/SUBSCRIPTION?schema=FILE.avsc"


class PubSubError(OSError):
    """A subscription that is not there or may not be read."""


@dataclass(frozen=True)
class Subscription:
    """The address of a subscription; every message holds one Avro datum of the schema in the file ``schema``."""

    project: str
    name: str
    schema: str

    @staticmethod
    def parse(uri: str) -> Subscription:
        """What ``pubsub://PROJECT/SUBSCRIPTION?schema=FILE.avsc`` says; ValueError quotes what it does not."""
        parts, quoted = urlsplit(uri), json.dumps(uri, ensure_ascii=False)
        options = parse_qs(parts.query, keep_blank_values=True)
        name = parts.path.removeprefix("/")
        if not re.fullmatch(r"[a-z][-a-z0-9.:]*", parts.netloc) or not re.fullmatch(r"[a-zA-Z][-\w.~+%]+", name):
            raise ValueError(f"{quoted}: must be {FORM}")
        if strange := sorted(set(options) - {"schema"}):
            raise ValueError(f"{quoted}: there is no option {strange[0]!r}: must be {FORM}")
        schema = options.get("schema", [""])[-1]
        if not schema:
            raise ValueError(f"{quoted}: messages do not say their schema, so it must be named: {FORM}")
        return Subscription(parts.netloc, name, schema)

    @property
    def uri(self) -> str:
        """What records say where they are from: the same, wherever the file of the schema lies."""
        return f"pubsub://{self.project}/{self.name}"

    @property
    def path(self) -> str:
        """Pub/Sub's own name for it."""
        return f"projects/{self.project}/subscriptions/{self.name}"


def is_subscription(uri: str) -> bool:
    """Whether an address is one of Pub/Sub."""
    return uri.partition(":")[0] == "pubsub"


class Message(Protocol):
    """What Google's library gives for a message."""

    @property
    def message_id(self) -> str:
        """Unique in its topic; the same whenever the message is delivered."""

    @property
    def data(self) -> bytes:
        """The datum."""

    def ack(self) -> Any:
        """It need not be delivered again."""

    def nack(self) -> Any:
        """It is to be delivered again, at once."""


def number_of(message: Any) -> int:
    """The place of a message in its topic, as far as there is one: its id, which Pub/Sub makes of digits.

    A redelivered message has the same.
    """
    text: str = message.message_id
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Messages:
    """What a subscription delivers, received by threads of Google's library while nobody asks.

    They keep the messages from being delivered elsewhere until these are acknowledged or this process ends.
    """

    def __init__(self, subscription: Subscription) -> None:
        from google.cloud import pubsub_v1  # a second of imports that others need not wait for

        self._subscription = subscription
        self._arrived: deque[Message] = deque()
        self._client = pubsub_v1.SubscriberClient()
        flow = pubsub_v1.types.FlowControl(
            max_messages=MAX_UNACKNOWLEDGED,
            max_bytes=MAX_UNACKNOWLEDGED_BYTES,
            max_duration_per_lease_extension=LEASE_S,
        )
        self._stream = self._client.subscribe(subscription.path, callback=self._arrived.append, flow_control=flow)

    def take(self, most: int) -> list[Message]:
        """Up to so many messages that have arrived; never waits.

        PubSubError if no more can come: there is no such subscription, or this process may not read it. Where Pub/Sub
        is only away, nothing arrives, and the library goes on trying.
        """
        if self._stream.done():
            raise PubSubError(f"{self._subscription.uri}: {self._stream.exception()}")
        arrived = self._arrived
        return [arrived.popleft() for _ in range(min(most, len(arrived)))]

    def close(self) -> None:
        """Stop receiving; what was not acknowledged is delivered again."""
        self._stream.cancel()
        self._stream.result()
        self._client.close()


def schema_text(text: str, where: str) -> str:
    """A schema file's text as the JSON of a record's schema; ValueError, naming the file, if it is none."""
    from monobeam.logs.log import parsed

    try:
        found: Mapping[str, Any] = parsed(text)
        if not isinstance(found, Mapping) or found.get("type") != "record":
            raise ValueError("not the schema of a record")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"schema {where!r}: {error}") from error
    return text
