"""Making and dropping the table of a store."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import duration_pb2, empty_pb2

from monobeam.store.backend import BackendError
from monobeam.store.bigtable.channel import channel, status_of
from monobeam.store.bigtable.client import Address
from monobeam.store.bigtable.wire import ROWS, STATE

SERVICE = "bigtableadmin.googleapis.com:443"
SCOPES = ("https://www.googleapis.com/auth/bigtable.admin.table",)
TIMEOUT_S = 120.0
_DAY_S = 86_400
_KEPT_VERSIONS = 512  # more than the owner keeps: a reader may need an old version that many new ones have followed


def create(uri: str) -> bool:
    """Make the table of a store, with its families, in an instance that exists; False if it was there already.

    One that is there without the families gets them.
    """
    from google.cloud.bigtable_admin_v2.types import bigtable_table_admin as messages
    from google.cloud.bigtable_admin_v2.types import table as schema

    address, families, answer = Address.parse(uri), _families(), schema.Table.pb()
    request = messages.CreateTableRequest.pb()(
        parent=address.parent, table_id=address.table, table=answer(column_families=families)
    )
    metadata = f"parent={address.parent}"
    if _call(address, "CreateTable", request, answer, metadata, grpc.StatusCode.ALREADY_EXISTS) is not None:
        return True
    metadata = f"name={address.name}"
    there = _call(address, "GetTable", messages.GetTableRequest.pb()(name=address.name), answer, metadata)
    modify = messages.ModifyColumnFamiliesRequest.pb()
    missing = [modify.Modification(id=name, create=families[name]) for name in families.keys() - there.column_families]
    if missing:
        request = modify(name=address.name, modifications=missing)
        _call(address, "ModifyColumnFamilies", request, answer, metadata)
    return False


def _families() -> dict[str, Any]:
    from google.cloud.bigtable_admin_v2.types import table as schema

    rule = schema.GcRule.pb()
    # History is trimmed by its owner; this is for what a writer that was never heard of again left.
    old = rule(max_age=duration_pb2.Duration(seconds=_DAY_S))
    many = rule(max_num_versions=_KEPT_VERSIONS)
    return {
        ROWS: schema.ColumnFamily.pb()(gc_rule=rule(intersection=rule.Intersection(rules=[old, many]))),
        STATE: schema.ColumnFamily.pb()(gc_rule=rule(max_num_versions=1)),
    }


def drop(uri: str) -> bool:
    """Delete the table of a store; False if there was none."""
    from google.cloud.bigtable_admin_v2.types import bigtable_table_admin as messages

    address = Address.parse(uri)
    request = messages.DeleteTableRequest.pb()(name=address.name)
    metadata = f"name={address.name}"
    return _call(address, "DeleteTable", request, empty_pb2.Empty, metadata, grpc.StatusCode.NOT_FOUND) is not None


def tables(uri: str) -> list[str]:
    """The ids of all tables in a table's instance."""
    from google.cloud.bigtable_admin_v2.types import bigtable_table_admin as messages

    address = Address.parse(uri)
    names: list[str] = []
    page = ""
    while True:
        request = messages.ListTablesRequest.pb()(parent=address.parent, page_token=page)
        answer = _call(address, "ListTables", request, messages.ListTablesResponse.pb(), f"parent={address.parent}")
        names += [table.name.rsplit("/", 1)[-1] for table in answer.tables]
        page = answer.next_page_token
        if not page:
            return names


def _call(
    address: Address, method: str, request: Any, answer: Any, metadata: str, harmless: grpc.StatusCode | None = None
) -> Any:
    """What the table admin API answers; None where it ends with the harmless code."""
    with channel(SERVICE, SCOPES) as service:
        call = service.unary_unary(
            f"/google.bigtable.admin.v2.BigtableTableAdmin/{method}",
            type(request).SerializeToString,
            answer.FromString,
        )
        try:
            return call(request, timeout=TIMEOUT_S, metadata=[("x-goog-request-params", metadata)])
        except grpc.RpcError as error:
            code, detail = status_of(error)
            if harmless is not None and code == harmless.value[0]:
                return None
            raise BackendError(f"{address.uri}: {method}: {detail}") from error
