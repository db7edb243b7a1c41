"""Whom the server answers: requests that name it, and pages that it served itself.

It has no passwords, and what it is asked becomes training data. So a page of some other site, open in a browser on
this machine, must not reach it: neither directly (then ``Origin`` names that site) nor by a name of that site's own
that leads here (then ``Host`` does). Programs such as curl send no ``Origin`` and the ``Host`` that they were given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from monobeam.serving.errors import Forbidden, ServingError, UnknownHost, quote

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
READING = frozenset({"GET", "HEAD"})
ANY = "*"


class Guard:
    """ASGI middleware: answers what is refused itself.

    ``host``: the address that is listened on, ``allowed``: more names, ``*`` for all. Where every address is listened
    on, every address is allowed, as a name is what a foreign page would need.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Iterable[str]) -> None:
        self._app = app
        self._names = LOOPBACK | {name.lower().strip("[]") for name in (host, *allowed)}
        self._any_address = _is_address(host) and ipaddress.ip_address(host).is_unspecified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        answer = self._app
        if scope["type"] == "http":
            try:
                self._check(scope["method"], Headers(scope=scope))
            except ServingError as error:
                answer = as_json(error)
        await answer(scope, receive, send)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if ANY not in self._names and not self._is_known(host):
            raise UnknownHost(f"host {quote(host)}: not a name of this server; --allowed-host adds one")
        origin = headers.get("origin")
        if method not in READING and origin is not None and _place(origin) != host.lower():
            raise Forbidden(f"origin {quote(origin)}: pages of other sites may not write here")

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or (self._any_address and _is_address(name))


def as_json(error: ServingError) -> JSONResponse:
    """The answer that an error is."""
    return JSONResponse({"error": type(error).__name__, "detail": str(error)}, error.status, dict(error.headers))


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
