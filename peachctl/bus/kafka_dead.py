"""Copies of refused messages in `kafka.topic_dead`, for people and their tools.

What counts is the letter in the database: a copy that cannot be made costs a warning, no more.

The value is the message. Headers, all of them UTF-8 text: `peachctl-reason`, and where there are such `peachctl-field`
(path of the field) and `peachctl-byte-offset`; `peachctl-topic`, `-partition`, `-offset` of the message itself;
`peachctl-size` and `peachctl-sha256` (hex) of all of it. `peachctl-cut` is there where the value is only its beginning:
the number of bytes that are in it.
"""

import hashlib
import logging
import sys

from peachctl.bus import Message
from peachctl.bus.kafka_publish import Publisher
from peachctl.names import printable

logger = logging.getLogger(__name__)

_LESS = (
    1_000_000,
    100_000,
    10_000,
)  # bytes that are tried where more is refused; by default a topic takes 1 MiB in all
_TEXT = 2000  # characters of a reason or a field; what senders write stands in them


class DeadLetters:
    """Sends the copies. How much of a value the topic takes is learned once: its `max.message.bytes` is nothing that
    we may ask for with the rights of a client."""

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._topic = topic
        self._room = sys.maxsize
        self._said: str | None = None

    def copy(self, message: Message, reason: str, field: str = "", byte_offset: int | None = None) -> None:
        """Fails with a warning only, which is said once."""
        headers = _headers(message, reason, field, byte_offset)
        while True:
            value = message.body[: self._room]
            whole = len(value) == len(message.body) and message.size is None
            cut = {} if whole else {"peachctl-cut": str(len(value))}
            [sent] = self._publisher.send(self._topic, [value], headers | cut, patience=10.0)
            less = next((size for size in _LESS if size < len(value)), None)
            if sent is not None or not self._publisher.too_large or less is None:
                break
            self._room = less
        trouble = self._publisher.trouble if sent is None else None
        if trouble is not None and trouble != self._said:
            logger.warning("%s; refused messages are kept in the database alone (peachctl dlq list)", trouble)
        self._said = trouble


def _headers(message: Message, reason: str, field: str, byte_offset: int | None) -> dict[str, str]:
    whole = message.size is None
    found = {
        "peachctl-reason": printable(reason, _TEXT),
        "peachctl-field": printable(field, _TEXT),
        "peachctl-byte-offset": "" if byte_offset is None else str(byte_offset),
        "peachctl-topic": message.origin.topic,
        "peachctl-partition": str(message.origin.partition),
        "peachctl-offset": str(message.origin.offset),
        "peachctl-size": str(len(message.body) if whole else message.size),
        "peachctl-sha256": (hashlib.sha256(message.body).hexdigest() if whole else message.sha256) or "",
    }
    return {name: text for name, text in found.items() if text}
