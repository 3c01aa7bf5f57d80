"""`submit` over Kafka: workflows as messages, and what became of each.

A message's id is not known when it is sent: ingest files it under its topic, partition and offset, and there it is
found. What ingest refused is found there too.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peachctl.errors import PeachError, RefusedError
from peachctl.failpoint import fail_point
from peachctl.masking import mask
from peachctl.store import Origin, Store

if TYPE_CHECKING:
    from peachctl.bus.kafka_send import KafkaSender

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Submission:
    """One file. status: `unsent`; `unknown` (not acknowledged: it may or may not be there); `sent`; and once ingest
    has seen it `queued` or `refused`. reason: why it was not sent, or refused."""

    file: str
    origin: Origin | None = None
    id: int | None = None
    status: str = "unsent"
    reason: str | None = None
    error: PeachError | None = None


def send(sender: "KafkaSender", topic: str, messages: Sequence[tuple[str, bytes]], priority: int) -> list[Submission]:
    """Sends one after the other, and none after one that failed. messages: name and body. Raises PeachError where
    there is no connection: nothing was sent then."""
    from peachctl.bus import MessageTooLarge
    from peachctl.bus.kafka import PRIORITY_HEADER
    from peachctl.bus.kafka_client import TopicMissing

    sender.connect()
    headers = [(PRIORITY_HEADER, b"%d" % priority)] if priority != 1 else []
    submissions = [Submission(file) for file, _ in messages]
    for submission, (_, body) in zip(submissions, messages, strict=True):
        try:
            submission.origin = sender.send(topic, body, headers)
            fail_point("submit:sent")
            submission.status = "sent"
        except PeachError as error:
            nowhere = isinstance(error, MessageTooLarge | RefusedError | TopicMissing)
            submission.status = "unsent" if nowhere else "unknown"
            submission.reason, submission.error = error.message, error
            break
    return submissions


def find(store: Store, submissions: Sequence[Submission], patience: float | None) -> None:
    """Looks for what ingest has made of them, for `patience` seconds (None: until all are found)."""
    until = None if patience is None else time.monotonic() + patience
    pause = 0.02
    while True:
        for one in submissions:
            if one.origin is not None and one.status == "sent":
                _look(store, one, one.origin)
        if not any(one.status == "sent" for one in submissions) or (until is not None and time.monotonic() >= until):
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def _look(store: Store, submission: Submission, origin: Origin) -> None:
    outcome = store.outcome(origin)
    if outcome is None:
        return
    submission.id = outcome.queue_id
    if outcome.word == "filed":
        submission.status = "queued"
        return
    submission.status = "refused"
    row = store.get(outcome.queue_id) if outcome.queue_id is not None else None
    if row is not None and row.reason:
        submission.reason = mask(row.reason)
        return
    reasons = [letter.reason for letter in store.letters(bodies=False) if letter.origin == origin]
    submission.reason = mask(reasons[0]) if reasons else "it stands with the dead letters: peachctl dlq list"
