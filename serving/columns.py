"""Values from JSON become typed Arrow columns, of the same types that the features have in the impressions log.

Ids are hashes of typed values: 7, 7.0 and "7" are three different ids. A request whose types differ from those of the
log would be scored by rows that nobody trained, without any error; so the types that the log has are demanded here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from monobeam.models.config import Config
from monobeam.serving.errors import InvalidRequest, quote

INT_LOW, INT_HIGH = -(2**63), 2**63 - 1
MAX_ITEMS = 1_000  # of a list
EXACT = 2**53  # sums of numbers beyond it are looked at one by one
_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_WORDS = {
    pa.bool_(): "a boolean",
    pa.int64(): "a whole number",
    pa.float64(): "a number",
    pa.string(): "a string",
    pa.list_(pa.int64()): "a list of whole numbers",
    pa.list_(pa.float64()): "a list of numbers",
    pa.list_(pa.string()): "a list of strings",
}
_NONE = type(None)


class FeatureTypes:
    """The features of a model and the type of each as far as known.

    Types come from the schemas of logs (``pin``), else from the first request that was logged. Pins never change; a
    single assignment per feature is all there is, so no lock is needed.
    """

    def __init__(self, config: Config) -> None:
        hashed = {feature for slot in config.slots for feature in slot.features}
        numeric = {numeric.feature for numeric in config.numerics}
        self.names = frozenset(hashed | numeric)
        self.pinned: dict[str, pa.DataType] = {name: pa.float64() for name in sorted(numeric - hashed)}

    def pin(self, types: Iterable[tuple[str, pa.DataType]]) -> None:
        """Demand these types from now on, for known features that have none yet."""
        for name, data_type in types:
            if name in self.names and name not in self.pinned and data_type in _WORDS:
                self.pinned[name] = data_type

    def check_names(self, where: str, names: Iterable[str]) -> None:
        """Refuse features that the model does not have."""
        for name in names:
            if name not in self.names:
                allowed = ", ".join(sorted(self.names))
                raise InvalidRequest(f"{where}: {quote(name)}: unknown feature; allowed: {allowed}")

    def column(self, name: str, values: Sequence[Any], where: str) -> pa.Array | None:
        """The values [n] of one feature as an Arrow column [n]; None where all are missing.

        ``where`` is a pattern for messages, such as ``"candidates[{}]"``: it takes the place of the first bad value.
        """
        pinned = self.pinned.get(name)
        found = _type_of(name, values, where)
        if found is None:
            return None if pinned is None else pa.nulls(len(values), pinned)
        if pinned is None or found == pinned or _widens(found, pinned):
            return _array(values, found if pinned is None else pinned)
        index = next(i for i, value in enumerate(values) if value is not None and not _fits(value, pinned))
        raise _invalid(name, values[index], where.format(index), f"must be {_WORDS[pinned]}, as in the log")


def _array(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, data_type)
    except pa.ArrowInvalid:  # whole numbers beyond 2**53 among fractions: Arrow would rather not round them
        floats = [_floats(v) if isinstance(v, list) else None if v is None else float(v) for v in values]
        return pa.array(floats, data_type)


def _floats(values: list[Any]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]


def _type_of(name: str, values: Sequence[Any], where: str) -> pa.DataType | None:
    """The one type of the values, each of them checked; None where there is no value."""
    kinds = set(map(type, values)) - {_NONE}
    if not kinds:
        return None
    if list in kinds:
        return _list_type(name, values, where)
    kind = _scalar_kind(kinds)
    if kind is None:
        raise _mixed(name, values, where)
    _check_scalars(name, values, kind, where)
    return _SCALARS[kind]


def _list_type(name: str, values: Sequence[Any], where: str) -> pa.DataType | None:
    if any(not isinstance(value, list | None) for value in values):
        raise _mixed(name, values, where)
    for index, value in enumerate(values):
        if value is not None and len(value) > MAX_ITEMS:
            raise InvalidRequest(f"{where.format(index)}.{name}: {len(value)} items; at most {MAX_ITEMS} are allowed")
    items = [item for value in values if value is not None for item in value]
    kind = _scalar_kind(set(map(type, items)))
    if not items:
        return None
    if kind is None or kind is bool:
        index = next(
            i for i, v in enumerate(values) if v is not None and _scalar_kind(set(map(type, v))) in (None, bool)
        )
        raise _invalid(name, values[index], where.format(index), "a list must hold only strings or only numbers")
    for index, value in enumerate(values):
        _check_scalars(name, value or (), kind, where.format(index).replace("{", "{{"))
    return pa.list_(_SCALARS[kind])


def _scalar_kind(kinds: set[type]) -> type | None:
    if len(kinds) == 1:
        return next(iter(kinds)) if kinds <= _SCALARS.keys() else None
    return float if kinds == {int, float} else None


def _check_scalars(name: str, values: Sequence[Any], kind: type, where: str) -> None:
    """Refuse the first value that no column can hold; whole columns pass by what C does at once."""
    present = [value for value in values if value is not None]
    if kind is str:
        if not all(map(str.isascii, present)):
            _refuse_first(name, values, _is_text, where, "strings must be valid Unicode")
    elif kind is int:
        if present and (min(present) < INT_LOW or max(present) > INT_HIGH):
            _refuse_first(name, values, _is_number, where, "numbers must be finite and fit 64 bits")
    elif kind is float and not abs(sum(present)) <= EXACT:
        _refuse_first(name, values, _is_number, where, "numbers must be finite and fit 64 bits")


def _refuse_first(name: str, values: Sequence[Any], sound: Callable[[Any], bool], where: str, rule: str) -> None:
    for index, value in enumerate(values):
        if value is not None and not sound(value):
            raise _invalid(name, value, where.format(index), rule)


def _is_number(value: float) -> bool:
    return math.isfinite(value) if type(value) is float else INT_LOW <= value <= INT_HIGH


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
    return True


def _widens(found: pa.DataType, pinned: pa.DataType) -> bool:
    """Whole numbers where numbers are wanted: JSON does not tell 3 from 3.0."""
    whole = {pa.float64(): pa.int64(), pa.list_(pa.float64()): pa.list_(pa.int64())}
    return bool(whole.get(pinned) == found)


def _fits(value: Any, pinned: pa.DataType) -> bool:
    if not isinstance(value, list):
        return bool(_SCALARS.get(type(value)) == pinned)
    return pa.types.is_list(pinned) and all(_SCALARS.get(type(item)) == pinned.value_type for item in value)


def _mixed(name: str, values: Sequence[Any], where: str) -> InvalidRequest:
    first = next(value for value in values if value is not None)
    for index, value in enumerate(values):
        if value is not None and (type(value) is not type(first) or type(value) not in {*_SCALARS, list}):
            return _invalid(
                name,
                value,
                where.format(index),
                "must be a boolean, number, string or a list of one kind, alike for all",
            )
    raise AssertionError(f"{name}: values of one type were taken for mixed")


def _invalid(name: str, value: Any, where: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"{where}.{name} = {quote(value)}: {rule}")


def types_of_schema(schema: Mapping[str, Any]) -> list[tuple[str, pa.DataType]]:
    """Feature names and column types of an Avro record schema; fields of other kinds are passed over."""
    typed = ((field["name"], _type_of_avro(field["type"])) for field in schema.get("fields", ()))
    return [(name, data_type) for name, data_type in typed if data_type is not None]


def _type_of_avro(avro: Any) -> pa.DataType | None:
    if isinstance(avro, list):
        some = [branch for branch in avro if branch != "null"]
        return _type_of_avro(some[0]) if len(some) == 1 else None
    if isinstance(avro, dict) and avro.get("type") == "array":
        item = _type_of_avro(avro["items"])
        return None if item is None or pa.types.is_list(item) else pa.list_(item)
    name = avro.get("type") if isinstance(avro, dict) else avro
    scalars = {"boolean": bool, "int": int, "long": int, "float": float, "double": float, "string": str, "enum": str}
    return _SCALARS[scalars[name]] if isinstance(name, str) and name in scalars else None
