"""The native core: the collisionless embedding table, and the 64-bit hashes that feature ids are made of."""

from monobeam.native._core import NONE, Room, Table, hash_ints, hash_strings
from monobeam.native.columns import hash_column

__all__ = ["NONE", "Room", "Table", "hash_column", "hash_ints", "hash_strings"]
