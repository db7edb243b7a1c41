"""What a configuration names, held against what its logs have: a typing error must not train a worthless model.

A feature that no log has would be empty in every example, and a label whose action never comes would never be
positive: both train, to the end and without an error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping

from monobeam.logs import columns
from monobeam.logs.fields import SchemaError, fields
from monobeam.logs.log import Chunk, newest, open_log
from monobeam.logs.pubsub import is_subscription
from monobeam.models.config import Config
from monobeam.models.deepfm import build
from monobeam.models.dense import DenseWeights
from monobeam.models.section import ConfigError, quoted
from monobeam.store import dense
from monobeam.store.backend import AwayError, Backend, CredentialsError, open_backend
from monobeam.store.spec import check_fingerprint
from monobeam.transforms.pubsub import source

_DECODERS = {"impressions": columns.impressions, "actions": columns.actions}


def check_features(config: Config, tailed: bool = False) -> None:
    """Compare features and actions with the newest schemas of the raw logs.

    Raises:
        SystemExit: naming the key, the log and what the log has; also for a log that is not there, unless it is
            ``tailed``, when it may come yet.
    """
    try:
        impressions = _schemas("impressions", config.logs.impressions, tailed)
        actions = _schemas("actions", config.logs.actions, tailed)
        if impressions:
            _check_features(config, impressions)
        _check_actions(config, actions)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None


def warn_without_positives(config: Config, counters: Mapping[str, int]) -> None:
    """Say so on standard error if a bounded run has trained, but on no positive example."""
    if counters.get("ids") and not counters.get("positives"):
        label = next(label for label in config.labels if label.name == config.model.label)
        least = "" if label.min_value is None else f" with a value of at least {label.min_value:g}"
        sys.stderr.write(
            f"warning: no example has the label {quoted(label.name)}: no "
            f"action of the type {quoted(label.action)}{least} "
            f"came within the window in {quoted(config.logs.actions)}; the model has learnt nothing\n"
        )


def check_examples(config: Config, tailed: bool = False) -> None:
    """SystemExit if a bounded training has no examples log to read."""
    if not tailed and not open_log(config.logs.examples).partitions():
        raise SystemExit(_missing("examples", config.logs.examples))


def check_store(config: Config) -> None:
    """SystemExit if the store holds another model: a cluster would only try again and again.

    What nobody can ask now is left to the trainer, which waits for it.
    """
    try:
        backend = open_backend(config.store.uri)
        try:
            _check_model(config, backend)
        finally:
            backend.close()
    except (AwayError, CredentialsError):
        return
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None


def _check_model(config: Config, backend: Backend) -> None:
    stored = backend.manifest()
    if stored is None:
        return
    check_fingerprint(backend.uri, stored.fingerprint, config.store_spec().fingerprint())
    state = None if config.training.parallel else backend.dense()
    if state is not None:
        try:
            DenseWeights(build(config), config.training.dense).restore(dense.decode(state))
        except ValueError as error:
            raise ValueError(f"{backend.uri} holds another model: {error}") from None


def check_slice(config: Config, slice_us: int, runner: str) -> None:
    """SystemExit for slices that cannot follow one another."""
    if config.store.uri == "memory:":
        raise SystemExit("--slice: a slice goes on with the store of the one before it: give --store=lmdb:DIR")
    if config.join.cold == "memory:":
        raise SystemExit(
            "--slice: a slice finds impressions of the one before it in the cold store: give --cold=lmdb:DIR"
        )
    if slice_us < config.join.tick_us:
        raise SystemExit(
            f"--slice: {slice_us / 1e6:g} s: must not be shorter than a tick, {config.join.tick_us / 1e6:g} s"
        )
    if runner.endswith("DataflowRunner"):
        raise SystemExit(
            "--slice: this command does not wait for jobs on Dataflow: submit one after the other, each with --since "
            "and --until"
        )


def check_partitions(config: Config, numbers: Collection[int]) -> None:
    """SystemExit for partitions that there are not, or a part of them where training cannot be shared."""
    there = range(config.join.shards)
    if strange := sorted(set(numbers) - set(there)):
        raise SystemExit(f"--partitions: {strange}: with join.shards = {len(there)} there are 0 to {there[-1]}")
    if set(numbers) != set(there) and not config.training.parallel:
        raise SystemExit(
            f"--partitions: {sorted(numbers)} of {len(there)}: needs parallel = true under [training], or one trainer "
            "must have them all"
        )


def _schemas(kind: str, uris: tuple[str, ...], tailed: bool) -> dict[str, list[str]]:
    """The newest Avro schema of every partition that has records, by log."""
    found: dict[str, list[str]] = {}
    for uri in uris:
        if is_subscription(uri):  # its records are there when they come, but their schema is known
            found[uri] = [_schema_of_messages(kind, uri)]
            continue
        log = open_log(uri)
        partitions = log.partitions()
        if not partitions and not tailed:
            raise ConfigError(_missing(kind, uri))
        for number in partitions:
            if (last := newest(log, number)) is not None:
                _check_schema(kind, uri, last)
                found.setdefault(uri, []).append(last.schema)
    return found


def _schema_of_messages(kind: str, uri: str) -> str:
    schema = source(kind, uri).schema
    try:
        columns.check_schema(schema, kind)
    except SchemaError as error:
        raise ConfigError(f"logs.{kind} = {quoted(uri)}: {error}") from None
    return schema


def _missing(kind: str, uri: str) -> str:
    return f"logs.{kind} = {quoted(uri)}: there is no such log: no partitions and no Avro files"


def _check_schema(kind: str, uri: str, last: Chunk) -> None:
    """ConfigError if the join would reject every record with this schema."""
    for reject in _DECODERS[kind](last, uri, time.time_ns() // 1000).rejects:
        if reject.reason.startswith("schema: "):
            raise ConfigError(f"logs.{kind} = {quoted(uri)}: {reject.reason.removeprefix('schema: ')}")


def _check_features(config: Config, schemas: Mapping[str, list[str]]) -> None:
    having = [(uri, fields(schema)) for uri, several in schemas.items() for schema in several]
    known = sorted({name for _, found in having for name in found.columns} - {"impression_id", "time"})
    for key, feature in config.features():
        for uri, found in having:
            if feature in found.others:
                raise ConfigError(
                    f"{key} = {quoted(feature)}: in {uri} it is {found.others[feature]}, which no feature can be"
                )
            if key.startswith("numerics") and feature in found.columns and found.columns[feature].is_list:
                raise ConfigError(
                    f"{key} = {quoted(feature)}: in {uri} it is a list of {found.columns[feature].base}, not one number"
                )
        if feature not in known:
            raise ConfigError(f"{key} = {quoted(feature)}: not in {', '.join(schemas)}; it has {', '.join(known)}")


def _check_actions(config: Config, schemas: Mapping[str, list[str]]) -> None:
    """An action's type may be an enum: then its symbols are all there can be."""
    types = [fields(schema).columns["type"] for several in schemas.values() for schema in several]
    if not types or not all(field.symbols for field in types):
        return
    known = sorted({symbol for field in types for symbol in field.symbols})
    for place, label in enumerate(config.labels):
        if label.action not in known:
            raise ConfigError(
                f"labels[{place}].action = {quoted(label.action)}: not in {', '.join(schemas)}; "
                f"it has {', '.join(known)}"
            )
