"""Logs in Kafka topics: one Avro datum per message."""

from monobeam.logs.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
