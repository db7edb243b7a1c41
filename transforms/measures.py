"""What a job measures of itself, as distributions of Beam beside its counters."""

from __future__ import annotations

from apache_beam.metrics import Metrics

MEASURES = {
    "read": ("bundle_records", "lag_ms"),
    "join": ("late_ms", "block_examples"),
    "train": ("commit_ms", "commit_examples", "freshness_ms"),
}
"""By step; docs/operations.md says what each means."""


def measure(step: str, name: str, value: float) -> None:
    """Add a value to the distribution ``monobeam.STEP / NAME`` of the bundle at work."""
    assert name in MEASURES[step], name
    Metrics.distribution(f"monobeam.{step}", name).update(int(value))
