"""The topics of an installation: which are missing, made, and what is done about one that was made anew."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError, TopicAlreadyExistsError  # noqa: TID253 imported inside functions only

from peachctl.bus.kafka_client import (
    CALL,
    PATIENCE,
    Settings,
    border,
    committed,
    open_admin,
    open_consumer,
    partitions,
    patiently,
    reach,
    settings,
)
from peachctl.bus.kafka_start import EARLIEST, LATEST, alter, offsets
from peachctl.config import Config
from peachctl.errors import PeachError, StateError
from peachctl.failpoint import fail_point
from peachctl.store import Origin, Store

REPLICAS = 3
"""Of a topic, where there are as many brokers."""

_SHARED = ("kafka.topic_execute", "kafka.topic_processed")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the configuration. key: which one it is there. partitions: how many it has, 0 where it is missing."""

    key: str
    name: str
    partitions: int


@contextlib.contextmanager
def _admin(config: Config, what: str) -> Iterator[tuple[Settings, Any]]:
    to = settings(config)
    reach(to, PATIENCE)
    with border(to, what), contextlib.closing(open_admin(to)) as admin:
        yield to, admin


def topics(config: Config) -> list[Topic]:
    """Those that the configuration names, as the broker has them. Raises UnreachableError, RefusedError."""
    with _admin(config, "the topics cannot be listed") as (_, admin):
        return _look(config, admin)


def _look(config: Config, admin: Any) -> list[Topic]:
    kafka = config.kafka
    named = {
        "kafka.topic_execute": kafka.topic_execute,
        "kafka.topic_processed": kafka.topic_processed,
        "kafka.topic_services": kafka.topic_services,
        "kafka.topic_dead": kafka.topic_dead,
    }
    return [Topic(key, name, len(partitions(admin, name))) for key, name in named.items()]


def create(config: Config, count: int, replicas: int | None) -> list[Topic]:
    """Makes the topics that are missing: those of workflows and of events with `count` partitions, the others, which
    nobody reads in parts, with one; each on so many brokers (None: on three, where there are as many). Returns those
    that were made. Raises PeachError with what the broker has against it."""
    with _admin(config, "topics cannot be made") as (_, admin):
        missing = [one for one in _look(config, admin) if not one.partitions]
        copies = replicas or min(REPLICAS, len(admin.describe_cluster()["brokers"]))
        for one in missing:
            parts = count if one.key in _SHARED else 1
            wanted = {one.name: {"num_partitions": parts, "replication_factor": copies}}
            try:
                admin.create_topics(wanted, timeout_ms=CALL)
                fail_point("init-kafka:created")
            except TopicAlreadyExistsError:
                pass  # somebody else has just made it
            except KafkaError as error:
                if error.retriable:
                    raise
                raise PeachError(f"the topic {one.name} cannot be made: {error}") from error
            # The broker answers before all of it knows the topic.
            admin.wait_for_topics([one.name], timeout_ms=CALL)
        made = {one.name for one in missing}
        return [one for one in _look(config, admin) if one.name in made]


def accept_new(config: Config, store: Store, topic: str) -> bool:
    """After the topic of workflows was deleted and made anew: its group begins at its beginning, and its origins begin
    a new epoch. False, and nothing is changed, where it is the one that was read before.

    May be killed and done again at any step. Raises StateError while a consumer of the group is at work.
    """
    if topic != config.kafka.topic_execute:
        raise PeachError(
            f"{topic} is not the topic that ingest reads", f"that is {config.kafka.topic_execute} (kafka.topic_execute)"
        )
    with _admin(config, f"the topic {topic} cannot be accepted") as (to, admin):
        found = partitions(admin, topic)
        if not found:
            raise PeachError(f"there is no topic {topic}", "peachctl init-kafka")
        group = config.kafka.group_ingest
        beginnings = offsets(admin, dict.fromkeys(found, EARLIEST))
        ends = offsets(admin, dict.fromkeys(found, LATEST))
        kept = committed(admin, group, topic)
        beyond = any(kept.get(tp, 0) > ends[tp] for tp in found)
        if not beyond and not _differs(to, store, beginnings, ends):
            return False
        if not alter(admin, group, beginnings):
            raise StateError(f"the group {group} has members that are at work", "stop peachctl consume ingest first")
        fail_point("init-kafka:offsets")
        store.new_epoch(topic)
        fail_point("init-kafka:epoch")
        return True


def _differs(to: Settings, store: Store, beginnings: dict[Any, int], ends: dict[Any, int]) -> bool:
    """Whether any message of the topic is another one than the one that is known of its place."""
    with contextlib.closing(open_consumer(to, None)) as consumer:
        for tp, end in ends.items():
            consumer.assign([tp])
            consumer.seek(tp, beginnings[tp])
            if _reads(consumer, tp, end, lambda record: _is_other(store, record)):
                return True
    return False


def _reads(consumer: Any, tp: Any, end: int, wanted: Callable[[Any], bool]) -> bool:
    while (position := consumer.position(tp, timeout_ms=CALL)) is not None and position < end:
        batch = patiently(lambda: consumer.poll(timeout_ms=1000))
        if any(wanted(record) for records in batch.values() for record in records):
            return True
        if not batch and consumer.position(tp, timeout_ms=CALL) == position:
            raise PeachError(f"topic {tp.topic}: partition {tp.partition} cannot be read at offset {position}")
    return False


def _is_other(store: Store, record: Any) -> bool:
    known = store.outcome(Origin(record.topic, record.partition, record.offset))
    if known is None or known.sha256 is None:
        return False
    return known.sha256 != hashlib.sha256(record.value or b"").hexdigest()
