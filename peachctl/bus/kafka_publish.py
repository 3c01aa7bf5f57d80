"""Sending to Kafka: each record is acknowledged by the broker, or said not to be."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka.errors import (  # noqa: TID253 this module is imported inside functions only
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from peachctl.bus.kafka_client import Settings, close_producer, open_producer, reach, translated
from peachctl.errors import RefusedError, UnreachableError
from peachctl.failpoint import fail_point
from peachctl.store import Origin

_REST = 5.0


class Publisher:
    """A producer that is made when it is needed, and thrown away after any failure: kafka-python's stays broken after
    an error that it does not try again, whatever the broker does.

    largest: bytes of a value. trouble: why the last call did not have all acknowledged, else None. too_large: whether
    that was the size of a value.
    """

    def __init__(self, to: Settings, largest: int = 1 << 20) -> None:
        self._to = to
        self._largest = largest
        self._producer: Any = None
        self._rests: dict[str, tuple[float, str]] = {}  # until when, and why, by topic
        self.trouble: str | None = None
        self.too_large = False

    def send(
        self, topic: str, values: Sequence[bytes], headers: Mapping[str, str] | None = None, patience: float = 35.0
    ) -> list[Origin | None]:
        """Where each value stands in the topic now; None for one that was not acknowledged within `patience` seconds
        (it may stand there all the same). After a failure nothing is sent to that topic for some seconds, unless a
        value was too large: that says nothing of others."""
        self.too_large = False
        if not values:
            return []
        end = time.monotonic() + patience
        until, why = self._rests.get(topic, (0.0, ""))
        if time.monotonic() < until:
            self.trouble = why
            return [None] * len(values)
        try:
            producer = self._ready()
        except (RefusedError, UnreachableError) as error:
            self._failed(topic, error.message)
            return [None] * len(values)
        self.trouble = None
        carried = [(name, text.encode()) for name, text in (headers or {}).items()]
        futures: list[Any] = []
        failure: KafkaError | None = None
        for value in values:
            try:
                futures.append(producer.send(topic, value, headers=carried))
            except KafkaError as error:
                failure = error
                break
        sent: list[Origin | None] = []
        for future in futures:
            try:
                # `flush` would report nothing: only the future tells.
                found = future.get(timeout=max(0.0, end - time.monotonic()))
                fail_point("kafka:sent")
                sent.append(Origin(found.topic, found.partition, found.offset))
            except KafkaError as error:
                failure = error
                sent.append(None)
        if failure is not None:
            self.close(0.0)
            self.too_large = isinstance(failure, MessageSizeTooLargeError | RecordListTooLargeError)
            self._failed(topic, translated(failure, self._to, f"nothing can be sent to the topic {topic}").message)
        return sent + [None] * (len(values) - len(sent))

    def _ready(self) -> Any:
        if self._producer is None:
            reach(self._to, 1.0)
            self._producer = open_producer(self._to, self._largest)
        return self._producer

    def _failed(self, topic: str, why: str) -> None:
        self.trouble = why
        if not self.too_large:
            self._rests[topic] = (time.monotonic() + _REST, why)

    def close(self, timeout: float = 5.0) -> None:
        """Waits at most that many seconds for what is under way."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, timeout)
