"""Attempts in SQLite: how one begins, and the ways in which one ends without an end of its workflow.

All of this happens inside of a transaction of the verb that calls it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from peachctl.store import Executor, NodeState, NodeStatus, Released, Status, columns, rules
from peachctl.store.sqlite_file import Clock, SqliteFile

_SWEPT = 200  # rows looked at by each sweep for what was remembered of rows that clients deleted


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that nobody has closed yet."""

    id: int
    attempt: int
    host: str


class Attempts:
    """Runs, and what a row's attempts leave behind: counts, the reason, node states."""

    def __init__(self, db: SqliteFile, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._swept = 0

    def begin(self, id: int, executor: Executor, lease: float) -> tuple[int, str, bool]:
        """A new attempt, with its lease and first beat. Returns its number, its token, whether it is resumed."""
        self._db.change("INSERT INTO peach_jobs (queue_id) VALUES (?) ON CONFLICT (queue_id) DO NOTHING", (id,))
        before, from_start = self._db.row("SELECT attempt, from_start FROM peach_jobs WHERE queue_id = ?", (id,))
        resumed = before > 0 and not from_start
        if not resumed:
            self._db.change("DELETE FROM peach_nodes WHERE queue_id = ?", (id,))
        self._db.change(
            "UPDATE peach_jobs SET attempt = attempt + 1, from_start = 0, unpacked = 0, reason = NULL"
            " WHERE queue_id = ?",
            (id,),
        )
        self._db.change(
            "UPDATE {queue} SET status = 1, progress = 0, finished_date = ?, output_file = '' WHERE id = ?",
            (columns.NO_DATE, id),
        )
        token = os.urandom(16).hex()
        self._db.change(
            "INSERT INTO peach_runs (queue_id, attempt, executor, token, host, boot, lease_until, beat, started)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?)",
            (
                id,
                before + 1,
                executor.token,
                token,
                columns.text(executor.host),
                self._clock.boot,
                self._clock.boottime() + lease,
                self._clock.wall(),
            ),
        )
        return before + 1, token, resumed

    def put_nodes(self, id: int, nodes: Sequence[NodeState]) -> None:
        self._db.change_many(
            "INSERT INTO peach_nodes (queue_id, node_id, service, version, status, started, finished, error, outputs)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (queue_id, node_id) DO UPDATE SET"
            " service = excluded.service, version = excluded.version, status = excluded.status,"
            " started = excluded.started, finished = excluded.finished, error = excluded.error,"
            " outputs = excluded.outputs",
            [(id, *columns.node_values(state)) for state in nodes],
        )

    def vanish(self, runs: Sequence[tuple[int, int, str]], max_attempts: int) -> list[Released]:
        released = []
        for id, attempt, host in runs:
            one = self.end(OpenRun(id, attempt, host), rules.vanished(host), max_attempts, vanished=True)
            if one is not None:
                released.append(one)
        return released

    def end(self, run: OpenRun, reason: str, max_attempts: int, *, vanished: bool) -> Released | None:
        """Closes a run without an end of its workflow. None where the row is not in processing (any more)."""
        status = self.status(run.id)
        self._db.change(
            "UPDATE peach_runs SET ended = ?, outcome = ?, reason = ? WHERE queue_id = ? AND attempt = ?"
            " AND ended IS NULL",
            (
                self._clock.wall(),
                "vanished" if vanished else "given back",
                columns.text(reason),
                run.id,
                run.attempt,
            ),
        )
        if status is not Status.PROCESSING:
            self.forget_if_deleted(run.id)
            if status is Status.CANCELLED:
                self.settle_nodes(run.id, NodeStatus.CANCELLED, NodeStatus.CANCELLED, None)
            return None
        self._db.change("UPDATE peach_jobs SET vanished = vanished + ? WHERE queue_id = ?", (int(vanished), run.id))
        (lost,) = self._db.row("SELECT vanished FROM peach_jobs WHERE queue_id = ?", (run.id,))
        ended = vanished and lost >= max_attempts
        if ended:
            error = {"type": "Vanished", "message": reason, "traceback": ""}
            self.settle_nodes(run.id, NodeStatus.ERROR, NodeStatus.SKIPPED, error)
            self._db.change(
                "UPDATE {queue} SET status = 4, finished_date = ? WHERE id = ?",
                (columns.local_time(self._clock.wall()), run.id),
            )
            reason = rules.used_up(reason, lost)
        else:
            self.settle_nodes(run.id, NodeStatus.WAITING, NodeStatus.WAITING, None)
            self._db.change("UPDATE {queue} SET status = 0 WHERE id = ?", (run.id,))
            reason = rules.another_attempt(reason)
        self.note(run.id, reason, unpacked=ended)
        return Released(run.id, run.attempt, ended, run.host)

    def settle_nodes(self, id: int, running: NodeStatus, waiting: NodeStatus, error: dict[str, str] | None) -> None:
        """Nodes that did not come to an end of their own."""
        failed = columns.node_values(NodeState("", "", 0, running, error=error))[6]
        now = self._clock.wall() if running is not NodeStatus.WAITING else None
        self._db.change(
            "UPDATE peach_nodes SET status = ?, error = ?, finished = ?,"
            " started = CASE WHEN ? IS NULL THEN NULL ELSE started END WHERE queue_id = ? AND status = 'running'",
            (running.value, failed, now, now, id),
        )
        if waiting is not NodeStatus.WAITING:
            self._db.change(
                "UPDATE peach_nodes SET status = ? WHERE queue_id = ? AND status = 'waiting'", (waiting.value, id)
            )

    def close_run(self, key: tuple[int, int, str], outcome: str, reason: str | None) -> None:
        self._db.change(
            "UPDATE peach_runs SET ended = ?, outcome = ?, reason = ?"
            " WHERE queue_id = ? AND attempt = ? AND token = ? AND ended IS NULL",
            (self._clock.wall(), outcome, None if reason is None else columns.text(reason), *key),
        )

    def note(self, id: int, reason: str | None, *, unpacked: bool) -> None:
        """Why the row is where it is; and whether its output is still to be packed."""
        self._db.change(
            "INSERT INTO peach_jobs (queue_id, reason, unpacked) VALUES (?, ?, ?)"
            " ON CONFLICT (queue_id) DO UPDATE SET reason = excluded.reason, unpacked = excluded.unpacked",
            (id, None if reason is None else columns.text(reason), int(unpacked)),
        )

    def sweep(self) -> None:
        """Forgets what is remembered of rows that clients deleted, some at a time."""
        found = self._db.rows(
            "SELECT j.queue_id, q.id FROM peach_jobs j LEFT JOIN {queue} q ON q.id = j.queue_id"
            " WHERE j.queue_id > ? ORDER BY j.queue_id LIMIT ?",
            (self._swept, _SWEPT),
        )
        self._swept = found[-1][0] if len(found) == _SWEPT else 0
        for id, row in found:
            # An open run is left for its executor to hear of.
            open_run = "SELECT 1 FROM peach_runs WHERE queue_id = ? AND ended IS NULL"
            if row is None and not self._db.row(open_run, (id,)):
                self.forget(id)

    def status(self, id: int) -> Status | None:
        row = self._db.row("SELECT status FROM {queue} WHERE id = ?", (id,))
        return None if row is None or row[0] not in tuple(Status) else Status(row[0])

    def forget(self, id: int) -> None:
        """All that is remembered of a row. Not its origin: the message stays known, it is not filed again."""
        self._db.change("DELETE FROM peach_jobs WHERE queue_id = ?", (id,))
        self._db.change("DELETE FROM peach_runs WHERE queue_id = ?", (id,))
        self._db.change("DELETE FROM peach_nodes WHERE queue_id = ?", (id,))
        self._db.change("DELETE FROM peach_outbox WHERE queue_id = ?", (id,))
        self._db.change("DELETE FROM peach_left WHERE queue_id = ?", (id,))

    def forget_if_deleted(self, id: int) -> None:
        if self._db.row("SELECT 1 FROM {queue} WHERE id = ?", (id,)) is None:
            self.forget(id)
