"""Looking at all cells of a store: what is wrong with them, and which of them nobody needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from monobeam.store.bags import PREFIXES
from monobeam.store.bigtable import extras, history
from monobeam.store.bigtable.client import Cell, Client
from monobeam.store.bigtable.ownership import shard_rows
from monobeam.store.bigtable.published import INTENT, PUBLISHED, Intent, Published
from monobeam.store.bigtable.reading import is_published
from monobeam.store.bigtable.wire import (
    ROWS,
    check_sealed,
    delete_cell,
    parameters,
    prefix_of_key,
)
from monobeam.store.chunk import CorruptError

_FAMILY = {"family_name_regex_filter": ROWS}
_EVERYTHING = parameters(0, PREFIXES)


def compact(client: Client, published: Published, progress: Callable[[float], None]) -> None:
    """Leave of every row what counts; for the owner of the whole store, while nothing is being committed.

    One who was paused meanwhile harms nobody: it deletes single cells, and none that may have been published later.
    """
    client.mutate(_needless(client.cells(_EVERYTHING, _FAMILY), published, progress))


def _needless(cells: Iterator[Cell], published: Published, progress: Callable[[float], None]) -> Iterator[bytes]:
    done = 0
    for key, versions in itertools.groupby(cells, lambda cell: cell.key):
        prefix = prefix_of_key(key)
        stored = [cell for cell in versions if cell.stamp <= published.stamp_at(prefix)]
        if prefix >> 8 > done:
            done = prefix >> 8
            progress(done / 256)
        counts = next((cell for cell in stored if published.is_published(cell.stamp, prefix)), None)
        yield from (delete_cell(key, cell.stamp) for cell in stored if cell is not counts or not cell.value)


def forget_void(client: Client, published: Published) -> None:
    """Delete whatever was written late with void stamps that are to be forgotten."""
    stamps = {void.stamp for void in published.old_void}
    if stamps:
        deltas = history.listed_before(client, len(published.layouts))
        history.forget(client, [some for some in deltas if some.stamp in stamps and not is_published(some, published)])
        extras.forget(client, {void.stamp for void in published.old_void if not void.first})


def faults(client: Client) -> Iterator[str]:
    """Cells with wrong checksums, and cells of commits that were neither published nor begun."""
    strays: dict[int, tuple[bytes, int]] = {}
    for cell in client.cells(_EVERYTHING, _FAMILY):
        if cell.value:
            yield from _damage(cell)
        strays[cell.stamp] = cell.key, cell.stamp
    rows = shard_rows(client)
    data = rows.get(0, {}).get(PUBLISHED)
    published = Published.decode(data) if data else None
    intents = [Intent.decode(cells[INTENT]) for cells in rows.values() if INTENT in cells]
    begun = {stamp for intent in intents for stamp in (intent.stamp, *intent.void)}
    newest = max(published.stamps) if published else 0
    for key, stamp in strays.values():
        if stamp > newest and stamp not in begun:
            yield f"row {key!r}: a cell of stamp {stamp}, where {newest} is the newest that was published"
    if published is not None:
        yield from _or_damage(history.read_all(client))
        yield from _or_damage(extras.seen(client, published))


def _damage(cell: Cell) -> Iterator[str]:
    try:
        check_sealed([cell.key], [cell.value])
    except CorruptError as error:
        yield str(error)


def _or_damage(values: Iterator[object]) -> Iterator[str]:
    try:
        for _ in values:
            pass
    except CorruptError as error:
        yield str(error)
