"""Where a group begins that has no offsets yet (`kafka.start`), committed before anybody reads."""

import contextlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kafka import OffsetAndMetadata, TopicPartition  # noqa: TID253 this module is imported inside functions only
from kafka.errors import (  # noqa: TID253
    IllegalGenerationError,
    NoError,
    NonEmptyGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from peachctl.bus.kafka_client import Settings, border, committed, open_admin, partitions, patiently
from peachctl.config import Config
from peachctl.errors import ConfigError
from peachctl.failpoint import fail_point
from peachctl.store import Store

logger = logging.getLogger(__name__)

OLD_GROUP = "kafka-python-default-group"
"""What kafka-python of 2017 committed to where its user named no group."""

EARLIEST, LATEST = -2, -1
_ACTIVE = (UnknownMemberIdError, IllegalGenerationError, NonEmptyGroupError, RebalanceInProgressError)


def prepare(config: Config, to: Settings, store: Store) -> dict[TopicPartition, int] | None:
    """Commits where the group of ingest begins, if it has no offsets in the topic of workflows; returns the ends of
    its partitions as they were before. None where there is no such topic.

    Where the database was one of 2017 and nobody has chosen `kafka.start`, its offsets are taken over, or ConfigError
    is raised: `earliest` would run all that the broker still has once more. Raises UnreachableError, RefusedError.
    """
    kafka = config.kafka
    with border(to, f"the group {kafka.group_ingest} cannot be prepared"), contextlib.closing(open_admin(to)) as admin:
        found = partitions(admin, kafka.topic_execute)
        if not found:
            return None
        ends = offsets(admin, dict.fromkeys(found, LATEST))
        if not committed(admin, kafka.group_ingest, kafka.topic_execute):
            begin = _begin(config, admin, store, found, ends)
            if not alter(admin, kafka.group_ingest, begin):
                logger.info("the group %s has members already, which have chosen where it begins", kafka.group_ingest)
            fail_point("kafka-start:committed")
        return ends


def _begin(
    config: Config, admin: Any, store: Store, found: list[TopicPartition], ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Where the group begins. What was chosen holds once: the database remembers it, for two that start at once (the
    later `latest` would skip what came in between), and for a group whose offsets the broker forgot, which it does
    when nobody was there for some days. Then it goes on behind the last message that is known of each partition."""
    topic = config.kafka.topic_execute
    began = store.began(topic)
    if began is None:
        at = _choose(config, admin, found, ends, adopted=store.adopted())
        began = store.begin(topic, {tp.partition: offset for tp, offset in at.items()})
        fail_point("kafka-start:begun")
    beginnings = offsets(admin, dict.fromkeys(found, EARLIEST))
    if _is_chosen(config) and config.kafka.start == "earliest":
        return beginnings  # what is known of it makes nothing twice
    known = {tp: last + 1 for tp in found if (last := store.last_offset(topic, tp.partition)) is not None}
    if known:
        logger.warning(
            "the broker has no offsets of the group %s any more; going on behind the last messages that are known: %s",
            config.kafka.group_ingest,
            _said(known),
        )
    # Partitions that were added since begin at their beginning.
    return {tp: max(known.get(tp, 0), began.get(tp.partition, beginnings[tp])) for tp in found}


def _is_chosen(config: Config) -> bool:
    return config.sources.get("kafka.start", "default") != "default"


def _choose(
    config: Config, admin: Any, found: list[TopicPartition], ends: Mapping[TopicPartition, int], *, adopted: bool
) -> dict[TopicPartition, int]:
    kafka = config.kafka
    if adopted and not _is_chosen(config):
        old = committed(admin, OLD_GROUP, kafka.topic_execute)
        if not old:
            raise ConfigError(
                f"the group {kafka.group_ingest} has no offsets in the topic {kafka.topic_execute}, and its workflows"
                " up to now were the 2017 backend's",
                'choose where to begin: kafka.start = "latest", a time such as "2026-01-31T06:00", or "earliest" (runs'
                " all that the broker still has)",
            )
        logger.warning("beginning where the 2017 backend (group %s) ended: %s", OLD_GROUP, _said(old))
        beginnings = offsets(admin, dict.fromkeys(found, EARLIEST))
        return {tp: old.get(tp, beginnings[tp]) for tp in found}
    if kafka.start == "earliest":
        begin = offsets(admin, dict.fromkeys(found, EARLIEST))
    elif kafka.start == "latest":
        begin = dict(ends)
    else:
        since = int(datetime.fromisoformat(kafka.start).timestamp() * 1000)
        later = offsets(admin, dict.fromkeys(found, since))
        begin = {tp: later[tp] if later[tp] >= 0 else ends[tp] for tp in found}
    logger.info("a group without offsets begins at %s: %s", kafka.start, _said(begin))
    return begin


def offsets(admin: Any, at: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    """The offset of a time (milliseconds), of EARLIEST or of LATEST, of each partition; -1 where nothing is that
    late."""
    found = patiently(lambda: admin.list_partition_offsets(dict(at)))
    return {tp: int(one.offset) for tp, one in found.items()}


def alter(admin: Any, group: str, wanted: Mapping[TopicPartition, int]) -> bool:
    """Sets offsets of a group that has no members; False, and nothing is set, where it has some."""
    given = {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in wanted.items()}

    def commit() -> bool:
        for error in admin.alter_group_offsets(group, given).values():
            if issubclass(error, _ACTIVE):
                return False
            if error is not NoError:
                raise error()
        return True

    return patiently(commit)


def _said(at: Mapping[TopicPartition, int]) -> str:
    return ", ".join(f"{tp.partition}:{offset}" for tp, offset in sorted(at.items()))
