"""The execute side of Kafka: hears that rows were filed, and wakes the executor.

An event is a hint; the database decides who runs what, and the executor looks there by itself all the time. So
nothing here is ever waited for, and nothing that goes wrong here stops the executor:

- All partitions are assigned by hand, from their ends; there is no membership. Every executor hears every event, also
  where the topic has one partition; no rebalance, and no `max_poll_interval` to outlive, for runs that last days.
- The position is committed to the group every few seconds, for the operator's tools to see. What another executor
  commits, or whether it can be committed at all, changes nothing.
- A listener's thread does nothing but listen. After an exception its consumer is thrown away and a new one is made
  (the next `poll` of the old one may hang for ever). Now and then positions are compared with the ends of the
  partitions: that finds a broker that is away, and a consumer that stalls. A thread that makes no step any more is
  left behind for another.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from peachctl import wire
from peachctl.errors import ConfigError, PeachError, RefusedError, WireError
from peachctl.names import printable

logger = logging.getLogger(__name__)

OpenConsumer = Callable[[bool], Any]
"""Makes a KafkaConsumer without a topic. Whether it may commit: whether it names the group."""

_MOST = 500


class KafkaEvents:
    """Listens to a topic of events in a thread, and calls `heard` (which must be safe from threads) when there are any.

    poll, probe, reply, hang: seconds of one wait for events, between two comparisons with the ends, for one answer of
    the broker, and after which a thread that made no step is taken for hung. patience: the longest wait before another
    try.
    """

    def __init__(
        self,
        open_consumer: OpenConsumer,
        topic: str,
        heard: Callable[[], None],
        *,
        poll: float = 0.5,
        probe: float = 10.0,
        reply: float = 10.0,
        hang: float = 120.0,
        patience: float = 5.0,
    ) -> None:
        self._open_consumer = open_consumer
        self._topic = topic
        self._heard = heard
        self._poll = poll
        self._probe = probe
        self._reply = int(reply * 1000)
        self._hang = hang
        self._patience = patience
        self._listener: _Listener | None = None
        self._said: str | None = None
        self.heard_once = False
        self._commits = True
        self.refused: PeachError | None = None
        """The error where the broker did not let us in at the first try: waiting would not help."""

    @property
    def hears(self) -> bool:
        """Whether events are heard now, as far as is known."""
        return self._listener is not None and self._listener.hears

    @property
    def lag(self) -> int | None:
        """Events that were published and not yet heard, at the last comparison; None while that is not known."""
        return self._listener.lag if self._listener is not None and self._listener.hears else None

    def start(self) -> None:
        self._listener = _Listener(self)
        self._listener.start()

    def tend(self) -> None:
        """To be called again and again by the executor's loop: replaces a thread that hangs."""
        listener = self._listener
        if listener is None or time.monotonic() - listener.beat < self._hang:
            return
        listener.ended.set()
        logger.warning("the thread that hears events made no step for %.0f s; another one takes over", self._hang)
        self.start()
        self._heard()

    def stop(self) -> None:
        """Waits a moment for the thread; it does not outlive the process in any case."""
        if self._listener is not None:
            self._listener.ended.set()
            self._listener.join(self._poll + 2.0)
            self._listener = None

    def _say(self, text: str | None) -> None:
        """Says once why no event is heard, and that they are heard again (None)."""
        if text == self._said:
            return
        if text is None:
            logger.info("events are heard again")
        elif self._said is None:
            logger.warning("no events are heard, the queue is looked into instead: %s", printable(text, 300))
        self._said = text


class _Listener(threading.Thread):
    """One thread with one consumer after another."""

    def __init__(self, events: KafkaEvents) -> None:
        super().__init__(name="events", daemon=True)
        self._events = events
        self.ended = threading.Event()
        self.beat = time.monotonic()
        self.hears = False
        self.lag: int | None = None
        self._stood: tuple[dict[Any, int], dict[Any, int]] | None = None
        """Positions and ends at the last comparison, where nothing was heard since the one before."""

    def run(self) -> None:
        wait = 0.2
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it is, another consumer may hear again
                self._failed(error)
            self.hears = False
            self.beat = time.monotonic()
            wait = 0.2 if self.beat - began > 60 else min(2 * wait, self._events._patience)
            self.ended.wait(wait)

    def _failed(self, error: Exception) -> None:
        from kafka import errors

        if self.ended.is_set():
            return
        if isinstance(error, errors.GroupAuthorizationFailedError) and self._events._commits:
            self._events._commits = False
            logger.warning("%s: the position in the events is not committed", printable(str(error)))
            return
        if isinstance(error, RefusedError | ConfigError) and not self._events.heard_once:
            self._events.refused = error  # it ends the command, which says why
            self._events._heard()
            return
        if isinstance(error, errors.RetriableError):
            self._events._say("Kafka does not answer")
        else:
            self._events._say(error.message if isinstance(error, PeachError) else str(error) or type(error).__name__)

    def _listen(self) -> None:
        events = self._events
        consumer = events._open_consumer(events._commits)
        try:
            self.beat = time.monotonic()
            self._stood = None
            self._assign(consumer, first=True)
            self._compare(consumer, heard=False)
            self.hears = events.heard_once = True
            events._say(None)
            events._heard()  # what was announced before is found by looking
            heard = False
            next_probe = time.monotonic() + events._probe
            while not self.ended.is_set():
                records = consumer.poll(timeout_ms=int(events._poll * 1000), max_records=_MOST)
                self.beat = now = time.monotonic()
                if self._take(records):
                    heard = True
                    events._heard()
                if now >= next_probe:
                    self._assign(consumer, first=False)
                    self._compare(consumer, heard=heard)
                    heard = False
                    next_probe = time.monotonic() + events._probe
            if events._commits:
                _commit_at_end(consumer)
        finally:
            _close(consumer)

    def _assign(self, consumer: Any, *, first: bool) -> None:
        """Takes all partitions: at first from their ends, those that appear later from their beginnings."""
        from kafka import TopicPartition

        topic = self._events._topic
        wanted = {TopicPartition(topic, one) for one in consumer.partitions_for_topic(topic) or ()}
        if not wanted:
            raise PeachError(f"there is no topic {topic} (peachctl init-kafka creates it)")
        new = wanted - consumer.assignment()
        if not new:
            return
        kept = {one: consumer.position(one, timeout_ms=self._events._reply) for one in wanted & consumer.assignment()}
        consumer.assign(sorted(wanted))
        for one, position in kept.items():
            consumer.seek(one, position)
        (consumer.seek_to_end if first else consumer.seek_to_beginning)(*new)

    def _take(self, records: dict[Any, list[Any]]) -> bool:
        """Whether there is any event among the records."""
        found = False
        for batch in records.values():
            for record in batch:
                try:
                    wire.decode_id(record.value or b"")
                    found = True
                except WireError as error:
                    where = f"{record.topic}[{record.partition}] {record.offset}"
                    logger.debug("%s is no event: %s", printable(where), error.message)
        return found

    def _compare(self, consumer: Any, *, heard: bool) -> None:
        """Raises where the broker does not answer, and where the consumer stands still before what it could read."""
        from peachctl.bus.kafka_client import end_offsets

        ends = end_offsets(consumer, consumer.assignment(), self._events._reply)
        self.beat = time.monotonic()
        positions = {one: consumer.position(one, timeout_ms=self._events._reply) for one in ends}
        self.lag = sum(max(0, ends[one] - (positions[one] or 0)) for one in ends)
        before, self._stood = self._stood, None if heard else (positions, ends)
        if before is not None and before[0] == positions and any(before[1][one] > positions[one] for one in positions):
            raise PeachError(f"the consumer stands still, {self.lag} events behind")
        if self._events._commits:
            _commit(consumer, positions)


def _commit(consumer: Any, positions: dict[Any, int]) -> None:
    """Not waited for, and nobody minds when it fails: only people look at it."""
    from kafka import OffsetAndMetadata

    consumer.commit_async({one: OffsetAndMetadata(position, "", -1) for one, position in positions.items()})


def _commit_at_end(consumer: Any) -> None:
    """So that tools show no lag of a group whose executors heard everything and ended."""
    from kafka import OffsetAndMetadata
    from kafka.errors import KafkaError

    try:
        positions = {one: consumer.position(one, timeout_ms=1000) for one in consumer.assignment()}
        consumer.commit({one: OffsetAndMetadata(at, "", -1) for one, at in positions.items()}, timeout_ms=1000)
    except KafkaError as error:
        logger.debug("the position is not committed: %s", error)


def _close(consumer: Any) -> None:
    try:
        consumer.close(autocommit=False, timeout_ms=2000)
    except Exception as error:  # noqa: BLE001 - it is thrown away
        logger.debug("closing a consumer: %s", error)
