"""Writes two small logs as a news site might have them: articles that were shown, and clicks.

They are plain Avro container files, written with fastavro alone: this is what your own logs may look like. Readers of
each topic click articles of "their" topic far more often, so a model that has learnt something ranks those first.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import fastavro

TOPICS = ["politics", "sport", "science", "travel"]
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z

SHOWN = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Shown",
        "fields": [
            {"name": "impression_id", "type": "string"},
            {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "reader", "type": "long"},
            {"name": "device", "type": {"type": "enum", "name": "Device", "symbols": ["phone", "tablet", "desktop"]}},
            {"name": "article", "type": "string"},
            {"name": "topics", "type": {"type": "array", "items": "string"}},
            {"name": "words", "type": ["null", "int"]},
        ],
    }
)
CLICKED = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Clicked",
        "fields": [
            {"name": "impression_id", "type": "string"},
            {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "type", "type": "string"},
            {"name": "value", "type": ["null", "double"]},
        ],
    }
)


def generate(count: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """``count`` impressions, ten a second, and the clicks on them, one in three or so."""
    rng = random.Random(seed)
    shown, clicked = [], []
    for number in range(count):
        reader, article = rng.randrange(200), rng.randrange(400)
        topic = TOPICS[article % len(TOPICS)]
        impression: dict[str, Any] = {
            "impression_id": f"news-{number}",
            "time": START_MS + 100 * number,
            "reader": reader,
            "device": rng.choice(["phone", "tablet", "desktop"]),
            "article": f"article-{article}",
            "topics": [topic] if article % 3 else [topic, "local"],
            "words": rng.choice([None, 300, 800, 2000]),
        }
        shown.append(impression)
        if rng.random() < (0.7 if TOPICS[reader % len(TOPICS)] == topic else 0.1):
            delay_ms = rng.randrange(1_000, 9_000)
            click = {"impression_id": impression["impression_id"], "type": "click", "value": None}
            clicked.append({**click, "time": impression["time"] + delay_ms})
    return shown, sorted(clicked, key=lambda click: click["time"])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m examples.own_logs.generate``."""
    parser = argparse.ArgumentParser(prog="python -m examples.own_logs.generate", description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("runs/own_logs"), help="folder to write to")
    parser.add_argument("--count", type=_count, default=20_000, help="how many articles are shown (default: 20000)")
    options = parser.parse_args(argv)
    shown, clicked = generate(options.count, seed=1)
    for name, schema, records in (("shown", SHOWN, shown), ("clicked", CLICKED, clicked)):
        path = options.to / name / "2026-01-01.avro"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            fastavro.writer(file, schema, records, codec="deflate")


if __name__ == "__main__":
    main()
