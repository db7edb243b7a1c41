"""Addresses of topics: ``kafka://HOST:PORT[,HOST:PORT]/TOPIC[?option=value&...]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

REGISTRY_USER = "schema.registry.basic.auth.user.info"
FORM = "kafka://HOST:PORT[,HOST:PORT...]/TOPIC[?option=value&...]"
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
# What may not stand in an address, as addresses are in logs, dead letters and lists of processes.
_SECRET = re.compile(r"password|secret|user\.info|\.pem$|oauthbearer\.config|jaas")


@dataclass(frozen=True)
class Address:
    """A topic and how to reach it.

    ``options``: librdkafka's own, by name. ``config``: a file with more of them. ``schemas``: files with the Avro
    schemas of messages that do not bring one. ``registry``: URL of a schema registry, '' for none.
    """

    uri: str
    brokers: str
    topic: str
    options: tuple[tuple[str, str], ...] = ()
    config: str = ""
    schemas: tuple[str, ...] = ()
    registry: str = ""

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(uri: str) -> Address:
        """ValueError, quoting the address (or, of a secret, only its name), if it is none."""
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise ValueError(f"log {uri!r}: {error}: must be {FORM}") from error
        options = parse_qsl(parts.query, keep_blank_values=True)
        if secret := [name for name, _ in options if _SECRET.search(name)]:
            raise ValueError(f"log kafka://{parts.netloc}{parts.path}: {secret[0]} does not belong into an address: "
                             "write it into a file and name that: ?config=FILE")  # fmt: skip
        if "@" in parts.netloc:
            raise ValueError("log kafka://...@...: a user does not belong into an address: write sasl.username and "
                             "sasl.password into a file and name that: ?config=FILE")  # fmt: skip
        topic = parts.path.removeprefix("/")
        are_brokers = all(_BROKER.fullmatch(broker) for broker in parts.netloc.split(","))
        if parts.scheme != "kafka" or parts.fragment or not (are_brokers and _TOPIC.fullmatch(topic)):
            raise ValueError(f"log {uri!r}: must be {FORM}")
        return Address(
            uri,
            parts.netloc,
            topic,
            tuple((name, value) for name, value in options if name not in ("config", "schema", "schema.registry")),
            dict(options).get("config", ""),
            tuple(value for name, value in options if name == "schema"),
            dict(options).get("schema.registry", ""),
        )

    @property
    def place(self) -> str:
        """The address without options, for messages."""
        return f"kafka://{self.brokers}/{self.topic}"

    def settings(self) -> dict[str, str]:
        """librdkafka's settings: the file's, over them the address's; ValueError if the file cannot be used."""
        of_file = {name: value for name, value in self._of_file().items() if name != REGISTRY_USER}
        return {**of_file, **dict(self.options)}

    def registry_user(self) -> str:
        """USER:PASSWORD for the schema registry, '' for none; ValueError if the file cannot be used."""
        return self._of_file().get(REGISTRY_USER, "")

    def _of_file(self) -> Mapping[str, str]:
        return _of_file(self.config) if self.config else {}


def _of_file(path: str) -> Mapping[str, str]:
    """``name=value`` lines; those that begin with # or ! are comments."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ValueError(f"?config={path}: cannot be read: {error.strerror}") from error
    found = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and line[0] not in "#!":
            name, separator, value = line.partition("=")
            if not separator:  # not quoted: it may be half of a secret
                raise ValueError(f"?config={path}: line {number}: must be NAME=VALUE")
            found[name.strip()] = value.strip()
    return found
