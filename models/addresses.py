"""Addresses of logs and stores: which kinds there are, so that a typing error is refused before anything is opened."""

from __future__ import annotations

import re

from monobeam.models.section import ConfigError, quoted

# What is addressed: its form for people, and the pattern.
LOG = ("file:DIRECTORY or kafka://HOST:PORT/TOPIC", r"file:(?!//$).+|kafka://[^/@]+/[^/?]+(\?.*)?")
STORE = (
    "lmdb:DIRECTORY, memory:, memory:NAME, bigtable://PROJECT/INSTANCE/TABLE or flight://HOST:PORT",
    r"lmdb:.+|memory:.*|bigtable://[^/]+/[^/]+/[^/]+|flight(\+tls)?://[^/]+:\d+",
)
COLD = ("lmdb:DIRECTORY or memory:", r"lmdb:.+|memory:")


def check(kind: tuple[str, str], key: str, address: str) -> None:
    """ConfigError, naming the kinds there are, for an address that is of none."""
    form, pattern = kind
    if not re.fullmatch(pattern, address):
        raise ConfigError(f"{key} = {quoted(address)}: must be {form}")
