"""Filing in SQLite: messages become rows or dead letters, and are known by their origin from then on.

All of this happens inside of a transaction of the verb that calls it.
"""

import hashlib
import sqlite3
from typing import Any

from peachctl.errors import PeachError, StateError
from peachctl.store import Entry, ExecutionFileTaken, Filed, Letter, Origin, Status, columns
from peachctl.store.sqlite_attempts import Attempts
from peachctl.store.sqlite_file import Clock, SqliteFile

_PRIORITIES = range(-(1 << 31), 1 << 31)


def check_priority(priority: int) -> None:
    """Raises PeachError for what the column cannot hold (INT)."""
    if priority not in _PRIORITIES:
        raise PeachError(f"priority {priority} is out of range (a 32-bit number)")


class Filing:
    """One call of `file`: whether an origin was known is asked of the time before it."""

    def __init__(self, db: SqliteFile, clock: Clock, attempts: Attempts) -> None:
        self._db = db
        self._clock = clock
        self._attempts = attempts
        self._mine: dict[Origin, int] = {}

    def file(self, entry: Entry, *, announce: bool) -> Filed:
        known = None if entry.origin is None else self._known(entry.origin)
        if known is not None and entry.origin is not None:
            self._same_message(entry.origin, entry.sha256, known[1])
            if known[0] is not None:
                row = self._db.row("SELECT execution_file FROM {queue} WHERE id = ?", (known[0],))
                return Filed(known[0], "" if row is None else row[0], new=False)
            # It was a dead letter until now; what can be read today is no dead letter any more.
            self._db.change("DELETE FROM peach_letters WHERE topic = ? AND part = ? AND off = ?", _place(entry.origin))
        id = self._insert(entry)
        if announce:
            self._db.change("INSERT INTO peach_outbox (queue_id) VALUES (?)", (id,))
        if entry.origin is not None:
            outcome = "filed" if entry.refused is None else "refused"
            self._remember(entry.origin, entry.sha256, id, outcome)
            self._mine[entry.origin] = id
        return Filed(id, entry.execution_file, new=True)

    def _insert(self, entry: Entry) -> int:
        check_priority(entry.priority)
        now = columns.local_time(self._clock.wall())
        refused = entry.refused is not None
        status, finished = (Status.ERROR, now) if refused else (Status.QUEUED, columns.NO_DATE)
        try:
            cursor = self._db.change(
                "INSERT INTO {queue} (user, execution_file, workflow_json, status, progress,"
                " original_workflow_file, sending_date, finished_date, priority, output_file)"
                " VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, '')",
                columns.queue_values(entry, status, now, finished),
            )
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            raise ExecutionFileTaken(entry.execution_file) from error
        id = cursor.lastrowid
        assert id is not None
        # What clients deleted a row of, and its number came again (in a table with ids of their own), is forgotten.
        self._attempts.forget(id)
        self._db.change(
            "INSERT INTO peach_jobs (queue_id, name, hub, scheduler, unpacked, reason) VALUES (?, ?, ?, ?, ?, ?)",
            (
                id,
                columns.text(entry.name),
                None if entry.hub is None else columns.text(entry.hub),
                entry.scheduler,
                int(refused),
                None if entry.refused is None else columns.text(entry.refused),
            ),
        )
        return id

    def file_letter(self, letter: Letter) -> None:
        id = letter.queue_id
        if letter.origin is not None:
            if letter.origin in self._mine:
                id = self._mine[letter.origin]
            elif self._known(letter.origin) is not None:
                return
            else:
                whole = len(letter.body) == letter.size <= columns.BODY_LENGTH
                sha256 = hashlib.sha256(letter.body).hexdigest() if whole else None
                self._remember(letter.origin, sha256, id, "dead")
        self._db.change(
            "INSERT INTO peach_letters (reason, field, byte_offset, topic, part, off, file, size, body, received,"
            " queue_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            columns.letter_values(letter, id),
        )

    def _known(self, origin: Origin) -> Any:
        """(queue_id, sha256) of an origin, or None."""
        topic, part, off = _place(origin)
        return self._db.row(
            "SELECT queue_id, sha256 FROM peach_origins WHERE topic = ? AND epoch = ? AND part = ? AND off = ?",
            (topic, self._epoch(topic), part, off),
        )

    def _remember(self, origin: Origin, sha256: str | None, id: int | None, outcome: str) -> None:
        topic, part, off = _place(origin)
        self._db.change(
            "INSERT INTO peach_origins (topic, epoch, part, off, sha256, queue_id, outcome)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (topic, epoch, part, off)"
            " DO UPDATE SET sha256 = excluded.sha256, queue_id = excluded.queue_id, outcome = excluded.outcome",
            (topic, self._epoch(topic), part, off, sha256, id, outcome),
        )

    def _epoch(self, topic: str) -> int:
        row = self._db.row("SELECT value FROM peach_meta WHERE name = ?", (f"epoch:{topic}",))
        return 0 if row is None else int(row[0])

    @staticmethod
    def _same_message(origin: Origin, sha256: str, known: str | None) -> None:
        if known is not None and known != sha256:
            raise StateError(
                f"topic {origin.topic}: partition {origin.partition}, offset {origin.offset} holds another message than"
                " the one that was filed from there: the topic was deleted and made anew",
                f"peachctl init-kafka --accept-new {origin.topic}",
            )


def _place(origin: Origin) -> tuple[str, int, int]:
    return columns.text(origin.topic), origin.partition, origin.offset
