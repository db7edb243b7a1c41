"""What one recommender is: its logs, labels, features, model and training, from one TOML file.

``parse`` and ``load`` give a frozen ``Config``; whatever they refuse they quote, with the key and with what is
allowed. Every duration is an ``int`` of microseconds here and a string ("250ms", "10s", "7d") in the file. The file's
keys are described with the fields below; docs and defaults are the same for a key and its field.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monobeam.join.policy import POLICIES
from monobeam.join.settings import JoinSettings, Label
from monobeam.models import addresses, bridges, optimizers, tails
from monobeam.models.optimizers import OptimizerConfig, SparseConfig
from monobeam.models.section import ConfigError, Section, quoted
from monobeam.store.spec import DAY_US, DTYPES, MAX_SLOT, ROW_FORMATS

if TYPE_CHECKING:
    from monobeam.store.spec import StoreSpec

__all__ = ["Config", "ConfigError", "load", "parse"]

CASTS = ("string", "int", "double")
TRANSFORMS = ("identity", "log1p")
KINDS = ("deepfm", "fm", "lr")
CORRECTIONS = ("train", "skip")
RESERVED = ("impression_id", "time")


@dataclass(frozen=True)
class LogsConfig:
    """Addresses of the logs, what bounds their disorder, and how they are tailed.

    ``partitions``: a raw log is read as having so many even while fewer are there.
    """

    impressions: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    examples: str = "file:examples"
    sync: str = "file:sync"
    dead_letters: str = "file:dead_letters"
    metrics: str = "file:metrics"
    disorder_us: int = 1_000_000
    idle_after_us: int = 5_000_000
    poll_every_us: int = 50_000
    partitions: int = 1

    def __post_init__(self) -> None:
        for name, uri in [("impressions", uri) for uri in self.impressions] + [
            ("actions", uri) for uri in self.actions
        ]:
            addresses.check_log(name, uri, raw=True)
        for name in ("examples", "sync", "dead_letters", "metrics"):
            addresses.check_log(name, getattr(self, name), raw=False)


@dataclass(frozen=True)
class StoreConfig:
    """Where parameters live, and how often they become durable (commit) and reach serving (dense weights).

    ``memory_limit``: bytes of the trainer's tables, all together; 0: what the machine has.
    """

    uri: str = "lmdb:store"
    shards: int = 1
    commit_every_us: int = 1_000_000
    dense_sync_every_us: int = 60_000_000
    sync_dtype: str = "fp32"
    memory_limit: int = 0

    def __post_init__(self) -> None:
        addresses.check(addresses.STORE, "store.uri", self.uri)


@dataclass(frozen=True)
class ServingConfig:
    """How a replica keeps rows in memory (``rows``, one of ROW_FORMATS), and the most of it (bytes; 0: any)."""

    rows: str = "fp32"
    memory_limit: int = 0


@dataclass(frozen=True)
class JoinConfig:
    """How impressions and actions become examples; the fields mean what they mean in the join's own settings."""

    window_us: int
    retention_us: int
    policy: str = "wait"
    tick_us: int = 1_000_000
    shards: int = 1
    max_block_rows: int = 1024
    negative_rate: float = 1.0
    seed: int = 0
    cold: str = "lmdb:cold"

    def __post_init__(self) -> None:
        addresses.check(addresses.COLD, "join.cold", self.cold)


@dataclass(frozen=True)
class SlotConfig:
    """One categorical field: one feature, or a cross (every combination) of several.

    ``slot`` (1..32767) is the upper part of its ids and never changes; in the file it is by default the place in the
    order of ``[[slots]]``, counted from 1. ``cast`` turns values into another type before hashing. ``pending_us``: how
    long sightings of ids that are not admitted count; 0: as ``expire_us``, or 30 days where rows never expire.
    ``tail``: what stands for these ids; composed tails have ``tail_rows`` shared rows in each of two partitions.
    """

    name: str
    features: tuple[str, ...]
    slot: int
    cast: str | None = None
    admit_count: int = 0
    admit_probability: float = 1.0
    expire_us: int = 0
    tail: str = "none"
    tail_rows: int = 0
    pending_us: int = 0


@dataclass(frozen=True)
class NumericConfig:
    """One dense input: ``(transform(value) - shift) * scale``; log1p is ``sign(v) * log(1 + |v|)``."""

    feature: str
    transform: str = "identity"
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The torch model: ``dim`` factors for each id, ``hidden`` widths of the deep part, trained on ``label``.

    ``tail_dim``: factors of the rows of narrow tails.
    """

    name: str
    label: str
    kind: str = "deepfm"
    dim: int = 10
    hidden: tuple[int, ...] = (64, 64)
    seed: int = 0
    init_scale: float = 0.01
    tail_dim: int = 4


@dataclass(frozen=True)
class TrainingConfig:
    """How parameters learn.

    ``corrections`` says whether late positives are trained on ("train") or not ("skip"). ``parallel``: several trainers
    learn at once, each from partitions of its own, and dense weights are rows of the store.
    """

    sparse: SparseConfig
    dense: OptimizerConfig
    corrections: str = "train"
    example_retention_us: int = 7 * DAY_US
    parallel: bool = False


@dataclass(frozen=True)
class Config:
    """Everything about one recommender; equal files give equal values."""

    model: ModelConfig
    slots: tuple[SlotConfig, ...]
    numerics: tuple[NumericConfig, ...]
    labels: tuple[Label, ...]
    join: JoinConfig
    training: TrainingConfig
    logs: LogsConfig
    store: StoreConfig
    serving: ServingConfig

    def join_settings(self, shard: int, since_us: int | None = None, until_us: int | None = None) -> JoinSettings:
        """The settings of the join engine of one shard; ``since_us`` and ``until_us`` bound the decisions it emits."""
        return bridges.join_settings(self, shard, since_us, until_us)

    def features(self) -> Iterator[tuple[str, str]]:
        """Every feature that the model takes, with the key of the file that names it."""
        for place, slot in enumerate(self.slots):
            key = f"slots[{place}].feature" + ("s" if len(slot.features) > 1 else "")
            yield from ((key, feature) for feature in slot.features)
        yield from ((f"numerics[{place}].feature", numeric.feature) for place, numeric in enumerate(self.numerics))

    def store_spec(self) -> StoreSpec:
        """The parameter store of this model: a table of rows [linear weight | ``dim`` factors], and those of tails."""
        return bridges.store_spec(self)


def load(path: str | Path) -> Config:
    """Read a TOML file; OSError where it cannot be read, ConfigError (naming the file) where it cannot be used."""
    try:
        return parse(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(text: str) -> Config:
    """Parse the text of a TOML file."""
    try:
        root = Section("", tomllib.loads(text))
    except ValueError as error:  # tomllib's own, and Python's of a number with too many digits
        raise ConfigError(f"not TOML: {error}") from None
    lists = {key: root.tables(key) for key in ("labels", "slots", "numerics")}
    tables = {key: root.table(key) for key in ("model", "join", "training", "logs", "store", "serving")}
    root.close()
    store = _closed(_store, tables["store"])
    config = Config(
        model=_closed(_model, tables["model"]),
        slots=tuple(_closed(_slot, section, i + 1) for i, section in enumerate(lists["slots"])),
        numerics=tuple(_closed(_numeric, section) for section in lists["numerics"]),
        labels=tuple(_closed(_label, section) for section in lists["labels"]),
        join=_closed(_join, tables["join"]),
        training=_closed(_training, tables["training"]),
        logs=_closed(_logs, tables["logs"]),
        store=store,
        serving=_closed(_serving, tables["serving"], store.sync_dtype),
    )
    _check(config, tables["model"])
    return config


def _closed(read: Callable[..., Any], section: Section, *arguments: Any) -> Any:
    value = read(section, *arguments)
    section.close()
    return value


def _logs(section: Section) -> LogsConfig:
    return LogsConfig(
        impressions=section.strings("impressions", ["file:impressions"]),
        actions=section.strings("actions", ["file:actions"]),
        examples=section.string("examples", LogsConfig.examples),
        sync=section.string("sync", LogsConfig.sync),
        dead_letters=section.string("dead_letters", LogsConfig.dead_letters),
        metrics=section.string("metrics", LogsConfig.metrics),
        disorder_us=section.duration("disorder", "1s"),
        idle_after_us=section.duration("idle_after", "5s", low="1ms"),
        poll_every_us=section.duration("poll_every", "50ms", low="1ms"),
        partitions=section.integer("partitions", LogsConfig.partitions, low=1, high=2**16),
    )


def _store(section: Section) -> StoreConfig:
    return StoreConfig(
        uri=section.string("uri", StoreConfig.uri),
        shards=section.integer("shards", StoreConfig.shards, low=1, high=2**16),
        commit_every_us=section.duration("commit_every", "1s", low="1ms"),  # it is how long is trained at a time
        dense_sync_every_us=section.duration("dense_sync_every", "60s"),
        sync_dtype=section.choice("sync_dtype", DTYPES, StoreConfig.sync_dtype),
        memory_limit=section.size("memory_limit"),
    )


def _serving(section: Section, sync_dtype: str) -> ServingConfig:
    return ServingConfig(section.choice("rows", ROW_FORMATS, sync_dtype), section.size("memory_limit"))


def _join(section: Section) -> JoinConfig:
    window_us = section.duration("window", low="1us")
    join = JoinConfig(
        window_us=window_us,
        retention_us=section.duration("retention") if "retention" in section else max(DAY_US, window_us),
        policy=section.choice("policy", tuple(POLICIES), JoinConfig.policy),
        tick_us=section.duration("tick", "1s", low="1ms"),
        shards=section.integer("shards", JoinConfig.shards, low=1, high=2**16),
        max_block_rows=section.integer("max_block_rows", JoinConfig.max_block_rows, low=1, high=2**24),
        negative_rate=section.number("negative_rate", JoinConfig.negative_rate, low=0.0, high=1.0),
        seed=section.integer("seed", JoinConfig.seed, low=0),
        cold=section.string("cold", JoinConfig.cold),
    )
    if join.tick_us % 1000:
        raise section.error("tick", "must be whole milliseconds, as Beam's timers are")
    if join.retention_us < window_us:
        raise section.error("retention", f"must not be shorter than the window, {section.quoted('window')}")
    if join.negative_rate == 0:
        raise section.error("negative_rate", "must lie in (0, 1]: a model needs negatives to learn from")
    return join


def _label(section: Section) -> Label:
    minimum = section.number("min_value") if "min_value" in section else None
    return Label(section.string("name"), section.string("action"), minimum)


def _slot(section: Section, place: int) -> SlotConfig:
    if "feature" in section and "features" in section:
        raise section.error("features", 'give either feature = "..." or, for a cross, features = ["...", "..."]')
    features = section.strings("features") if "features" in section else (section.string("feature"),)
    if len(set(features)) < len(features):
        raise section.error("features", "a cross of a feature with itself says nothing: they must differ")
    expire_us = section.duration("expire", "0s")
    if 0 < expire_us < 1_000_000:
        raise section.error("expire", 'whole seconds count: must be at least "1s", or "0s" for never')
    admit_count = section.integer("admit_count", 0, low=0, high=2**31 - 2)
    admit_probability = section.number("admit_probability", 1.0, low=0.0, high=1.0)
    tail, tail_rows = tails.read(section, admit_count, admit_probability)
    pending_us = section.duration("pending", low="1s") if "pending" in section else 0
    if pending_us and admit_count < 2 and admit_probability == 1:
        raise section.error("pending", "no id waits: needs admit_count from 2, or admit_probability below 1")
    return SlotConfig(
        name=section.string("name", " x ".join(features)),
        features=features,
        slot=section.integer("slot", place, low=1, high=MAX_SLOT),
        cast=section.choice("cast", CASTS) if "cast" in section else None,
        admit_count=admit_count,
        admit_probability=admit_probability,
        expire_us=expire_us,
        tail=tail,
        tail_rows=tail_rows,
        pending_us=pending_us,
    )


def _numeric(section: Section) -> NumericConfig:
    return NumericConfig(
        feature=section.string("feature"),
        transform=section.choice("transform", TRANSFORMS, NumericConfig.transform),
        shift=section.number("shift", NumericConfig.shift),
        scale=section.number("scale", NumericConfig.scale),
    )


def _model(section: Section) -> ModelConfig:
    return ModelConfig(
        name=section.string("name"),
        label=section.string("label"),
        kind=section.choice("kind", KINDS, ModelConfig.kind),
        dim=section.integer("dim", ModelConfig.dim, low=1, high=4096),
        hidden=section.integers("hidden", ModelConfig.hidden, high=2**16),
        seed=section.integer("seed", ModelConfig.seed, low=0),
        init_scale=section.number("init_scale", ModelConfig.init_scale, low=0.0),
        tail_dim=section.integer("tail_dim", ModelConfig.tail_dim, low=1, high=4096),
    )


def _training(section: Section) -> TrainingConfig:
    return TrainingConfig(
        sparse=_closed(optimizers.sparse, section.table("sparse")),
        dense=_closed(optimizers.dense, section.table("dense")),
        corrections=section.choice("corrections", CORRECTIONS, TrainingConfig.corrections),
        example_retention_us=section.duration("example_retention", "7d", low="1s"),
        parallel=section.boolean("parallel", TrainingConfig.parallel),
    )


def _check(config: Config, model: Section) -> None:
    """What only the sections together can tell."""
    if not config.slots:
        raise ConfigError("slots = []: a model needs at least one [[slots]]")
    names = [label.name for label in config.labels]
    if config.model.label not in names:
        raise ConfigError(
            f"model.label = {quoted(config.model.label)}: must be the name of one of the [[labels]]: {quoted(names)}"
        )
    if config.join.policy == "at_once" and config.training.corrections == "skip":
        raise ConfigError(
            'training.corrections = "skip": must be train with join.policy = "at_once", or no example is positive'
        )
    tails.check(config, model)
    _distinct("labels", "name", names)
    _distinct("slots", "name", [slot.name for slot in config.slots])
    _distinct("slots", "slot", [slot.slot for slot in config.slots])
    _distinct("numerics", "feature", [numeric.feature for numeric in config.numerics])
    for key, feature in config.features():
        if feature in RESERVED or feature.startswith("_"):
            raise ConfigError(
                f"{key} = {quoted(feature)}: no feature: impression_id, time and names that start with _ are reserved"
            )


def _distinct(section: str, key: str, values: list[Any]) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(
                f"{section}[{i}].{key} = {quoted(value)}: already used by {section}[{values.index(value)}]; must differ"
            )
