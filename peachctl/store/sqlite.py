"""The store on SQLite: embedded, one host, no server. The verbs of `Store`; see the port for what each does.

Leases count seconds of CLOCK_BOOTTIME, with the boot that they belong to: a wall clock that jumps neither ends nor
prolongs one, and after a restart of the machine none holds.

A run is open until its executor, or whoever knows that it vanished, has closed it. A row with an open run is claimed by
nobody, whatever its status: `retry` of a workflow that was just cancelled waits until its processes are gone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from peachctl.errors import ConfigError
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
    schema,
)
from peachctl.store.sqlite_attempts import Attempts, OpenRun
from peachctl.store.sqlite_claim import pick, pick_only
from peachctl.store.sqlite_file import Clock, SqliteFile, connect, memory, system_clock
from peachctl.store.sqlite_filing import Filing

_ROW = f"{columns.SELECT} FROM {{queue}} q {columns.BESIDE}"

_LETTER = """SELECT number, reason, field, byte_offset, topic, part, off, file, size, body, received, queue_id
FROM peach_letters """
_LETTER_HEAD = """SELECT number, reason, field, byte_offset, topic, part, off, file, size, x'', received, queue_id
FROM peach_letters """


def open_store(
    path: Path,
    queue_table: str = "queue",
    timeout: float = 30.0,
    *,
    create: bool = True,
    clock: Clock | None = None,
) -> "SqliteStore":
    """Opens the database of an embedded installation.

    timeout: seconds to wait for a lock. create: a database that is not there is made, with its folder, and an older
    schema of ours is upgraded; a table of 2017 is not adopted so, that is `init-db`'s (it is asked for, once).
    Raises UnreachableError, and ConfigError where `init-db` or a newer peachctl is needed.
    """
    file = connect(path, queue_table, timeout, create=create)
    try:
        plan = schema.pending(file)
        if plan.adopts or (plan.steps and not create):
            what = f"holds a queue of 2017 in {queue_table!r}" if plan.adopts else "has an older schema, or none"
            raise ConfigError(f"{file.name}: the database {what}", "peachctl init-db")
        file.make_durable()
        schema.apply(file)
    except BaseException:
        file.close()
        raise
    return SqliteStore(file, clock or system_clock())


def plan(path: Path, queue_table: str = "queue", timeout: float = 30.0) -> schema.Plan:
    """What `init-db` would do to this database. Changes and creates nothing."""
    file = connect(path, queue_table, timeout, create=False) if path.exists() else memory(path, queue_table)
    try:
        return schema.pending(file)
    finally:
        file.close()


def migrate(path: Path, queue_table: str = "queue", timeout: float = 30.0) -> schema.Plan:
    """What `init-db` does: creates, upgrades or adopts. Returns what was done."""
    file = connect(path, queue_table, timeout, create=True)
    try:
        schema.pending(file)  # raises before anything is changed
        file.make_durable()
        return schema.apply(file)
    finally:
        file.close()


class SqliteStore:
    """The verbs of `Store`. For one thread; each thread opens its own."""

    def __init__(self, file: SqliteFile, clock: Clock) -> None:
        self._db = file
        self._clock = clock
        self._attempts = Attempts(file, clock)

    def close(self) -> None:
        self._db.close()

    # Filing

    def file(
        self, entries: Sequence[Entry], letters: Sequence[Letter] = (), sure: Callable[[], None] = lambda: None
    ) -> list[Filed]:
        with self._db.writing():
            filing = Filing(self._db, self._clock, self._attempts)
            filed = [filing.file(entry, announce=True) for entry in entries]
            for letter in letters:
                filing.file_letter(letter)
            sure()
        return filed

    def file_claimed(self, entry: Entry, executor: Executor, lease: float) -> Claim:
        rules.check_runnable(entry)
        with self._db.writing():
            # No announcement: it is not for others to take.
            filed = Filing(self._db, self._clock, self._attempts).file(entry, announce=False)
            if not filed.new:
                raise rules.made_already(filed.id)
            return self._begin(filed.id, executor, lease)

    def unannounced(self, most: int) -> list[Row]:
        found = self._db.rows(f"{_ROW} JOIN peach_outbox o ON o.queue_id = q.id ORDER BY o.queue_id LIMIT ?", (most,))
        return [columns.row(values) for values in found]

    def announced(self, ids: Iterable[int]) -> None:
        gone = [(id,) for id in ids]
        if gone:
            with self._db.writing():
                self._db.change_many("DELETE FROM peach_outbox WHERE queue_id = ?", gone)

    def outcome(self, origin: Origin) -> Outcome | None:
        return Filing(self._db, self._clock, self._attempts).outcome(origin)

    def last_offset(self, topic: str, partition: int) -> int | None:
        return Filing(self._db, self._clock, self._attempts).last_offset(topic, partition)

    def began(self, topic: str) -> dict[int, int] | None:
        return Filing(self._db, self._clock, self._attempts).began(topic)

    def begin(self, topic: str, at: Mapping[int, int]) -> dict[int, int]:
        with self._db.writing():
            return Filing(self._db, self._clock, self._attempts).begin(topic, at)

    def new_epoch(self, topic: str) -> int:
        with self._db.writing():
            return Filing(self._db, self._clock, self._attempts).new_epoch(topic)

    def adopted(self) -> bool:
        return self._db.row("SELECT 1 FROM peach_meta WHERE name = 'adopted'") is not None

    # Executors and claims

    def join(self, executor: Executor) -> None:
        with self._db.writing():
            self._db.change(
                "INSERT INTO peach_executors (token, host, alive) VALUES (?, ?, ?)"
                " ON CONFLICT (token) DO UPDATE SET host = excluded.host, alive = excluded.alive",
                (executor.token, columns.text(executor.host), columns.text(executor.alive)),
            )

    def leave(self, executor: Executor) -> None:
        with self._db.writing():
            self._db.change(
                "DELETE FROM peach_executors WHERE token = ? AND NOT EXISTS"
                " (SELECT 1 FROM peach_runs WHERE executor = peach_executors.token AND ended IS NULL)",
                (executor.token,),
            )

    def executors(self) -> list[Executor]:
        return [
            Executor(*row) for row in self._db.rows("SELECT token, host, alive FROM peach_executors ORDER BY rowid")
        ]

    def claim(
        self, executor: Executor, most: int, lease: float, *, only: int | None = None, per_user: int | None = None
    ) -> list[Claim]:
        if most < 1 or (only is not None and not columns.known_id(only)):
            return []
        with self._db.writing():
            if self.held():
                return []
            picked = pick(self._db, most, per_user) if only is None else pick_only(self._db, only, per_user)
            return [self._begin(id, executor, lease) for id in picked]

    def _begin(self, id: int, executor: Executor, lease: float) -> Claim:
        attempt, token, resumed = self._attempts.begin(id, executor, lease)
        row = self._get(id)
        assert row is not None
        return Claim(id, attempt, token, row, resumed)

    def renew(self, executor: Executor, claims: Sequence[Claim], lease: float) -> dict[Claim, Wanted]:
        wanted: dict[Claim, Wanted] = {}
        if not claims:
            return wanted
        with self._db.writing():
            # Not before: the wait for the lock may be longer than the lease.
            until = self._clock.boottime() + lease
            for claim in claims:
                held = self._db.change(
                    "UPDATE peach_runs SET lease_until = ?, boot = ?, beat = beat + 1"
                    " WHERE queue_id = ? AND attempt = ? AND token = ? AND executor = ? AND ended IS NULL",
                    (until, self._clock.boot, claim.id, claim.attempt, claim.token, executor.token),
                ).rowcount
                row = self._db.row("SELECT status FROM {queue} WHERE id = ?", (claim.id,))
                status = None if row is None else row[0]
                wanted[claim] = rules.wanted(status, there=row is not None, held=held == 1)
        return wanted

    # What the holder of a claim writes

    def report(self, claim: Claim, progress: int | None, nodes: Sequence[NodeState]) -> bool:
        with self._db.writing():
            held = self._db.change(
                "UPDATE {queue} SET progress = coalesce(?, progress) WHERE id = ? AND status = 1"
                " AND EXISTS (SELECT 1 FROM peach_runs"
                " WHERE queue_id = ? AND attempt = ? AND token = ? AND ended IS NULL)",
                (None if progress is None else max(0, min(100, progress)), claim.id, *_key(claim)),
            ).rowcount
            if not held:
                return False
            self._attempts.put_nodes(claim.id, nodes)
        return True

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
        now = columns.local_time(self._clock.wall())
        with self._db.writing():
            final, reason = rules.end(self._attempts.status(claim.id), status, reason)
            output = columns.text(output_file)
            ended = self._db.change(
                "UPDATE {queue} SET status = ?, finished_date = ?, output_file = ?,"
                " progress = CASE WHEN ? = 3 THEN 100 ELSE COALESCE(?, progress) END"
                " WHERE id = ? AND status IN (1, 2) AND EXISTS (SELECT 1 FROM peach_runs"
                " WHERE queue_id = ? AND attempt = ? AND token = ? AND ended IS NULL)",
                (int(final), now, output, int(final), percent, claim.id, *_key(claim)),
            ).rowcount
            # The run is over in any case: a row that was retried meanwhile may be claimed now.
            self._attempts.close_run(_key(claim), final.word if ended else "deleted", reason)
            if not ended:
                self._attempts.forget_if_deleted(claim.id)
                return False
            self._attempts.put_nodes(claim.id, nodes)
            self._attempts.note(claim.id, reason, unpacked=final is Status.ERROR and not output)
        return True

    def give_back(self, claim: Claim, *, vanished: bool, max_attempts: int, reason: str) -> Released | None:
        with self._db.writing():
            run = self._db.row(
                "SELECT host FROM peach_runs WHERE queue_id = ? AND attempt = ? AND token = ? AND ended IS NULL",
                _key(claim),
            )
            if run is None:
                return None
            opened = OpenRun(claim.id, claim.attempt, run[0])
            return self._attempts.end(opened, reason, max_attempts, vanished=vanished)

    def release(self, tokens: Sequence[str], max_attempts: int) -> list[Released]:
        released = []
        with self._db.writing():
            for token in tokens:
                released += self._attempts.vanish(
                    self._db.rows(
                        "SELECT queue_id, attempt, host FROM peach_runs WHERE ended IS NULL AND executor = ?", (token,)
                    ),
                    max_attempts,
                )
                self._db.change("DELETE FROM peach_executors WHERE token = ?", (token,))
        return released

    def release_expired(self, max_attempts: int) -> list[Released]:
        with self._db.writing():
            released = self._attempts.vanish(
                self._db.rows(
                    "SELECT queue_id, attempt, host FROM peach_runs WHERE ended IS NULL"
                    " AND (lease_until IS NULL OR lease_until <= ? OR boot IS NOT ?)",
                    (self._clock.boottime(), self._clock.boot),
                ),
                max_attempts,
            )
            # In processing with no run at all: only where the row is ours, others may have executors of their own.
            stranded = self._db.rows(
                "SELECT q.id, j.attempt, '' FROM {queue} q JOIN peach_jobs j ON j.queue_id = q.id"
                " WHERE q.status = 1"
                " AND NOT EXISTS (SELECT 1 FROM peach_runs r WHERE r.queue_id = q.id AND r.ended IS NULL)"
                " AND NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id)"
            )
            released += self._attempts.vanish(stranded, max_attempts)
            self._attempts.sweep()
        return released

    # Reading

    def get(self, id: int) -> Row | None:
        return self._get(id) if columns.known_id(id) else None

    def _get(self, id: int) -> Row | None:
        found = self._db.row(f"{_ROW} WHERE q.id = ?", (id,))
        return None if found is None else columns.row(found)

    def find(self, execution_file: str) -> Row | None:
        found = self._db.row(f"{_ROW} WHERE q.execution_file = ?", (columns.text(execution_file),))
        return None if found is None else columns.row(found)

    def rows(self, *, user: str | None = None, status: Status | None = None, limit: int | None = None) -> list[Row]:
        tests: Sequence[str] = ("1 = 1",)
        values: Sequence[str | int] = ()
        if user is not None:
            tests, values = (*tests, "q.user = ?"), (*values, columns.text(user))
        if status is not None:
            tests, values = (*tests, "q.status = ?"), (*values, int(status))
        values = (*values, -1 if limit is None else limit)
        found = self._db.rows(f"{_ROW} WHERE {' AND '.join(tests)} ORDER BY q.id DESC LIMIT ?", values)
        return [columns.row(row) for row in found]

    def nodes(self, id: int) -> list[NodeState]:
        if not columns.known_id(id):
            return []
        found = self._db.rows(
            "SELECT node_id, service, version, status, started, finished, error, outputs FROM peach_nodes"
            " WHERE queue_id = ? ORDER BY position",
            (id,),
        )
        return [columns.node(values) for values in found]

    def counts(self) -> dict[Status, int]:
        counted = dict(self._db.rows("SELECT status, count(*) FROM {queue} GROUP BY status"))
        return {status: counted.get(int(status), 0) for status in Status}

    def unpacked(self, most: int) -> list[Row]:
        found = self._db.rows(
            f"{_ROW} WHERE j.unpacked = 1 AND q.status = 4 AND coalesce(q.output_file, '') = ''"
            " ORDER BY j.queue_id LIMIT ?",
            (most,),
        )
        return [columns.row(values) for values in found]

    # What operators do

    def cancel(self, id: int) -> Status:
        with self._db.writing():
            before = self._must(id)
            rules.check_cancel(id, before)
            self._db.change(
                "UPDATE {queue} SET status = 2, finished_date = ? WHERE id = ?",
                (columns.local_time(self._clock.wall()), id),
            )
            if before is Status.QUEUED:
                self._attempts.settle_nodes(id, NodeStatus.CANCELLED, NodeStatus.CANCELLED, None)
            self._db.change("DELETE FROM peach_left WHERE queue_id = ?", (id,))
            self._attempts.note(id, "it was cancelled", unpacked=False)
        return before

    def retry(self, id: int, *, from_start: bool = False) -> None:
        with self._db.writing():
            status = self._must(id)
            left = self._db.row("SELECT 1 FROM peach_left WHERE queue_id = ?", (id,)) is not None
            (body,) = self._db.row("SELECT workflow_json FROM {queue} WHERE id = ?", (id,))
            rules.check_retry(id, status, body, left=left, from_start=from_start)
            self._db.change(
                "UPDATE {queue} SET status = 0, progress = 0, finished_date = ?, output_file = '' WHERE id = ?",
                (columns.NO_DATE, id),
            )
            self._db.change("DELETE FROM peach_left WHERE queue_id = ?", (id,))
            self._attempts.note(id, None, unpacked=False)
            self._db.change(
                "UPDATE peach_jobs SET vanished = 0, from_start = max(from_start, ?) WHERE queue_id = ?",
                (int(from_start), id),
            )
            if from_start:
                self._db.change("DELETE FROM peach_nodes WHERE queue_id = ?", (id,))
            else:
                self._db.change(
                    "UPDATE peach_nodes SET status = 'waiting', started = NULL, finished = NULL, error = NULL,"
                    " outputs = NULL WHERE queue_id = ? AND status NOT IN ('success', 'reused')",
                    (id,),
                )

    def delete(self, id: int) -> None:
        with self._db.writing():
            self._must(id)
            self._db.change("DELETE FROM {queue} WHERE id = ?", (id,))
            self._attempts.forget(id)

    def prioritise(self, id: int, priority: int) -> None:
        rules.check_priority(priority)
        with self._db.writing():
            self._must(id)
            self._db.change("UPDATE {queue} SET priority = ? WHERE id = ?", (priority, id))

    def hold(self, held: bool) -> None:
        with self._db.writing():
            self._db.change(
                "INSERT INTO peach_meta (name, value) VALUES ('held', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (str(int(held)),),
            )

    def held(self) -> bool:
        row = self._db.row("SELECT value FROM peach_meta WHERE name = 'held'")
        return row is not None and row[0] == "1"

    def attach(self, id: int, output_file: str) -> None:
        if not columns.known_id(id):
            return
        with self._db.writing():
            attached = self._db.change(
                "UPDATE {queue} SET output_file = ? WHERE id = ? AND status IN (2, 3, 4)"
                " AND coalesce(output_file, '') = ''",
                (columns.text(output_file), id),
            ).rowcount
            if attached and output_file:
                self._db.change("UPDATE peach_jobs SET unpacked = 0 WHERE queue_id = ?", (id,))

    # Dead letters

    def letters(self, *, bodies: bool = True) -> list[Letter]:
        found = self._db.rows(f"{_LETTER if bodies else _LETTER_HEAD} ORDER BY number")
        return [columns.letter(values) for values in found]

    def letter(self, number: int) -> Letter | None:
        if not columns.known_id(number):
            return None
        values = self._db.row(f"{_LETTER} WHERE number = ?", (number,))
        return None if values is None else columns.letter(values)

    def drop_letters(self, numbers: Sequence[int]) -> int:
        known = [number for number in numbers if columns.known_id(number)]
        if not known:
            return 0
        with self._db.writing():
            return self._db.change_many(
                "DELETE FROM peach_letters WHERE number = ?", [(number,) for number in known]
            ).rowcount

    def refile(self, number: int, entry: Entry) -> Filed:
        with self._db.writing():
            letter = self.letter(number)
            if letter is None:
                raise rules.no_letter(number)
            return Filing(self._db, self._clock, self._attempts).refile(letter, entry)

    # Shared by verbs

    def _must(self, id: int) -> Status:
        """The status of a row. Raises StateError when there is none."""
        row = self.get(id)
        if row is None:
            raise rules.no_workflow(id)
        return row.status


def _key(claim: Claim) -> tuple[int, int, str]:
    return claim.id, claim.attempt, claim.token
