"""Puts the logs that ``generate`` wrote into Kafka, as a site would that logs there."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from monobeam.logs.log import newest, open_log, records

CHUNK = 5000


def publish(source: str, target: str) -> int:
    """Append all records of one log to another, in the schema that they have; how many. ValueError if there is none."""
    log, offset = open_log(source), 0
    last = newest(log, 0)
    if last is None:
        raise ValueError(f"{source}: no records; `python -m examples.own_logs.generate` writes some")
    with open_log(target, partitions=1).appender(0, json.loads(last.schema)) as appender:
        while chunks := log.read(0, offset, CHUNK):
            appender.append(records(chunks))
            offset = chunks[-1].end
    return offset


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m examples.own_logs.publish``."""
    parser = argparse.ArgumentParser(prog="python -m examples.own_logs.publish", description=__doc__)
    parser.add_argument("--broker", default="127.0.0.1:9092", help="HOST:PORT (default: %(default)s)")
    parser.add_argument("--source", type=Path, default=Path("runs/own_logs"), help="folder to read from")
    options = parser.parse_args(argv)
    for name in ("shown", "clicked"):
        target = f"kafka://{options.broker}/{name}"
        try:
            print(f"{target}: {publish(f'file:{options.source / name}', target)} records")
        except (OSError, ValueError) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
