"""What a client may ask: bytes in, a checked ``RankRequest`` out; everything else is refused with the bad value quoted.

``{"request_id"?: str, "features": {...}, "candidates": [{...}, ...], "top_k"?: int, "log"?: bool}``
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from monobeam.serving.columns import FeatureTypes
from monobeam.serving.errors import InvalidRequest, NotJson, quote

KEYS = frozenset({"request_id", "features", "candidates", "top_k", "log"})
MAX_REQUEST_ID = 200
NEAR = 20


@dataclass(frozen=True)
class RankRequest:
    """One user (or context) and N candidates.

    ``user``: columns of one row. ``candidates``: columns of N rows. ``values``: the features as they came, for the log.
    """

    request_id: str | None
    user: Mapping[str, pa.Array]
    candidates: Mapping[str, pa.Array]
    count: int
    top_k: int
    log: bool
    user_values: Mapping[str, Any]
    candidate_values: tuple[Mapping[str, Any], ...]

    @property
    def types(self) -> list[tuple[str, pa.DataType]]:
        """The type of every feature that has a value."""
        return [(name, column.type) for columns in (self.user, self.candidates) for name, column in columns.items()]


def parse(body: bytes, types: FeatureTypes, max_candidates: int) -> RankRequest:
    """Check a body; NotJson or InvalidRequest."""
    root = _object("the request", _json(body))
    for key in root:
        if key not in KEYS:
            raise InvalidRequest(f"{quote(key)}: unknown key; allowed: {', '.join(sorted(KEYS))}")
    user = _object("features", root.get("features", {}))
    types.check_names("features", user)
    candidates = _candidates(root, max_candidates)
    columns = _columns(candidates, types)
    both = sorted(user.keys() & columns.keys())
    if both:
        raise InvalidRequest(f"features.{both[0]}: given for the request and for candidates; give it once")
    return RankRequest(
        request_id=_request_id(root),
        user=_known({name: types.column(name, [value], "features") for name, value in user.items()}),
        candidates=_known(columns),
        count=len(candidates),
        top_k=_top_k(root, len(candidates)),
        log=_log(root),
        user_values=user,
        candidate_values=tuple(candidates),
    )


def _json(body: bytes) -> Any:
    """The value of a JSON text."""
    if not body.strip():
        raise NotJson("the body is empty")
    try:
        return json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is no UTF-8 text: byte {error.start} is 0x{body[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        near = quote(error.doc[error.pos : error.pos + NEAR])
        raise NotJson(f"the body is no JSON: {error.msg} at character {error.pos}: {near}") from None
    except RecursionError:
        raise NotJson("the body is nested too deeply") from None
    except ValueError:  # the one thing that is left: Python's limit, which keeps conversion from taking minutes
        raise NotJson(f"the body holds a whole number of more than {sys.get_int_max_str_digits()} digits") from None


def _refuse_constant(name: str) -> None:
    raise NotJson(f"{name} is no JSON number; numbers must be finite")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        double = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InvalidRequest(f"{quote(double)}: twice in one object; give it once")
    return values


def _object(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} = {quote(value)}: must be an object")
    return value


def _candidates(root: Mapping[str, Any], max_candidates: int) -> list[dict[str, Any]]:
    if "candidates" not in root:
        raise InvalidRequest("candidates: missing; give a list of 1 or more objects of features")
    values = root["candidates"]
    if not isinstance(values, list) or not values:
        raise InvalidRequest(f"candidates = {quote(values)}: must be a list of 1 or more objects")
    if len(values) > max_candidates:
        raise InvalidRequest(f"candidates: {len(values)} of them; at most {max_candidates} are allowed")
    return [_object(f"candidates[{i}]", value) for i, value in enumerate(values)]


def _columns(candidates: list[dict[str, Any]], types: FeatureTypes) -> dict[str, pa.Array | None]:
    names = dict.fromkeys(name for candidate in candidates for name in candidate)  # in order of first sight
    if not names.keys() <= types.names:
        for i, candidate in enumerate(candidates):
            types.check_names(f"candidates[{i}]", candidate)
    return {name: types.column(name, [c.get(name) for c in candidates], "candidates[{}]") for name in names}


def _known(columns: Mapping[str, pa.Array | None]) -> dict[str, pa.Array]:
    return {name: column for name, column in columns.items() if column is not None}


def _request_id(root: Mapping[str, Any]) -> str | None:
    value = root.get("request_id")
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_REQUEST_ID or not value.isprintable():
        raise InvalidRequest(
            f"request_id = {quote(value)}: must be a string of 1 to {MAX_REQUEST_ID} printable characters"
        )
    return value


def _top_k(root: Mapping[str, Any], count: int) -> int:
    value = root.get("top_k")
    if value is None:
        return count
    if type(value) is not int or value < 1:
        raise InvalidRequest(f"top_k = {quote(value)}: must be a whole number of 1 or more")
    return min(value, count)


def _log(root: Mapping[str, Any]) -> bool:
    value = root.get("log", True)
    if not isinstance(value, bool):
        raise InvalidRequest(f"log = {quote(value)}: must be true or false")
    return value
