"""Filing in MySQL: messages become rows or dead letters, and are known by their origin from then on.

All of this happens inside of a transaction of the verb that calls it, with a few statements for any number of entries.
Two that file the same message at once both make a row; the second of them fails at the origin's key, begins again,
and finds what the first one made.
"""

# ruff: noqa: S608 - what is put together here are `%s` for the values of an IN; values are bound

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peachctl.store import (
    Entry,
    EntryTooLarge,
    ExecutionFileTaken,
    Filed,
    Letter,
    Origin,
    Outcome,
    Status,
    columns,
    rules,
)
from peachctl.store.mysql_attempts import Attempts
from peachctl.store.mysql_connection import MysqlSession, among, marks
from peachctl.store.mysql_errors import Again, DuplicateKey, RowTooLarge

USER_LENGTH = 512
_MANY = 500  # texts in one statement

Place = tuple[bytes, int, int, int]
"""Topic, epoch, partition, offset: the key of an origin."""


@dataclass(frozen=True, slots=True)
class _Known:
    """An origin that is known; execution_file: of its row, '' where that is gone."""

    queue_id: int | None
    sha256: str | None
    outcome: str
    execution_file: str


class Filing:
    """One call of `file`: whether an origin was known is asked of the time before it."""

    def __init__(self, db: MysqlSession, wall: Callable[[], float], attempts: Attempts) -> None:
        self._db = db
        self._wall = wall
        self._attempts = attempts

    def file(self, entries: Sequence[Entry], letters: Sequence[Letter], *, announce: bool) -> list[Filed]:
        for entry in entries:
            _check(entry)
        found_at = [*(one.origin for one in entries), *(one.origin for one in letters)]
        origins = [origin for origin in found_at if origin is not None]
        places = self._places(origins)
        known = self._known(list(places.values()))
        fresh: list[Entry] = []
        mine: dict[Origin, Entry] = {}
        for entry in entries:
            if entry.origin is None:
                fresh.append(entry)
                continue
            found = known.get(places[entry.origin])
            first = mine.get(entry.origin)
            sha256 = first.sha256 if first is not None else None if found is None else found.sha256
            rules.check_same_message(entry.origin, entry.sha256, sha256)
            # What was a dead letter until now, and can be read today, is no dead letter any more.
            if first is None and (found is None or (found.queue_id is None and self._has_letter(places[entry.origin]))):
                mine[entry.origin] = entry
                fresh.append(entry)
        ids = self._insert(fresh, announce=announce)
        self._remember_entries(mine, ids, places, known)
        filed = []
        for entry in entries:
            found = None if entry.origin is None else known.get(places[entry.origin])
            first = entry if entry.origin is None else mine.get(entry.origin)
            if first is not None:
                filed.append(Filed(ids[first.execution_file], first.execution_file, new=first is entry))
            elif found is not None:
                filed.append(Filed(found.queue_id or 0, found.execution_file, new=False))
        mine_ids = {origin: ids[entry.execution_file] for origin, entry in mine.items()}
        self._file_letters(letters, mine_ids, places, known)
        return filed

    def refile(self, letter: Letter, entry: Entry) -> Filed:
        """A letter, locked before, becomes a queued row: the one that was refused, where it is still there."""
        _check(entry)
        found = None
        if letter.queue_id is not None:
            status = self._attempts.lock(letter.queue_id)
            found = self._db.row(
                "SELECT j.attempt FROM {queue} q LEFT JOIN peach_jobs j ON j.queue_id = q.id WHERE q.id = %s",
                (letter.queue_id,),
            )
        if found is None or letter.queue_id is None:
            id = self._insert([entry], announce=False)[entry.execution_file]
        elif (status, found[0]) == (Status.ERROR, 0):
            id = letter.queue_id
            self._replace(id, entry)
        else:
            raise rules.not_refused(letter)
        self._db.insert("INSERT INTO peach_outbox (queue_id)", [(id,)])
        self._db.change("DELETE FROM peach_letters WHERE number = %s", (letter.number,))
        if letter.origin is not None:
            place = self._places([letter.origin])[letter.origin]
            before = self._known([place]).get(place)
            self._remember([(place, None if before is None else before.sha256, id, "filed")], again=True)
        return Filed(id, entry.execution_file, new=True)

    def outcome(self, origin: Origin) -> Outcome | None:
        place = self._places([origin])[origin]
        known = self._known([place]).get(place)
        return None if known is None else Outcome(known.outcome, known.queue_id, known.sha256)

    def last_offset(self, topic: str, partition: int) -> int | None:
        origin = Origin(topic, partition, 0)
        (last,) = self._db.row(
            "SELECT MAX(off) FROM peach_origins WHERE topic = %s AND epoch = %s AND part = %s",
            self._places([origin])[origin][:3],
        )
        return None if last is None else int(last)

    def began(self, topic: str) -> dict[int, int] | None:
        origin = Origin(topic, 0, 0)
        epoch = self._places([origin])[origin][1]
        name = rules.began_name(columns.text(topic)).encode()
        row = self._db.row("SELECT value FROM peach_meta WHERE name = %s", (name,))
        return rules.read_began(None if row is None else row[0], epoch)

    def begin(self, topic: str, at: Mapping[int, int]) -> dict[int, int]:
        name = rules.began_name(columns.text(topic)).encode()
        self._db.insert(
            "INSERT INTO peach_meta (name, value)",
            [(name, rules.write_began(at))],
            "ON DUPLICATE KEY UPDATE name = name",
        )
        return self.began(topic) or {}

    def new_epoch(self, topic: str) -> int:
        name = _epoch(topic)
        # First the row, then its lock: two that begin a new epoch at once begin two.
        self._db.insert("INSERT INTO peach_meta (name, value)", [(name, "0")], "ON DUPLICATE KEY UPDATE name = name")
        (value,) = self._db.row("SELECT value FROM peach_meta WHERE name = %s FOR UPDATE", (name,))
        self._db.change("UPDATE peach_meta SET value = %s WHERE name = %s", (str(int(value) + 1), name))
        return int(value) + 1

    # Rows

    def _insert(self, entries: Sequence[Entry], *, announce: bool) -> dict[str, int]:
        """New rows and what is remembered of them. Returns ids by execution_file."""
        if not entries:
            return {}
        files = [columns.text(entry.execution_file) for entry in entries]
        seen: set[str] = set()
        for file in files:
            if file in seen:
                raise ExecutionFileTaken(file)
            seen.add(file)
        now = columns.local_time(self._wall())
        rows = []
        for entry in entries:
            refused = entry.refused is not None
            status, finished = (Status.ERROR, now) if refused else (Status.QUEUED, columns.NO_DATE)
            rows.append((*columns.queue_values(entry, status, now, finished), 0, ""))
        try:
            self._db.insert(
                "INSERT INTO {queue} (user, execution_file, workflow_json, status, original_workflow_file,"
                " sending_date, finished_date, priority, progress, output_file)",
                rows,
            )
        except RowTooLarge as error:
            raise _too_large(entries[error.index], error) from error
        except DuplicateKey:
            # Another's row, if it has been committed; else it may be gone again when this is begun anew.
            taken = {file for _, file in self._ids(files)}
            for file in files:
                if file in taken:
                    raise ExecutionFileTaken(file) from None
            raise
        by_file = self._given(files)
        ids = {entry.execution_file: by_file[file] for entry, file in zip(entries, files, strict=True)}
        self._attempts.forget_stale(list(ids.values()))
        self._remember_jobs([(ids[entry.execution_file], entry) for entry in entries])
        if announce:
            self._db.insert("INSERT INTO peach_outbox (queue_id)", [(id,) for id in ids.values()])
        return ids

    def _given(self, files: Sequence[str]) -> dict[str, int]:
        """The ids of rows that were inserted in this order by the last statement, or the last ones."""
        if len(files) == 1 and self._db.last_id:
            return {files[0]: self._db.last_id}
        # Ids rise in the order of the rows. Where there are as many between the first and the last as rows, all are
        # ours; else what a row gets depends on settings of the server.
        first, last = self._db.row(
            "SELECT min(id), max(id) FROM {queue} WHERE execution_file IN (%s, %s)", (files[0], files[-1])
        )
        if last - first == len(files) - 1:
            return {file: first + index for index, file in enumerate(files)}
        return {file: id for id, file in self._ids(files)}

    def _ids(self, files: Sequence[str]) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for start in range(0, len(files), _MANY):
            part = files[start : start + _MANY]
            found += self._db.rows(
                f"SELECT id, execution_file FROM {{queue}} WHERE execution_file IN ({marks(part)})", part
            )
        return found

    def _replace(self, id: int, entry: Entry) -> None:
        """A row that was refused becomes the entry's, with its id and the time at which it was sent."""
        user, file, body, status, title, _, finished, priority = columns.queue_values(
            entry, Status.QUEUED, "", columns.NO_DATE
        )
        self._check_size(entry)
        try:
            self._db.change(
                "UPDATE {queue} SET user = %s, execution_file = %s, workflow_json = %s, status = %s, progress = 0,"
                " original_workflow_file = %s, finished_date = %s, priority = %s, output_file = '' WHERE id = %s",
                (user, file, body, status, title, finished, priority, id),
            )
        except DuplicateKey as error:
            raise ExecutionFileTaken(entry.execution_file) from error
        self._attempts.forget([id])
        self._remember_jobs([(id, entry)])

    def _check_size(self, entry: Entry) -> None:
        try:
            self._db.check_size(columns.queue_values(entry, Status.QUEUED, "", ""))
        except RowTooLarge as error:
            raise _too_large(entry, error) from error

    def _remember_jobs(self, pairs: Sequence[tuple[int, Entry]]) -> None:
        rows = [
            (
                id,
                columns.text(entry.name),
                None if entry.hub is None else columns.text(entry.hub),
                entry.scheduler,
                int(entry.refused is not None),
                None if entry.refused is None else columns.text(entry.refused),
            )
            for id, entry in pairs
        ]
        try:
            self._db.insert("INSERT INTO peach_jobs (queue_id, name, hub, scheduler, unpacked, reason)", rows)
        except RowTooLarge as error:
            raise _too_large(pairs[error.index][1], error) from error

    # Letters

    def _file_letters(
        self,
        letters: Sequence[Letter],
        mine: dict[Origin, int],
        places: dict[Origin, Place],
        known: dict[Place, _Known],
    ) -> None:
        rows, dead = [], []
        told: set[Origin] = set()
        for letter in letters:
            id = letter.queue_id
            if letter.origin is not None:
                place = places[letter.origin]
                if letter.origin in mine:
                    id = mine[letter.origin]
                elif place in known:
                    rules.check_same_message(letter.origin, rules.sha256_of(letter), known[place].sha256)
                    continue
                elif letter.origin in told:
                    continue
                else:
                    dead.append((place, rules.sha256_of(letter), id, "dead"))
                    told.add(letter.origin)
            # Each byte may take two in the statement.
            body = letter.body[: max(0, self._db.packet // 2 - (64 << 10))]
            rows.append(columns.letter_values(replace(letter, body=body), id))
        self._remember(dead)
        self._db.insert(
            "INSERT INTO peach_letters (reason, field, byte_offset, topic, part, off, file, size, body, received,"
            " queue_id)",
            rows,
        )

    def _has_letter(self, place: Place) -> bool:
        return bool(
            self._db.rows(
                "SELECT 1 FROM peach_letters WHERE topic = %s AND part = %s AND off = %s LIMIT 1",
                (place[0], *place[2:]),
            )
        )

    # Origins

    def _places(self, origins: Sequence[Origin]) -> dict[Origin, Place]:
        """Keys of origins, in the present epochs of their topics."""
        topics = sorted({origin.topic for origin in origins})
        if not topics:
            return {}
        names = [_epoch(topic) for topic in topics]
        found = self._db.rows(f"SELECT name, value FROM peach_meta WHERE name IN ({marks(names)})", names)
        epochs = {_bytes(name): int(value) for name, value in found}
        return {
            origin: (
                columns.text(origin.topic).encode(),
                epochs.get(_epoch(origin.topic), 0),
                origin.partition,
                origin.offset,
            )
            for origin in origins
        }

    def _known(self, places: Sequence[Place]) -> dict[Place, _Known]:
        offsets: dict[tuple[bytes, int, int], list[int]] = {}
        for topic, epoch, part, off in places:
            offsets.setdefault((topic, epoch, part), []).append(off)
        known = {}
        for (topic, epoch, part), these in offsets.items():
            condition, values = among("o.off", these)
            for off, id, sha256, outcome, file in self._db.rows(
                "SELECT o.off, o.queue_id, o.sha256, o.outcome, q.execution_file FROM peach_origins o"
                " LEFT JOIN {queue} q ON q.id = o.queue_id"
                f" WHERE o.topic = %s AND o.epoch = %s AND o.part = %s AND {condition}",
                (topic, epoch, part, *values),
            ):
                known[topic, epoch, part, off] = _Known(id, sha256, outcome, file or "")
        return known

    def _remember_entries(
        self,
        mine: dict[Origin, Entry],
        ids: dict[str, int],
        places: dict[Origin, Place],
        known: dict[Place, _Known],
    ) -> None:
        new = []
        for origin, entry in mine.items():
            place, id = places[origin], ids[entry.execution_file]
            outcome = "filed" if entry.refused is None else "refused"
            if place not in known:
                new.append((place, entry.sha256, id, outcome))
                continue
            mended = self._db.change(
                "UPDATE peach_origins SET sha256 = %s, queue_id = %s, outcome = %s"
                " WHERE topic = %s AND epoch = %s AND part = %s AND off = %s AND queue_id IS NULL",
                (entry.sha256, id, outcome, *place),
            )
            if not mended:
                raise Again("another filed this message")
            self._db.change(
                "DELETE FROM peach_letters WHERE topic = %s AND part = %s AND off = %s", (place[0], *place[2:])
            )
        self._remember(new)

    def _remember(self, rows: Sequence[tuple[Place, str | None, int | None, str]], *, again: bool = False) -> None:
        self._db.insert(
            "INSERT INTO peach_origins (topic, epoch, part, off, sha256, queue_id, outcome)",
            [(*place, sha256, id, outcome) for place, sha256, id, outcome in rows],
            "ON DUPLICATE KEY UPDATE sha256 = VALUES(sha256), queue_id = VALUES(queue_id), outcome = VALUES(outcome)"
            if again
            else "",
        )


def _check(entry: Entry) -> None:
    """What the columns of the table would refuse."""
    rules.check_priority(entry.priority)
    length = len(columns.text(entry.user))
    if length > USER_LENGTH:
        raise EntryTooLarge(entry, f"the name of its user has {length} characters, the database takes {USER_LENGTH}")


def _epoch(topic: str) -> bytes:
    return f"epoch:{columns.text(topic)}".encode()


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _too_large(entry: Entry, error: RowTooLarge) -> EntryTooLarge:
    return EntryTooLarge(
        entry,
        f"the workflow takes {error.size} bytes in the database, whose server takes {error.most} at once",
        "raise max_allowed_packet on the server; on MySQL 5.6 and MariaDB 10.1 innodb_log_file_size as well",
    )
