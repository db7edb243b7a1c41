"""A Flink cluster on this machine."""
