"""The bus of an installation with Kafka, for ingest: workflows in, ids of rows and copies of refused messages out.

How a message is neither lost nor filed twice, whatever happens to brokers, consumers and the group:

- The group's offsets are committed by `ack` alone, by name, and only of partitions that are still ours and for what
  was delivered since they became ours: a late commit would turn back the offset of their new owner. Where a rebalance
  gives a partition to another consumer, what is in hand here comes there again, and its origins are known.
- kafka-python begins nowhere by itself. Where a partition becomes ours it is paused, in the callback, before anything
  of it can be delivered; then its committed offset (without one: what is known of it) is looked at, and it begins
  there: one message earlier, where that
  message is known, so that the store compares its hash. That shows a topic that was made anew, also one that has more
  messages by now than it had before. An offset beyond the end shows it at once; one before the beginning means that
  the broker's retention took what nobody had read.
- Where a group without offsets begins (`kafka.start`) is committed before it is joined: from then on a crash skips
  nothing. Partitions that appear later begin at their beginning.
- Whatever comes out of `poll` as an exception ends that consumer, and a new one is made: after some errors the next
  `poll` of kafka-python never returns. One that stops delivering while there is something to deliver (after a change
  of the leader's epoch) is replaced as well, and one that was given nothing while partitions are nobody's (it was told
  an error in place of the topic, joined without it, and may stay so).
"""

import gc
import hashlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition  # noqa: TID253 imported late as a whole
from kafka.errors import (  # noqa: TID253
    CommitFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    RebalanceInProgressError,
    RetriableError,
)

from peachctl.bus import Message
from peachctl.bus.kafka_client import (
    CALL,
    TopicMissing,
    assigned,
    beginning_offsets,
    end_offsets,
    no_topic,
    open_admin,
    open_consumer,
    partitions,
    reach,
    settings,
    topic_id,
    translated,
)
from peachctl.bus.kafka_dead import DeadLetters
from peachctl.bus.kafka_publish import Publisher
from peachctl.bus.kafka_start import prepare
from peachctl.config import Config
from peachctl.errors import MadeAnewError, PeachError, UnreachableError
from peachctl.failpoint import fail_point
from peachctl.store import Origin, Store
from peachctl.store.rules import PRIORITIES

logger = logging.getLogger(__name__)

PRIORITY_HEADER = "peachctl-priority"

_MOST = 500
_JOINING = 0.1  # seconds that a poll of a consumer without partitions takes at least: it does nothing in none
_COMMIT_WITHIN = 0.1  # seconds
_ANSWER = 1.0  # seconds for which a batch that is all but filed waits for the topic's id
_GOODBYE = 2000  # milliseconds for what is left to commit
_AGAIN = 1.0  # seconds between the consumers that are made
_LOOK = 5.0  # seconds of silence after which we look whether the broker is there and we are not stalled
_SETTLING = 3.0  # seconds in which an end before what was read may turn out to be none
_STALLED = 4  # looks at the same position with something behind it
_NUMBER = re.compile(r"-?[0-9]{1,10}")


class KafkaBus:
    """The `Bus` of ingest over Kafka, as `kafka.*` says.

    store: says which messages are known. client: of two in one group, the one whose name sorts first gets the first
    partition. Opening it asks no server.
    """

    def __init__(self, config: Config, store: Store, *, client: str = "peachctl-ingest") -> None:
        self._config = config
        self._to = settings(config)
        self._store = store
        self._client = client
        self._max_bytes = config.limits.message_bytes
        self._publisher = Publisher(self._to, self._max_bytes)
        self._dead = DeadLetters(self._publisher, config.kafka.topic_dead)
        self._consumer: Any = None
        self._ready: deque[Message] = deque()
        # What the callback of a rebalance says, on kafka-python's own thread.
        self._fresh: set[TopicPartition] = set()
        self._gone: set[TopicPartition] = set()
        self._since: dict[TopicPartition, int] = {}
        self._delivered: dict[TopicPartition, int] = {}
        self._acked: dict[TopicPartition, int] = {}
        self._owed: dict[TopicPartition, int] = {}
        self._commit_at = 0.0
        self._admin: Any = None
        self._asked: futures.Future[str | None] | None = None
        self._vouched = True
        self._topic_id: str | None = None
        self._goal: dict[TopicPartition, int] | None = None
        self._again_at = 0.0
        self._look_at = time.monotonic() + _LOOK
        self._stuck: dict[TopicPartition, tuple[int, int]] = {}
        self._left_out = 0
        self._trouble: UnreachableError | None = None
        self._unsent_said: str | None = None

    # Bus

    def poll(self, timeout: float, most: int) -> list[Message]:
        """Up to `most` messages (at most 500), waiting at most `timeout` seconds, or some more while a connection is
        made. Raises UnreachableError while the broker does not answer (asked again, the bus goes on by itself),
        RefusedError, ConfigError, MadeAnewError."""
        if not self._ready:
            with self._translated():
                try:
                    if self._open(timeout):
                        self._take(timeout, most)
                except NoOffsetForPartitionError as error:
                    self._begin(error.args[0])
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def vouch(self) -> None:
        """kafka-python reads on in a topic that was made anew while it read, at the offset where it was. So the topic's
        id is asked for when a batch has come, while it is filed, and the answer looked at before that is for good."""
        if self._vouched:
            return
        topic = self._config.kafka.topic_execute
        with self._translated():
            if self._asked is not None:
                # Nobody's lock waits for a broker that is silent: this is asked for again.
                if not futures.wait((self._asked,), _ANSWER).done:
                    self._away(f"topic {topic}: the broker does not say whether it is the same")
                asked, self._asked = self._asked, None
                self._check_topic(asked.result())
            elif not self._open(_AGAIN):
                self._away(f"topic {topic}: nobody can say whether it is the same")
            else:
                self._same_topic()
        self._vouched = True

    def rest(self) -> None:
        """Commits what polls would have committed."""
        try:
            self._commit()
        except PeachError as error:
            logger.debug("%s", error.message)

    def ack(self, messages: Sequence[Message]) -> None:
        """The offsets behind these are committed by the polls that follow, in a tenth of a second: a commit takes the
        broker as long as all else that it does for a workflow, and that just when its run begins. What cannot be
        committed is tried again, or comes again."""
        for message in messages:
            tp, offset = _place(message), message.origin.offset
            if self._since.get(tp, offset + 1) <= offset < self._delivered.get(tp, -1):
                if not self._owed:
                    self._commit_at = time.monotonic() + _COMMIT_WITHIN
                self._owed[tp] = max(offset + 1, self._owed.get(tp, 0))

    def reject(self, message: Message, reason: str, *, field: str = "", byte_offset: int | None = None) -> None:
        """A copy in `kafka.topic_dead` (`DeadLetters`). Fails with a warning only.

        None of a message that was acknowledged before: it came again to show that the topic is the same, and its copy
        was made then."""
        if message.origin.offset >= self._acked.get(_place(message), 0):
            self._dead.copy(message, reason, field, byte_offset)

    def publish(self, ids: Sequence[int]) -> list[int]:
        """Announces rows in `kafka.topic_processed`, the id in decimal ASCII each. Hints: also where the broker does
        not allow it, there is only a warning."""
        if not ids:
            return []
        sent = self._publisher.send(self._config.kafka.topic_processed, [b"%d" % id for id in ids])
        trouble = self._publisher.trouble if None in sent else None
        if trouble is not None and trouble != self._unsent_said:
            logger.warning("%s; announcements wait, executors find the rows by themselves", trouble)
        self._unsent_said = trouble
        return [id for id, where in zip(ids, sent, strict=True) if where is not None]

    def drained(self) -> bool:
        """Whether what was there at the start is done, by us or by others of the group."""
        if self._consumer is None or self._goal is None or self._fresh or self._ready:
            return False
        self._commit()
        try:
            for tp, end in list(self._goal.items()):
                if tp in self._consumer.assignment():
                    # A position may be beyond what can be acknowledged: markers of transactions, compacted records.
                    reached = self._consumer.position(tp, timeout_ms=CALL)
                    done = reached is not None and reached >= end and self._acknowledged(tp)
                else:
                    done = (self._consumer.committed(tp, timeout_ms=CALL) or 0) >= end
                if done:
                    del self._goal[tp]
        except KafkaError as error:
            logger.debug("asked again: %s", error)
            self._drop()
            return False
        return not self._goal

    def lag(self) -> int | None:
        """Messages of our partitions that are not acknowledged yet; None where that cannot be said now."""
        if self._consumer is None:
            return None
        try:
            ends = end_offsets(self._consumer, self._acked)
        except KafkaError:
            return None
        return sum(max(0, int(end) - self._acked.get(tp, 0)) for tp, end in ends.items())

    def close(self) -> None:
        """Leaves the group: what was not acknowledged goes to another consumer at once."""
        try:
            self._commit(_GOODBYE)
        except Exception as error:  # noqa: BLE001 it is given up in any case
            logger.debug("the last offsets are not committed: %s", error)
        self._drop()
        self._publisher.close()

    # The consumer

    def _open(self, timeout: float) -> bool:
        """Whether there is a consumer. Where there is none it is made, though not at once."""
        if self._consumer is not None:
            return True
        wait = self._again_at - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, timeout))
            if self._again_at > time.monotonic():
                if self._trouble is not None:
                    raise self._trouble
                return False
        self._again_at = time.monotonic() + _AGAIN
        kafka = self._config.kafka
        try:
            reach(self._to, 1.0)
            if self._goal is None:
                self._goal = prepare(self._config, self._to, self._store)
            if self._goal is None:
                raise self._no_topic()
            session = int(kafka.session_timeout * 1000)
            self._consumer = consumer = open_consumer(
                self._to,
                kafka.group_ingest,
                client_id=self._client,
                session_timeout_ms=session,
                heartbeat_interval_ms=max(300, session // 4),
                max_poll_records=_MOST,
            )
            self._admin = open_admin(self._to)
        except UnreachableError as error:
            self._drop()
            self._trouble = error
            raise
        self._trouble = None
        self._same_topic()
        consumer.subscribe(topics=[kafka.topic_execute], listener=_Listener(consumer, self._fresh, self._gone))
        # Waits until it knows the topic: one that joins the group before that is given nothing, and may stay so.
        beginning_offsets(consumer, [TopicPartition(kafka.topic_execute, 0)])
        self._look_at = time.monotonic() + _LOOK
        return True

    def _take(self, timeout: float, most: int) -> None:
        if time.monotonic() >= self._commit_at:
            self._commit()
        consumer = self._consumer
        patience = max(timeout, 0.0 if consumer.assignment() else _JOINING)
        if not consumer.assignment().isdisjoint(self._owed):
            patience = min(patience, max(0.0, self._commit_at - time.monotonic()))
        records = consumer.poll(timeout_ms=int(patience * 1000), max_records=min(most, _MOST))
        if self._gone:
            self._forget(self._gone)
            self._gone.clear()
        if self._owed and not records:
            self._commit()
        if records:
            if self._topic_id:
                self._vouched = False
                self._ask()
            else:
                self._same_topic()
        for tp, found in records.items():
            for record in found:
                self._ready.append(self._message(record))
            self._delivered[tp] = found[-1].offset + 1
        # After that: what was delivered of other partitions must not be forgotten when one cannot be settled now.
        if self._fresh:
            self._settle(consumer)
        if records:
            self._stuck.clear()
            self._look_at = time.monotonic() + _LOOK
            if any(message.size is not None for message in self._ready):
                # kafka-python leaves a fetch in cycles of references: of large values that would be much, unnoticed.
                record = found = None
                records.clear()
                gc.collect()
        elif time.monotonic() > self._look_at:
            self._look_around(consumer)

    def _ask(self) -> None:
        """Asks for the topic's id in a thread that nobody has to wait for."""
        admin, topic, asked = self._admin, self._config.kafka.topic_execute, futures.Future[str | None]()

        def ask() -> None:
            try:
                asked.set_result(topic_id(admin, topic))
            except BaseException as error:  # noqa: BLE001 - raised where the answer is wanted
                asked.set_exception(error)

        self._asked = asked
        threading.Thread(target=ask, name="topic-id", daemon=True).start()

    def _same_topic(self) -> None:
        self._check_topic(topic_id(self._admin, self._config.kafka.topic_execute))

    def _check_topic(self, found: str | None) -> None:
        """Raises MadeAnewError where the topic is another one than at the start. found: its id now. Brokers before 2.8
        give topics no ids; there the offsets that went with the topic show it, nothing is delivered, and another
        consumer compares what it finds. Raises UnreachableError for that."""
        topic = self._config.kafka.topic_execute
        if found is None:
            self._drop()
            self._trouble = self._no_topic()
            raise self._trouble
        if self._topic_id not in (None, found):
            raise MadeAnewError(
                f"topic {topic}: the topic was deleted and made anew", f"peachctl init-kafka --accept-new {topic}"
            )
        self._topic_id = found
        gone = [tp for tp in self._acked if not found and self._consumer.committed(tp, timeout_ms=CALL) is None]
        if gone:
            self._drop()
            self._away(f"topic {topic}: the offsets of the group {self._config.kafka.group_ingest} are gone")

    def _message(self, record: Any) -> Message:
        body = record.value or b""
        origin, priority = Origin(record.topic, record.partition, record.offset), _priority(record.headers)
        if len(body) <= self._max_bytes:
            return Message(bytes(body), origin, priority=priority)
        sha256 = hashlib.sha256(body).hexdigest()
        return Message(bytes(body[: self._max_bytes + 1]), origin, priority=priority, size=len(body), sha256=sha256)

    def _settle(self, consumer: Any) -> None:
        """Says where partitions that became ours begin, and lets them go on."""
        owned = consumer.assignment()
        self._forget(set(self._delivered) - owned)
        self._fresh -= self._fresh - owned
        fresh = sorted(self._fresh)
        if not fresh:
            return
        beginnings = beginning_offsets(consumer, fresh)
        keeps = {tp: consumer.committed(tp, timeout_ms=CALL) for tp in fresh}
        end = time.monotonic() + _SETTLING
        # A leader that was elected a moment ago may not know yet what it has.
        while True:
            ends = end_offsets(consumer, fresh)
            if all((keeps[tp] or 0) <= ends[tp] for tp in fresh) or time.monotonic() > end:
                break
            time.sleep(0.2)
        for tp in fresh:
            kept = keeps[tp]
            position = self._position(tp, kept, beginnings[tp], ends[tp])
            if tp in self._delivered and kept == self._acked.get(tp):
                # It was ours before, and nobody has worked on it since: what is in hand does not come again.
                position = self._delivered[tp]
            else:
                self._forget([tp])
                self._since[tp] = self._delivered[tp] = position
                self._acked[tp] = position if kept is None else kept
            consumer.seek(tp, position)
            self._fresh.discard(tp)
            consumer.resume(tp)

    def _position(self, tp: TopicPartition, kept: int | None, beginning: int, end: int) -> int:
        where = f"topic {tp.topic}: partition {tp.partition}"
        kept = self._unread(tp) if kept is None else kept
        if kept is None:
            return beginning
        if kept > end:
            raise MadeAnewError(
                f"{where} ends at offset {end}, but was read up to {kept}: the topic was deleted and made anew",
                f"peachctl init-kafka --accept-new {tp.topic}",
            )
        if kept < beginning:
            logger.error(
                "%s: %d messages are LOST: the broker's retention removed the offsets %d to %d before they were"
                " read; going on at %d (see retention.ms of the topic)",
                where,
                beginning - kept,
                kept,
                beginning - 1,
                beginning,
            )
            return beginning
        if kept > beginning and self._store.outcome(Origin(tp.topic, tp.partition, kept - 1)) is not None:
            return kept - 1
        return kept

    def _unread(self, tp: TopicPartition) -> int | None:
        """What stands for the offset of a partition that has none: behind what is known of it, or where reading of the
        topic began; None for one that is new. It is not believed without the checks that an offset has to pass: who
        makes a topic anew takes its offsets away."""
        last = self._store.last_offset(tp.topic, tp.partition)
        return (self._store.began(tp.topic) or {}).get(tp.partition) if last is None else last + 1

    def _begin(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions that the group has no offset of, and that are ours."""
        consumer = self._consumer
        try:
            beginnings = beginning_offsets(consumer, partitions)
            logger.info("new partitions: %s", ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(partitions)))
            unread = {tp: self._unread(tp) for tp in beginnings}
            consumer.commit(
                {tp: _offset(beginnings[tp] if at is None else at) for tp, at in unread.items()}, timeout_ms=CALL
            )
            fail_point("kafka:begun")
        except (CommitFailedError, RebalanceInProgressError):
            time.sleep(_JOINING)
        except KafkaError as error:
            self._failed(error)

    def _commit(self, timeout: int = CALL) -> None:
        consumer = self._consumer
        if consumer is None:
            self._owed.clear()
            return
        self._commit_at = time.monotonic() + _COMMIT_WITHIN
        self._owed = {tp: offset for tp, offset in self._owed.items() if offset > self._acked.get(tp, 0)}
        ours = consumer.assignment() - self._fresh
        wanted = {tp: offset for tp, offset in self._owed.items() if tp in ours}
        if not wanted:
            return
        try:
            consumer.commit({tp: _offset(offset) for tp, offset in wanted.items()}, timeout_ms=timeout)
            fail_point("kafka:committed")
        except (CommitFailedError, RebalanceInProgressError) as error:
            # Tried again with the next poll, unless the partition is somebody else's by then.
            logger.debug("the group is changing: %s", error)
        except RetriableError as error:
            self._away(f"offsets cannot be committed: {error}")  # tried again by the next poll
        except KafkaError as error:
            self._failed(error)
        else:
            self._acked.update(wanted)
            self._owed = {tp: offset for tp, offset in self._owed.items() if tp not in wanted}

    def _forget(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions that are ours no more, or anew."""
        for tp in list(partitions):
            for kept in (self._since, self._delivered, self._acked, self._owed):
                kept.pop(tp, None)
            for message in [one for one in self._ready if _place(one) == tp]:
                self._ready.remove(message)

    def _acknowledged(self, tp: TopicPartition) -> bool:
        return self._acked.get(tp, 0) >= self._delivered.get(tp, 0)

    def _look_around(self, consumer: Any) -> None:
        """After some silence: is the broker there, and is there something that should have been delivered?"""
        self._look_at = time.monotonic() + _LOOK
        owned = sorted(consumer.assignment() - self._fresh)
        try:
            reach(self._to, 2.0)
        except UnreachableError:
            self._look_at = 0.0  # looked at by each poll until it is back
            raise
        self._same_topic()
        ends = end_offsets(consumer, owned) if owned else {}
        stuck = {}
        for tp, end in ends.items():
            position = consumer.position(tp, timeout_ms=1000)  # which alone ends some stalls
            if position is not None and position < end:
                before, looks = self._stuck.get(tp, (position, 0))
                stuck[tp] = (position, looks + 1 if before == position else 1)
        self._stuck = stuck
        self._left_out = 0 if consumer.assignment() or self._shared_out() else self._left_out + 1
        if self._left_out >= _STALLED:
            logger.warning("partitions of the topic are nobody's; another consumer is made")
            self._drop()
        elif any(looks >= _STALLED for _, looks in stuck.values()):
            logger.warning(
                "nothing comes from %s although there is something; another consumer is made", self._to.where
            )
            self._drop()

    def _shared_out(self) -> bool:
        """Whether the members of the group have all partitions, as far as can be said: then there is none for us. One
        that was told an error in place of the topic joins as if it had no partition, and shares out none for long."""
        kafka = self._config.kafka
        try:
            known = assigned(self._admin, kafka.group_ingest, kafka.topic_execute)
            return known is None or set(partitions(self._admin, kafka.topic_execute)) <= known
        except KafkaError as error:
            logger.debug("the members of the group are not known: %s", error)
            return True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What kafka-python raises, as errors of ours; its consumer is not used any more then."""
        try:
            yield
        except KafkaError as error:
            self._failed(error)
        except PeachError:
            raise
        except Exception as error:  # the next poll of this consumer might never return
            logger.exception("the consumer failed; another one is made")
            self._drop()
            self._away(f"{type(error).__name__} in the consumer")

    def _failed(self, error: KafkaError) -> NoReturn:
        """An error out of kafka-python: this consumer is not used any more."""
        self._drop()
        told = translated(error, self._to, f"the topic {self._config.kafka.topic_execute} cannot be read")
        if isinstance(told, UnreachableError):
            self._trouble = told
        raise told from error

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        self._asked = None
        self._left_out = 0
        for kept in (
            self._ready,
            self._fresh,
            self._gone,
            self._since,
            self._delivered,
            self._acked,
            self._owed,
            self._stuck,
        ):
            kept.clear()
        for close in (
            consumer and partial(consumer.close, autocommit=False, timeout_ms=5000),
            admin and admin.close,
        ):
            try:
                if close is not None:
                    close()
            except Exception as error:  # noqa: BLE001 they are given up in any case, each of them
                logger.debug("a client did not close: %s", error)

    def _no_topic(self) -> TopicMissing:
        return no_topic(self._to, self._config.kafka.topic_execute)

    def _away(self, why: str) -> NoReturn:
        self._trouble = UnreachableError(why, "see that Kafka runs, and kafka.bootstrap_servers")
        raise self._trouble


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs on kafka-python's thread, where nothing may ask the broker: it only notes."""

    def __init__(self, consumer: Any, fresh: set[TopicPartition], gone: set[TopicPartition]) -> None:
        self._consumer = consumer
        self._fresh = fresh
        self._gone = gone

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        pass  # most often they are ours again in a moment

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self._gone.update(lost)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._fresh.update(assigned)
        self._consumer.pause(*assigned)


def _place(message: Message) -> TopicPartition:
    return TopicPartition(message.origin.topic, message.origin.partition)


def _offset(offset: int) -> OffsetAndMetadata:
    return OffsetAndMetadata(offset, "", -1)


def _priority(headers: Sequence[tuple[str, bytes]]) -> int:
    """What the sender asked for; 1 where that is no number that the column can hold."""
    for name, value in headers:
        text = bytes(value or b"").decode(errors="replace")
        if name == PRIORITY_HEADER and _NUMBER.fullmatch(text) and int(text) in PRIORITIES:
            return int(text)
    return 1
