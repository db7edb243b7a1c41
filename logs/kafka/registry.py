"""A schema registry of Confluent's kind: schemas by the numbers that messages carry."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from monobeam.logs.log import AwayError, parsed

TIMEOUT_S = 5.0
ASK_AGAIN_S = 10.0


class UnknownSchemaError(ValueError):
    """A number that the registry has no Avro schema for."""


class Registry:
    """Asks for each schema once; for one that is not there again after a while, as it may be registered late."""

    def __init__(self, url: str, user: str = ""):
        """``user``: USER:PASSWORD, where the registry wants one."""
        self._url = url.rstrip("/")
        self._user = user
        self._schemas: dict[int, str] = {}
        self._missing: dict[int, tuple[float, str]] = {}

    def schema(self, number: int) -> str:
        """Its JSON; UnknownSchemaError if there is none, AwayError if the registry does not answer."""
        if number not in self._schemas:
            asked, why = self._missing.get(number, (0.0, ""))
            if why and time.monotonic() - asked < ASK_AGAIN_S:
                raise UnknownSchemaError(why)
            try:
                self._schemas[number] = self._ask(number)
            except UnknownSchemaError as error:
                self._missing[number] = time.monotonic(), str(error)
                raise
        return self._schemas[number]

    def _ask(self, number: int) -> str:
        url = f"{self._url}/schemas/ids/{number}"
        request = urllib.request.Request(url, headers={"Accept": "application/vnd.schemaregistry.v1+json"})
        if self._user:
            request.add_header("Authorization", f"Basic {base64.b64encode(self._user.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise UnknownSchemaError(f"schema {number}: not in {self._url}") from error
            raise AwayError(f"{url}: {error}") from error
        except (OSError, ValueError) as error:
            raise AwayError(f"{url}: {error}") from error
        return _avro(number, found)


def _avro(number: int, found: Mapping[str, object]) -> str:
    """The schema in an answer; only such as need no others are read."""
    kind, schema = found.get("schemaType", "AVRO"), str(found.get("schema"))
    if kind != "AVRO" or found.get("references"):
        raise UnknownSchemaError(f"schema {number}: {kind}{' with references' * bool(found.get('references'))}: "
                                 "must be Avro, without references")  # fmt: skip
    try:
        parsed(schema)
    except ValueError as error:
        raise UnknownSchemaError(f"schema {number}: {error}") from error
    return schema
