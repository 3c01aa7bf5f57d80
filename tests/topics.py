"""Topics of their own on the session's broker, for one test."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition  # noqa: TID253 a test needs it
from kafka.admin import NewPartitions, NewTopic  # noqa: TID253
from kafka.errors import RetriableError  # noqa: TID253

from peachctl.bus import kafka_start
from peachctl.bus.kafka_client import patiently
from tests.servers.kafka import Broker

_counter = itertools.count()


@dataclass
class Topics:
    """The four topics of an installation, and what a client does with them."""

    broker: Broker
    admin: KafkaAdminClient
    producer: KafkaProducer
    prefix: str = field(default_factory=lambda: f"test-{os.getpid()}-{next(_counter)}")

    @property
    def execute(self) -> str:
        return f"{self.prefix}-execute"

    @property
    def processed(self) -> str:
        return f"{self.prefix}-processed"

    @property
    def services(self) -> str:
        return f"{self.prefix}-services"

    @property
    def dead(self) -> str:
        return f"{self.prefix}-dead"

    @property
    def group_execute(self) -> str:
        return f"{self.prefix}-executors"

    @property
    def group_ingest(self) -> str:
        return f"{self.prefix}-ingest"

    def create(self, *topics: str, partitions: int = 1, **settings: str) -> None:
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        self.admin.create_topics([NewTopic(one, partitions, 1, topic_configs=configs) for one in topics])
        self.admin.wait_for_topics(list(topics))

    def create_all(self) -> None:
        self.create(self.execute, self.processed, self.services, self.dead)

    def widen(self, topic: str, partitions: int) -> None:
        self.admin.create_partitions({topic: NewPartitions(partitions)})
        self.admin.wait_for_topics([topic])

    def send(self, topic: str, body: bytes, partition: int | None = None, **headers: bytes) -> Any:
        return self.producer.send(topic, body, partition=partition, headers=list(headers.items())).get(10)

    def records(self, topic: str) -> list[Any]:
        """All that stands in partition 0 of a topic now."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker.address(), enable_auto_commit=False)
        one = TopicPartition(topic, 0)
        consumer.assign([one])
        consumer.seek_to_beginning(one)
        end = consumer.end_offsets([one])[one]
        found: list[Any] = []
        while consumer.position(one) < end:
            found += consumer.poll(timeout_ms=500).get(one, [])
        consumer.close()
        return found

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        # A broker that has just started chooses its coordinators when the first one asks.
        try:
            found = patiently(lambda: self.admin.list_group_offsets({group: None}).get(group, {}))
        except RetriableError:
            return None
        kept = found.get(TopicPartition(topic, partition))
        return None if kept is None else int(kept.offset)

    def end(self, topic: str, partition: int = 0) -> int:
        """The offset behind the last record."""
        tp = TopicPartition(topic, partition)
        return int(kafka_start.offsets(self.admin, {tp: kafka_start.LATEST})[tp])

    def try_to_set(self, group: str, offsets: dict[TopicPartition, int]) -> bool:
        """Sets a group's offsets; False where it has members that forbid it."""
        return kafka_start.alter(self.admin, group, offsets)

    def pretend(self, group: str, topic: str, offset: int) -> None:
        """Has a group committed an offset."""
        at = {TopicPartition(topic, 0): OffsetAndMetadata(offset, "", -1)}
        patiently(lambda: self.admin.alter_group_offsets(group, at))

    def environment(self) -> dict[str, str]:
        return {
            "PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": self.broker.address(),
            "PEACHCTL_KAFKA__TOPIC_EXECUTE": self.execute,
            "PEACHCTL_KAFKA__TOPIC_PROCESSED": self.processed,
            "PEACHCTL_KAFKA__TOPIC_SERVICES": self.services,
            "PEACHCTL_KAFKA__TOPIC_DEAD": self.dead,
            "PEACHCTL_KAFKA__GROUP_EXECUTE": self.group_execute,
            "PEACHCTL_KAFKA__GROUP_INGEST": self.group_ingest,
        }


@contextmanager
def on(broker: Broker) -> Iterator[Topics]:
    admin = KafkaAdminClient(bootstrap_servers=broker.address())
    producer = KafkaProducer(
        bootstrap_servers=broker.address(), acks="all", enable_idempotence=False, max_request_size=4 << 20
    )
    try:
        yield Topics(broker, admin, producer)
    finally:
        producer.close(timeout=2)
        admin.close()
