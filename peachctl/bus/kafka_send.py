"""Sends messages to a topic of Kafka, one at a time: for `submit` and for the service list.

A message is sent when all replicas that are in step have it (`acks=all`) and its future says so; the library's `flush`
says nothing. One at a time, because the library puts several into one batch, and then all of them share the fate of
one that is too large. After an error that is final its producer answers every later message with that error, so it is
thrown away and the next message gets another.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka.errors import (  # noqa: TID253 imported late
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

from peachctl.bus import MessageTooLarge
from peachctl.bus.kafka_client import (
    Settings,
    border,
    close_producer,
    no_topic,
    open_admin,
    open_producer,
    partitions,
    reach,
    translated,
)
from peachctl.errors import PeachError
from peachctl.store import Origin

# Seconds. All that a command waits for has to stay below 30: for the topic (5 s), the broker's answer, and the goodbye.
_DELIVERY = 15.0
_REPLY = 18.0  # the producer's own time-outs are shorter
_BLOCKED = 10.0  # whoever waited longer had the topic, and an answer to why it failed would take too long


class KafkaSender:
    """largest: bytes of a message. patience: seconds for which Kafka is waited for where it is away."""

    def __init__(self, to: Settings, largest: int, patience: float) -> None:
        self._to = to
        self._largest = largest
        self._patience = patience
        self._producer: Any = None

    def connect(self) -> None:
        """Raises UnreachableError, RefusedError."""
        if self._producer is None:
            reach(self._to, self._patience)
            self._producer = open_producer(self._to, self._largest, _DELIVERY)

    def send(self, topic: str, body: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Origin:
        """Returns where the message stands. Raises MessageTooLarge, RefusedError, TopicMissing, and
        UnreachableError: then it may or may not stand there."""
        self.connect()
        began = time.monotonic()
        try:
            told = self._producer.send(topic, body, headers=list(headers)).get(timeout=_REPLY)
        except KafkaError as error:
            self.close()
            raise self._meaning(topic, len(body), error, time.monotonic() - began) from error
        return Origin(told.topic, told.partition, told.offset)

    def _meaning(self, topic: str, size: int, error: KafkaError, waited: float) -> PeachError:
        if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            return MessageTooLarge(
                f"a message of {size} bytes is more than Kafka takes for the topic {topic}",
                f"raise its max.message.bytes: kafka-configs.sh --alter --entity-type topics --entity-name {topic} ...",
            )
        # The library asks for a topic that is not there until its time is over, and then names no cause.
        unknown = isinstance(error, KafkaTimeoutError | UnknownTopicOrPartitionError)
        if unknown and waited < _BLOCKED and self._lacks(topic):
            return no_topic(self._to, topic)
        return translated(error, self._to, f"a message to the topic {topic} was not acknowledged")

    def _lacks(self, topic: str) -> bool:
        """Whether there is a broker that says that there is no such topic."""
        try:
            with border(self._to, "the topics cannot be listed"), closing(open_admin(self._to)) as admin:
                return not partitions(admin, topic)
        except PeachError:
            return False

    def close(self) -> None:
        """Never raises, and waits some seconds at most."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, 2.0)
