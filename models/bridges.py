"""From a configuration to the settings of the engines that it configures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monobeam.join.settings import JoinSettings
from monobeam.models import dense_table, tails
from monobeam.store.spec import StoreSpec

if TYPE_CHECKING:
    from monobeam.models.config import Config


def store_spec(config: Config) -> StoreSpec:
    """The tables of the model's ids, and of its dense weights if trainers share them, in a store as configured."""
    return StoreSpec(
        model=config.model.name,
        tables=(*tails.tables(config), *dense_table.tables(config)),
        shards=config.store.shards,
        sync_dtype=config.store.sync_dtype,
        example_retention_us=config.training.example_retention_us,
        memory_limit=config.store.memory_limit,
        fixed={"tails": tails.fixed(config)},
    )


def join_settings(config: Config, shard: int, since_us: int | None, until_us: int | None) -> JoinSettings:
    """The settings of one shard of the join."""
    join = config.join
    return JoinSettings(
        window_us=join.window_us,
        retention_us=join.retention_us,
        tick_us=join.tick_us,
        labels=config.labels,
        policy=join.policy,
        negative_rate=join.negative_rate,
        seed=join.seed,
        max_block_rows=join.max_block_rows,
        shard=shard,
        shards=join.shards,
        since_us=since_us,
        until_us=until_us,
    )
