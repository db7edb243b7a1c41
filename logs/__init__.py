"""Partitioned, append-only logs of Avro records, and the columnar blocks that they become."""
