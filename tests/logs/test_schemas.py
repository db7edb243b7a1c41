from __future__ import annotations

from typing import Any

import pytest

from monobeam.logs import schemas
from monobeam.logs.log import open_log, records

RECORDS = {
    "EXAMPLES": {"shard": 1, "tick": 2**40, "count": 3, "block": b"\x00\xff"},
    "DEAD_LETTERS": {
        "log": "served",
        "partition": 1,
        "offset": 2**40,
        "count": 3,
        "reason": "time 0: must be after 1970",
        "time": 2**50,
        "payload": b"\x00\xff",
    },
    "METRICS": {
        "component": "trainer",
        "key": "0",
        "position": 5,
        "time": 2**50,
        "values": {"auc": 0.5},
        "arrays": {"scores": [0.25, 1.0], "none": []},
    },
}


@pytest.mark.parametrize("name", RECORDS)
def test_our_own_logs_come_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = open_log(str(tmp_path_factory.mktemp("log")))
    record: dict[str, Any] = RECORDS[name]
    with log.appender(0, getattr(schemas, name)) as appender:
        appender.append([record, record])
        with pytest.raises(ValueError, match="does not fit"):
            appender.append([dict.fromkeys(record)])
    assert records(log.read(0, 0, 10)) == [record, record]
