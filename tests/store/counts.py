"""What a store has learnt, counted."""

from __future__ import annotations

from monobeam.store.store import Store


def update_count_sum(store: Store) -> int:
    """How often the rows of all tables were updated."""
    return sum(table.update_count_sum for shard in store.host.shards.values() for table in shard.tables.values())
