"""The store on MySQL and MariaDB. The verbs of `Store`; see the port for what each does.

Leases end by the server's clock, in UTC: the clocks of the hosts that hold them do not matter. What people read
(sending_date, finished_date) is this host's local time.

Nothing here but `hold` waits for a claim, and a claim waits for nothing but `hold` and, with `per_user`, other claims
(mysql_claim). Every verb may be begun again without harm when the reply to its COMMIT is lost (mysql_connection);
`finish` and `claim` go further, for their callers try again after an UnreachableError: what was finished by the call
that failed counts as finished, and what was claimed by it is given out by the next one.
"""

# ruff: noqa: S608 - the pieces that are put together here are constants of this module; values are bound

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from peachctl.store import (
    Claim,
    Entry,
    Executor,
    Filed,
    Letter,
    NodeState,
    NodeStatus,
    Origin,
    Outcome,
    Released,
    Row,
    Status,
    Wanted,
    columns,
    rules,
)
from peachctl.store.mysql_attempts import Attempts, key
from peachctl.store.mysql_claim import gate
from peachctl.store.mysql_connection import PATIENCE, MysqlSession, Server, among, marks, parts
from peachctl.store.mysql_filing import Filing
from peachctl.store.mysql_leases import Leases
from peachctl.store.mysql_schema import need_schema

_ROW = f"{columns.SELECT} FROM {{queue}} q {columns.BESIDE}"

_LETTER = """SELECT number, reason, field, byte_offset, topic, part, off, file, size, body, received, queue_id
FROM peach_letters """
_LETTER_HEAD = """SELECT number, reason, field, byte_offset, topic, part, off, file, size, '', received, queue_id
FROM peach_letters """

_EXPIRED = "(lease_until IS NULL OR lease_until <= UTC_TIMESTAMP(6))"

_NO_LIMIT = (1 << 64) - 1


__all__ = ["PATIENCE", "MysqlStore", "open_store"]


def open_store(
    server: Server, queue_table: str = "queue", patience: float = PATIENCE, *, wall: Callable[[], float] = time.time
) -> "MysqlStore":
    """Opens the database of an installation; `init-db` has made its tables.

    patience: seconds in which a verb is tried again while the server is away. wall: unix seconds. Raises
    UnreachableError, and ConfigError where `init-db` or a newer peachctl is needed.
    """
    db = MysqlSession(server, queue_table, patience)
    try:
        need_schema(db)
    except BaseException:
        db.close()
        raise
    return MysqlStore(db, wall)


class MysqlStore:
    """The verbs of `Store`. For one thread; each thread opens its own."""

    def __init__(self, db: MysqlSession, wall: Callable[[], float]) -> None:
        self._db = db
        self._wall = wall
        self._attempts = Attempts(db, wall)
        self._filing = Filing(db, wall, self._attempts)
        self._leases = Leases(db, self._attempts)

    def close(self) -> None:
        self._db.close()

    # Filing

    def file(
        self, entries: Sequence[Entry], letters: Sequence[Letter] = (), sure: Callable[[], None] = lambda: None
    ) -> list[Filed]:
        if not entries and not letters:
            return []

        def work() -> list[Filed]:
            filed = self._filing.file(entries, letters, announce=True)
            sure()
            return filed

        # What has an origin finds by it what it did before.
        known = all(one.origin for one in entries) and all(one.origin for one in letters)
        return self._db.transaction(work, marked=not known)

    def file_claimed(self, entry: Entry, executor: Executor, lease: float) -> Claim:
        rules.check_runnable(entry)

        def work() -> Claim:
            # No announcement: it is not for others to take.
            (filed,) = self._filing.file([entry], (), announce=False)
            if not filed.new:
                raise rules.made_already(filed.id)
            return self._leases.begin([filed.id], executor, lease)[0]

        return self._db.transaction(work)

    def unannounced(self, most: int) -> list[Row]:
        found = self._db.rows(
            f"{columns.SELECT} FROM peach_outbox o STRAIGHT_JOIN {{queue}} q ON q.id = o.queue_id {columns.BESIDE}"
            " ORDER BY o.queue_id LIMIT %s",
            (most,),
        )
        return [columns.row(values) for values in found]

    def announced(self, ids: Iterable[int]) -> None:
        for part in parts(list(ids)):
            condition, values = among("queue_id", part)
            self._db.change(f"DELETE FROM peach_outbox WHERE {condition}", values)

    def outcome(self, origin: Origin) -> Outcome | None:
        return self._filing.outcome(origin)

    def last_offset(self, topic: str, partition: int) -> int | None:
        return self._filing.last_offset(topic, partition)

    def began(self, topic: str) -> dict[int, int] | None:
        return self._filing.began(topic)

    def begin(self, topic: str, at: Mapping[int, int]) -> dict[int, int]:
        return self._db.transaction(lambda: self._filing.begin(topic, at), marked=False)

    def new_epoch(self, topic: str) -> int:
        return self._db.transaction(lambda: self._filing.new_epoch(topic))

    def adopted(self) -> bool:
        return self._db.row("SELECT 1 FROM peach_meta WHERE name = 'adopted'") is not None

    # Executors and claims

    def join(self, executor: Executor) -> None:
        self._db.change(
            "INSERT INTO peach_executors (token, host, alive) VALUES (%s, %s, %s)"
            " ON DUPLICATE KEY UPDATE host = VALUES(host), alive = VALUES(alive)",
            (executor.token, columns.text(executor.host), columns.text(executor.alive)),
        )

    def leave(self, executor: Executor) -> None:
        self._db.change(
            "DELETE FROM peach_executors WHERE token = %s AND NOT EXISTS"
            " (SELECT 1 FROM peach_runs WHERE executor = %s AND ended IS NULL)",
            (executor.token, executor.token),
        )

    def executors(self) -> list[Executor]:
        return [
            Executor(*row) for row in self._db.rows("SELECT token, host, alive FROM peach_executors ORDER BY number")
        ]

    def claim(
        self, executor: Executor, most: int, lease: float, *, only: int | None = None, per_user: int | None = None
    ) -> list[Claim]:
        if most < 1 or (only is not None and not columns.known_id(only)):
            return []
        return self._leases.claim(executor, most, lease, only=only, per_user=per_user)

    def renew(self, executor: Executor, claims: Sequence[Claim], lease: float) -> dict[Claim, Wanted]:
        return self._leases.renew(executor, claims, lease)

    # What the holder of a claim writes

    def report(self, claim: Claim, progress: int | None, nodes: Sequence[NodeState]) -> bool:
        def work() -> bool:
            if self._attempts.lock(claim.id) is not Status.PROCESSING or not self._attempts.open(key(claim)):
                return False
            if progress is not None:
                self._db.change(
                    "UPDATE {queue} SET progress = %s WHERE id = %s", (max(0, min(100, progress)), claim.id)
                )
            self._attempts.put_nodes(claim.id, nodes)
            return True

        return self._db.transaction(work, marked=False)

    def finish(
        self,
        claim: Claim,
        status: Status,
        *,
        reason: str | None,
        output_file: str,
        nodes: Sequence[NodeState] = (),
        progress: int | None = None,
    ) -> bool:
        rules.check_end(status)
        percent = None if progress is None else max(0, min(100, progress))
        now, output = columns.local_time(self._wall()), columns.text(output_file)

        def work() -> bool:
            before = self._attempts.lock(claim.id)
            final, why = rules.end(before, status, reason)
            ends = before in (Status.PROCESSING, Status.CANCELLED)
            # The run is over in any case: a row that was retried meanwhile may be claimed now.
            if not self._attempts.close_run(key(claim), final.word if ends else "deleted", why):
                return self._finished(claim, final, output)
            if not ends:
                self._attempts.forget_if_deleted(claim.id)
                return False
            self._db.change(
                "UPDATE {queue} SET status = %s, finished_date = %s, output_file = %s,"
                " progress = CASE WHEN %s = 3 THEN 100 ELSE COALESCE(%s, progress) END WHERE id = %s",
                (int(final), now, output, int(final), percent, claim.id),
            )
            self._attempts.put_nodes(claim.id, nodes)
            unpacked = final is Status.ERROR and not output
            if why is not None or unpacked:  # of which the claim has left none
                self._attempts.note(claim.id, why, unpacked=unpacked)
            return True

        # Begun again after a lost reply it finds its own end (`_finished`).
        return self._db.transaction(work, marked=False)

    def _finished(self, claim: Claim, final: Status, output: str) -> bool:
        """Whether this very end was written by a call that failed for its caller."""
        return (
            self._db.row(
                "SELECT 1 FROM peach_runs r JOIN {queue} q ON q.id = r.queue_id"
                " JOIN peach_jobs j ON j.queue_id = r.queue_id AND j.attempt = r.attempt"
                " WHERE r.queue_id = %s AND r.attempt = %s AND r.token = %s AND r.outcome = %s"
                " AND q.status = %s AND q.output_file = %s",
                (*key(claim), final.word, int(final), output),
            )
            is not None
        )

    def give_back(self, claim: Claim, *, vanished: bool, max_attempts: int, reason: str) -> Released | None:
        def work() -> Released | None:
            run = self._db.row(
                "SELECT queue_id, attempt, host FROM peach_runs"
                " WHERE queue_id = %s AND attempt = %s AND token = %s AND ended IS NULL",
                key(claim),
            )
            return None if run is None else self._attempts.end(run, reason, max_attempts, vanished=vanished)

        return self._db.transaction(work)

    def release(self, tokens: Sequence[str], max_attempts: int) -> list[Released]:
        if not tokens:
            return []

        def work() -> list[Released]:
            runs = self._db.rows(
                f"SELECT queue_id, attempt, host FROM peach_runs WHERE ended IS NULL AND executor IN ({marks(tokens)})",
                tokens,
            )
            released = self._attempts.vanish(runs, max_attempts)
            self._db.change(f"DELETE FROM peach_executors WHERE token IN ({marks(tokens)})", tokens)
            return released

        return self._db.transaction(work)

    def release_expired(self, max_attempts: int) -> list[Released]:
        expired = self._db.rows(f"SELECT queue_id, attempt, host FROM peach_runs WHERE ended IS NULL AND {_EXPIRED}")
        # In processing with no run at all: only where the row is ours, others may have executors of their own.
        stranded = self._db.rows(
            "SELECT q.id FROM {queue} q JOIN peach_jobs j ON j.queue_id = q.id WHERE q.status = 1"
            " AND NOT EXISTS (SELECT 1 FROM peach_runs r WHERE r.queue_id = q.id AND r.ended IS NULL)"
            " AND NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id) ORDER BY q.id"
        )

        def work() -> list[Released]:
            released = self._attempts.vanish(expired, max_attempts, _EXPIRED)
            ended = (self._attempts.strand(id, max_attempts) for (id,) in stranded)
            return released + [one for one in ended if one is not None]

        released = self._db.transaction(work) if expired or stranded else []
        self._attempts.sweep()
        return released

    # Reading

    def get(self, id: int) -> Row | None:
        if not columns.known_id(id):
            return None
        found = self._db.row(f"{_ROW} WHERE q.id = %s", (id,))
        return None if found is None else columns.row(found)

    def find(self, execution_file: str) -> Row | None:
        found = self._db.row(f"{_ROW} WHERE q.execution_file = %s", (columns.text(execution_file),))
        return None if found is None else columns.row(found)

    def rows(self, *, user: str | None = None, status: Status | None = None, limit: int | None = None) -> list[Row]:
        tests: Sequence[str] = ("1 = 1",)
        values: Sequence[str | int] = ()
        if user is not None:
            tests, values = (*tests, "q.user = %s"), (*values, columns.text(user))
        if status is not None:
            tests, values = (*tests, "q.status = %s"), (*values, int(status))
        values = (*values, _NO_LIMIT if limit is None else limit)
        found = self._db.rows(f"{_ROW} WHERE {' AND '.join(tests)} ORDER BY q.id DESC LIMIT %s", values)
        return [columns.row(row) for row in found]

    def nodes(self, id: int) -> list[NodeState]:
        if not columns.known_id(id):
            return []
        found = self._db.rows(
            "SELECT node_id, service, version, status, started, finished, error, outputs FROM peach_nodes"
            " WHERE queue_id = %s ORDER BY position",
            (id,),
        )
        return [columns.node(values) for values in found]

    def counts(self) -> dict[Status, int]:
        counted = dict(self._db.rows("SELECT status, count(*) FROM {queue} GROUP BY status"))
        return {status: counted.get(int(status), 0) for status in Status}

    def unpacked(self, most: int) -> list[Row]:
        found = self._db.rows(
            f"{_ROW} WHERE j.unpacked = 1 AND q.status = 4 AND coalesce(q.output_file, '') = ''"
            " ORDER BY j.queue_id LIMIT %s",
            (most,),
        )
        return [columns.row(values) for values in found]

    # What operators do

    def cancel(self, id: int) -> Status:
        def work() -> Status:
            before = self._must(id)
            rules.check_cancel(id, before)
            self._db.change(
                "UPDATE {queue} SET status = 2, finished_date = %s WHERE id = %s",
                (columns.local_time(self._wall()), id),
            )
            if before is Status.QUEUED:
                self._attempts.settle_nodes(id, NodeStatus.CANCELLED, NodeStatus.CANCELLED, None)
            self._db.change("DELETE FROM peach_left WHERE queue_id = %s", (id,))
            self._attempts.note(id, "it was cancelled", unpacked=False)
            return before

        return self._db.transaction(work)

    def retry(self, id: int, *, from_start: bool = False) -> None:
        def work() -> None:
            status = self._must(id)
            left = self._db.row("SELECT 1 FROM peach_left WHERE queue_id = %s", (id,)) is not None
            (body,) = self._db.row("SELECT workflow_json FROM {queue} WHERE id = %s", (id,))
            rules.check_retry(id, status, body, left=left, from_start=from_start)
            self._db.change(
                "UPDATE {queue} SET status = 0, progress = 0, finished_date = %s, output_file = '' WHERE id = %s",
                (columns.NO_DATE, id),
            )
            self._db.change("DELETE FROM peach_left WHERE queue_id = %s", (id,))
            self._attempts.note(id, None, unpacked=False)
            self._db.change(
                "UPDATE peach_jobs SET vanished = 0, from_start = greatest(from_start, %s) WHERE queue_id = %s",
                (int(from_start), id),
            )
            if from_start:
                self._db.change("DELETE FROM peach_nodes WHERE queue_id = %s", (id,))
            else:
                self._db.change(
                    "UPDATE peach_nodes SET status = 'waiting', started = NULL, finished = NULL, error = NULL,"
                    " outputs = NULL WHERE queue_id = %s AND status NOT IN ('success', 'reused')",
                    (id,),
                )

        self._db.transaction(work)

    def delete(self, id: int) -> None:
        def work() -> None:
            self._must(id)
            self._db.change("DELETE FROM {queue} WHERE id = %s", (id,))
            self._attempts.forget([id])

        self._db.transaction(work)

    def prioritise(self, id: int, priority: int) -> None:
        rules.check_priority(priority)

        def work() -> None:
            self._must(id)
            self._db.change("UPDATE {queue} SET priority = %s WHERE id = %s", (priority, id))

        self._db.transaction(work, marked=False)

    def hold(self, held: bool) -> None:
        def work() -> None:
            gate(self._db, alone=True)
            self._db.change(
                "INSERT INTO peach_meta (name, value) VALUES ('held', %s)"
                " ON DUPLICATE KEY UPDATE value = VALUES(value)",
                (str(int(held)),),
            )

        self._db.transaction(work, marked=False)

    def held(self) -> bool:
        return self._db.row("SELECT 1 FROM peach_meta WHERE name = 'held' AND value = '1'") is not None

    def attach(self, id: int, output_file: str) -> None:
        if not columns.known_id(id):
            return

        def work() -> None:
            attached = self._db.change(
                "UPDATE {queue} SET output_file = %s WHERE id = %s AND status IN (2, 3, 4)"
                " AND coalesce(output_file, '') = ''",
                (columns.text(output_file), id),
            )
            if attached and output_file:
                self._db.change("UPDATE peach_jobs SET unpacked = 0 WHERE queue_id = %s", (id,))

        self._db.transaction(work, marked=False)

    # Dead letters

    def letters(self, *, bodies: bool = True) -> list[Letter]:
        found = self._db.rows(f"{_LETTER if bodies else _LETTER_HEAD} ORDER BY number")
        return [_letter(values) for values in found]

    def letter(self, number: int) -> Letter | None:
        if not columns.known_id(number):
            return None
        values = self._db.row(f"{_LETTER} WHERE number = %s", (number,))
        return None if values is None else _letter(values)

    def drop_letters(self, numbers: Sequence[int]) -> int:
        known = [number for number in numbers if columns.known_id(number)]

        def work() -> int:
            return sum(
                self._db.change(f"DELETE FROM peach_letters WHERE number IN ({marks(part)})", part)
                for part in parts(known)
            )

        return self._db.transaction(work) if known else 0

    def refile(self, number: int, entry: Entry) -> Filed:
        def work() -> Filed:
            found = columns.known_id(number) and self._db.row(f"{_LETTER} WHERE number = %s FOR UPDATE", (number,))
            if not found:
                raise rules.no_letter(number)
            return self._filing.refile(_letter(found), entry)

        return self._db.transaction(work)

    # Shared by verbs

    def _must(self, id: int) -> Status:
        """The status of a row, which is locked. Raises StateError when there is none."""
        row = columns.known_id(id) and self._db.row("SELECT status FROM {queue} WHERE id = %s FOR UPDATE", (id,))
        if not row:
            raise rules.no_workflow(id)
        return Status(row[0]) if row[0] in tuple(Status) else Status.ERROR


def _letter(values: Sequence[Any]) -> Letter:
    topic = values[4]
    body = values[9] or b""
    named = None if topic is None else bytes(topic).decode()
    return columns.letter((*values[:4], named, *values[5:9], body, *values[10:]))
