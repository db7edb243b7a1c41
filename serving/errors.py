"""What can go wrong with a request; every class knows its HTTP status.

The way of a request: bytes -> JSON (``TooSlow``, ``TooLarge``, ``NotJson``) -> valid request (``InvalidRequest``) ->
answer (``Overloaded``, ``NotReady``). The message of each of these goes to the client, so it quotes what the client
sent and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

QUOTED_CHARACTERS = 80


class ServingError(Exception):
    """An answer that is not a ranking; ``status`` is its HTTP status."""

    status = 500
    headers: Mapping[str, str] = {}


class InternalError(ServingError):
    """A mistake of the server's own."""


class UnknownHost(ServingError):  # noqa: N818 - reads as what it says
    """A request for a host that this server is not."""

    status = 400


class Forbidden(ServingError):  # noqa: N818
    """A page of another site wants to write."""

    status = 403


class NotFound(ServingError):  # noqa: N818
    """There is nothing at this address."""

    status = 404


class MethodNotAllowed(ServingError):  # noqa: N818
    """There is something, but not for this method."""

    status = 405


class NotJson(ServingError):  # noqa: N818
    """The body is no JSON text."""

    status = 400


class TooSlow(ServingError):  # noqa: N818
    """The body did not come in time."""

    status = 408
    headers: Mapping[str, str] = {"Connection": "close"}


class TooLarge(ServingError):  # noqa: N818
    """The body is larger than the server reads."""

    status = 413


class InvalidRequest(ServingError):  # noqa: N818
    """JSON that is no valid request."""

    status = 422


class Overloaded(ServingError):  # noqa: N818
    """More requests wait than the queue holds; the client may come back."""

    status = 503
    headers: Mapping[str, str] = {"Retry-After": "1"}


class NotReady(ServingError):  # noqa: N818
    """Nothing has been loaded from the store yet."""

    status = 503
    headers: Mapping[str, str] = {"Retry-After": "1"}


def quote(value: object) -> str:
    """A value as a message quotes it: as JSON, as it came, and never longer than a line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can spell
        text = json.dumps(value)
    except RecursionError:
        text = "[...]" if isinstance(value, list) else "{...}"
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}..."
