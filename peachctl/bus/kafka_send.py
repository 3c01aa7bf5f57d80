"""Sends messages to a topic of Kafka, one at a time: for `submit` and for the service list.

A message is sent when all replicas that are in step have it (`acks=all`) and its future says so; the library's `flush`
says nothing. One at a time, because the library puts several into one batch, and then all of them share the fate of
one that is too large. After an error that is final its producer answers every later message with that error, so it is
thrown away and the next message gets another.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from peachctl.bus import MessageTooLarge
from peachctl.errors import PeachError, UnreachableError
from peachctl.store import Origin

logger = logging.getLogger(__name__)


class KafkaSender:
    """open_producer: makes a KafkaProducer; raises PeachError where the broker cannot be reached or refuses. timeout:
    seconds after which a message that was not acknowledged is given up (the producer's own time-outs are shorter)."""

    def __init__(self, open_producer: Callable[[], Any], timeout: float = 35.0) -> None:
        self._open_producer = open_producer
        self._timeout = timeout
        self._producer: Any = None

    def connect(self) -> None:
        """Raises PeachError where the broker cannot be reached or refuses."""
        if self._producer is None:
            self._producer = self._open_producer()

    def send(self, topic: str, body: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Origin:
        """Returns where the message stands. Raises MessageTooLarge, or another PeachError: then it may or may not stand
        there."""
        self.connect()
        try:
            told = self._producer.send(topic, body, headers=list(headers)).get(timeout=self._timeout)
        except Exception as error:
            self.close()
            raise _meaning(topic, len(body), error) from error
        return Origin(told.topic, told.partition, told.offset)

    def close(self) -> None:
        """Never raises, and waits some seconds at most."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=2.0)
        except Exception as error:  # noqa: BLE001 - it is thrown away
            logger.debug("closing a producer: %s", error)


def _meaning(topic: str, size: int, error: Exception) -> PeachError:
    from kafka import errors

    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return MessageTooLarge(
            f"a message of {size} bytes is more than the broker takes for {topic}",
            f"raise its max.message.bytes: kafka-configs.sh --alter --entity-type topics --entity-name {topic} ...",
        )
    return UnreachableError(f"{topic}: the message was not acknowledged: {error}")
