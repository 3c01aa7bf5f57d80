"""What holds in every database: who may do what to a row, what is told of it, which message is the same one."""

import hashlib
import json
from collections.abc import Mapping

from peachctl.errors import PeachError, StateError
from peachctl.store import Entry, Letter, Origin, Status, Wanted, columns

PRIORITIES = range(-(1 << 31), 1 << 31)
"""What the column can hold (INT)."""


def check_priority(priority: int) -> None:
    """Raises PeachError for what the column cannot hold."""
    if priority not in PRIORITIES:
        raise PeachError(f"priority {priority} is out of range (a 32-bit number)")


def check_end(status: Status) -> None:
    """Raises ValueError for a status that is no end."""
    if not status.ended:
        raise ValueError(f"{status.word} is no end")


def check_runnable(entry: Entry) -> None:
    """Raises StateError for an entry that is filed only to say why it does not run."""
    if entry.refused is not None:
        raise StateError(f"a refused workflow is not run: {entry.refused}")


def check_same_message(origin: Origin, sha256: str | None, known: str | None) -> None:
    """Raises StateError where another message was filed from this origin."""
    if None not in (known, sha256) and known != sha256:
        raise StateError(
            f"topic {origin.topic}: partition {origin.partition}, offset {origin.offset} holds another message than"
            " the one that was filed from there: the topic was deleted and made anew",
            f"peachctl init-kafka --accept-new {origin.topic}",
        )


def sha256_of(letter: Letter) -> str | None:
    """Of all bytes of its message; None where not all of them are known."""
    if letter.sha256 is None and len(letter.body) == letter.size <= columns.BODY_LENGTH:
        return hashlib.sha256(letter.body).hexdigest()
    return letter.sha256


def began_name(topic: str) -> str:
    """Under which `peach_meta` holds where reading of a topic began."""
    return f"begin:{topic}"


def write_began(at: Mapping[int, int]) -> str:
    return json.dumps(dict(sorted(at.items())))


def read_began(value: str | None, epoch: int) -> dict[int, int] | None:
    """What `write_began` wrote. A topic that was made anew is read from its beginnings."""
    if epoch:
        return {}
    return None if value is None else {int(partition): int(offset) for partition, offset in json.loads(value).items()}


def check_cancel(id: int, status: Status) -> None:
    """Raises StateError for a row that has ended."""
    if status.ended:
        raise StateError(f"workflow {id} has ended already ({status.word})", f"peachctl queue show {id}")


def check_retry(id: int, status: Status, workflow_json: str | None, *, left: bool, from_start: bool) -> None:
    """Raises StateError for a row that is not retried. left: an adoption found it unfinished."""
    if not (left or status in (Status.CANCELLED, Status.ERROR) or (from_start and status.ended)):
        hint = f"peachctl queue retry --from-start {id}   (runs all of it again)" if status.ended else None
        raise StateError(f"workflow {id} is {status.word}: only what failed or was cancelled is retried", hint)
    if not columns.holds_json(workflow_json or ""):
        raise StateError(
            f"workflow {id}: what its row holds of the workflow cannot be read any more",
            "the workflow must be sent again",
        )


def no_workflow(id: int) -> StateError:
    return StateError(f"there is no workflow {id}", "peachctl queue list")


def no_letter(number: int) -> StateError:
    return StateError(f"there is no dead letter {number}", "peachctl dlq list")


def made_already(id: int) -> StateError:
    return StateError(f"workflow {id} was made of this message already")


def not_refused(letter: Letter) -> StateError:
    return StateError(
        f"workflow {letter.queue_id}, which dead letter {letter.number} stands for, is no refused one now",
        f"peachctl queue show {letter.queue_id}   or   peachctl dlq drop {letter.number}",
    )


def wanted(status: int | None, *, there: bool, held: bool) -> Wanted:
    """What is wanted of a run. status: of its row, if that is there. held: the run is open and its executor's."""
    if not there:
        return Wanted.DELETED
    if not held:
        return Wanted.LOST
    if status == Status.PROCESSING:
        return Wanted.GO_ON
    # Also where it was retried since (queued): it starts again once this run is closed.
    return Wanted.CANCELLED if status in (Status.CANCELLED, Status.QUEUED) else Wanted.LOST


def end(now: Status | None, asked: Status, reason: str | None) -> tuple[Status, str | None]:
    """Status and reason with which a run ends: what was cancelled meanwhile stays so."""
    if now is not Status.CANCELLED:
        return asked, reason
    return now, reason if asked is now else "it was cancelled"


def vanished(host: str) -> str:
    """Why an attempt ended that nobody ended."""
    return f"its executor on {host} vanished" if host else "it was in processing, but nobody ran it"


def used_up(reason: str, attempts: int) -> str:
    return f"{reason}; after {attempts} such attempts it is not tried again (execute.max_attempts)"


def another_attempt(reason: str) -> str:
    return f"{reason}; it waits for another attempt"
