"""The store in Google Cloud Bigtable."""

from __future__ import annotations

from monobeam.store.bigtable.backend import BigtableBackend
from monobeam.store.bigtable.tables import create, drop

__all__ = ["BigtableBackend", "create", "drop"]
