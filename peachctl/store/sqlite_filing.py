"""Filing in SQLite: messages become rows or dead letters, and are known by their origin from then on.

All of this happens inside of a transaction of the verb that calls it.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peachctl.store import Entry, ExecutionFileTaken, Filed, Letter, Origin, Outcome, Status, columns, rules
from peachctl.store.sqlite_attempts import Attempts
from peachctl.store.sqlite_file import Clock, SqliteFile


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
            rules.check_same_message(entry.origin, entry.sha256, known[1])
            if known[0] is not None:
                row = self._db.row("SELECT execution_file FROM {queue} WHERE id = ?", (known[0],))
                return Filed(known[0], "" if row is None else row[0], new=False)
            # It was a dead letter until now; what can be read today is no dead letter any more.
            letters = self._db.change(
                "DELETE FROM peach_letters WHERE topic = ? AND part = ? AND off = ?", _place(entry.origin)
            ).rowcount
            if not letters:
                return Filed(0, "", new=False)
        id = self._insert(entry)
        if announce:
            self._db.change("INSERT INTO peach_outbox (queue_id) VALUES (?)", (id,))
        if entry.origin is not None:
            outcome = "filed" if entry.refused is None else "refused"
            self._remember(entry.origin, entry.sha256, id, outcome)
            self._mine[entry.origin] = id
        return Filed(id, entry.execution_file, new=True)

    def refile(self, letter: Letter, entry: Entry) -> Filed:
        """A letter becomes a queued row: the one that was refused, where it is still there."""
        found = None
        if letter.queue_id is not None:
            found = self._db.row(
                "SELECT q.status, j.attempt FROM {queue} q LEFT JOIN peach_jobs j ON j.queue_id = q.id WHERE q.id = ?",
                (letter.queue_id,),
            )
        if found is None or letter.queue_id is None:
            id = self._insert(entry)
        elif found == (Status.ERROR, 0):
            id = self._replace(letter.queue_id, entry)
        else:
            raise rules.not_refused(letter)
        self._db.change("INSERT INTO peach_outbox (queue_id) VALUES (?)", (id,))
        self._db.change("DELETE FROM peach_letters WHERE number = ?", (letter.number,))
        if letter.origin is not None:
            known = self._known(letter.origin)
            self._remember(letter.origin, None if known is None else known[1], id, "filed")
        return Filed(id, entry.execution_file, new=True)

    def _replace(self, id: int, entry: Entry) -> int:
        """A row that was refused becomes the entry's, with its id and the time at which it was sent."""
        rules.check_priority(entry.priority)
        user, file, body, status, title, _, finished, priority = columns.queue_values(
            entry, Status.QUEUED, "", columns.NO_DATE
        )
        with _taken(entry):
            self._db.change(
                "UPDATE {queue} SET user = ?, execution_file = ?, workflow_json = ?, status = ?, progress = 0,"
                " original_workflow_file = ?, finished_date = ?, priority = ?, output_file = '' WHERE id = ?",
                (user, file, body, status, title, finished, priority, id),
            )
        self._attempts.forget(id)
        self._remember_job(id, entry)
        return id

    def _insert(self, entry: Entry) -> int:
        rules.check_priority(entry.priority)
        now = columns.local_time(self._clock.wall())
        status, finished = (Status.QUEUED, columns.NO_DATE) if entry.refused is None else (Status.ERROR, now)
        with _taken(entry):
            cursor = self._db.change(
                "INSERT INTO {queue} (user, execution_file, workflow_json, status, progress,"
                " original_workflow_file, sending_date, finished_date, priority, output_file)"
                " VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, '')",
                columns.queue_values(entry, status, now, finished),
            )
        id = cursor.lastrowid
        assert id is not None
        # What clients deleted a row of, and its number came again (in a table with ids of their own), is forgotten.
        self._attempts.forget(id)
        self._remember_job(id, entry)
        return id

    def _remember_job(self, id: int, entry: Entry) -> None:
        self._db.change(
            "INSERT INTO peach_jobs (queue_id, name, hub, scheduler, unpacked, reason) VALUES (?, ?, ?, ?, ?, ?)",
            (
                id,
                columns.text(entry.name),
                None if entry.hub is None else columns.text(entry.hub),
                entry.scheduler,
                int(entry.refused is not None),
                None if entry.refused is None else columns.text(entry.refused),
            ),
        )

    def file_letter(self, letter: Letter) -> None:
        id = letter.queue_id
        if letter.origin is not None:
            if letter.origin in self._mine:
                id = self._mine[letter.origin]
            elif (known := self._known(letter.origin)) is not None:
                rules.check_same_message(letter.origin, rules.sha256_of(letter), known[1])
                return
            else:
                self._remember(letter.origin, rules.sha256_of(letter), id, "dead")
        self._db.change(
            "INSERT INTO peach_letters (reason, field, byte_offset, topic, part, off, file, size, body, received,"
            " queue_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            columns.letter_values(letter, id),
        )

    def outcome(self, origin: Origin) -> Outcome | None:
        known = self._known(origin)
        return None if known is None else Outcome(known[2], known[0], known[1])

    def last_offset(self, topic: str, partition: int) -> int | None:
        topic = columns.text(topic)
        row = self._db.row(
            "SELECT max(off) FROM peach_origins WHERE topic = ? AND epoch = ? AND part = ?",
            (topic, self._epoch(topic), partition),
        )
        return None if row is None else row[0]

    def began(self, topic: str) -> dict[int, int] | None:
        topic = columns.text(topic)
        row = self._db.row("SELECT value FROM peach_meta WHERE name = ?", (rules.began_name(topic),))
        return rules.read_began(None if row is None else row[0], self._epoch(topic))

    def begin(self, topic: str, at: Mapping[int, int]) -> dict[int, int]:
        if self.began(topic) is None:
            self._db.change(
                "INSERT INTO peach_meta (name, value) VALUES (?, ?)",
                (rules.began_name(columns.text(topic)), rules.write_began(at)),
            )
        return self.began(topic) or {}

    def new_epoch(self, topic: str) -> int:
        topic = columns.text(topic)
        self._db.change(
            "INSERT INTO peach_meta (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (f"epoch:{topic}", str(self._epoch(topic) + 1)),
        )
        return self._epoch(topic)

    def _known(self, origin: Origin) -> Any:
        """(queue_id, sha256, outcome) of an origin, or None."""
        topic, part, off = _place(origin)
        return self._db.row(
            "SELECT queue_id, sha256, outcome FROM peach_origins"
            " WHERE topic = ? AND epoch = ? AND part = ? AND off = ?",
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


@contextmanager
def _taken(entry: Entry) -> Iterator[None]:
    """Has a script name that is taken said as such."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
            raise
        raise ExecutionFileTaken(entry.execution_file) from error


def _place(origin: Origin) -> tuple[str, int, int]:
    return columns.text(origin.topic), origin.partition, origin.offset
