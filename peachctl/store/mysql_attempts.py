"""Attempts in MySQL: how they begin, and the ways in which one ends without an end of its workflow.

All of this happens inside of a transaction of the verb that calls it. Whoever writes what is remembered of a row has
locked that row before (`lock`), and only then reads what it decides by: so nothing is decided by what was true before
the wait for the lock. Rows are locked by ascending id.
"""

# ruff: noqa: S608 - what is put together here are `%s` for the values of an IN; values are bound

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from peachctl.store import Claim, Executor, NodeState, NodeStatus, Released, Status, columns, rules
from peachctl.store.mysql_connection import MysqlSession, among, marks
from peachctl.store.mysql_errors import Again, RowTooLarge

_SWEPT = 200  # rows looked at by each sweep for what was remembered of rows that clients deleted

_REMEMBERED = ("peach_jobs", "peach_runs", "peach_nodes", "peach_outbox", "peach_left")


@dataclass(frozen=True, slots=True)
class Begun:
    """What a new attempt is: its number, its token, whether it goes on from an earlier one."""

    attempt: int
    token: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class Before:
    """What a row was when it was locked. open: whether it has a run that has not ended."""

    id: int
    attempt: int
    from_start: bool
    open: bool


def key(claim: Claim) -> tuple[int, int, str]:
    """Of a claim's run: row, attempt and token."""
    return claim.id, claim.attempt, claim.token


class Attempts:
    """Runs, and what a row's attempts leave behind: counts, the reason, node states. wall: unix seconds."""

    def __init__(self, db: MysqlSession, wall: Callable[[], float]) -> None:
        self._db = db
        self._wall = wall
        self._swept = 0

    def lock(self, id: int) -> Status | None:
        """The row's status, nobody else's to change until the transaction ends; None where there is no such row, or
        its status is none."""
        row = self._db.row("SELECT status FROM {queue} WHERE id = %s FOR UPDATE", (id,))
        return None if row is None or row[0] not in tuple(Status) else Status(row[0])

    def begin(self, found: Sequence[Before], executor: Executor, lease: float) -> dict[int, Begun]:
        """A new attempt of each row, all locked before, with its lease and first beat. found: read after that."""
        begun, fresh = {}, []
        for one in sorted(found, key=lambda one: one.id):
            if one.open:
                raise Again("a row whose run is open was taken for a free one, by what was true before it was locked")
            resumed = one.attempt > 0 and not one.from_start
            begun[one.id] = Begun(one.attempt + 1, os.urandom(16).hex(), resumed)
            if one.attempt and not resumed:
                fresh.append(one.id)
        if fresh:
            self._db.change(f"DELETE FROM peach_nodes WHERE queue_id IN ({marks(fresh)})", fresh)
        ids = list(begun)
        self._db.insert(
            "INSERT INTO peach_jobs (queue_id, attempt)",
            [(id, one.attempt) for id, one in begun.items()],
            "ON DUPLICATE KEY UPDATE attempt = VALUES(attempt), from_start = 0, unpacked = 0, reason = NULL",
        )
        self._db.change(
            "UPDATE {queue} SET status = 1, progress = 0, finished_date = %s, output_file = ''"
            f" WHERE id IN ({marks(ids)})",
            (columns.NO_DATE, *ids),
        )
        host, started = columns.text(executor.host), self._wall()
        self._db.insert(
            "INSERT INTO peach_runs (queue_id, attempt, executor, token, host, beat, started, lease_until)",
            [(id, one.attempt, executor.token, one.token, host, 1, started, lease) for id, one in begun.items()],
            form="(%s, %s, %s, %s, %s, %s, %s, UTC_TIMESTAMP(6) + INTERVAL %s SECOND)",
        )
        return begun

    def put_nodes(self, id: int, nodes: Sequence[NodeState]) -> None:
        # The last state of a node counts, at the place of its first.
        states = {values[0]: values for values in map(columns.node_values, nodes)}
        rows = [(id, hashlib.sha256(key.encode()).digest(), *values) for key, values in states.items()]
        into = (
            "INSERT INTO peach_nodes (queue_id, node_key, node_id, service, version, status, started, finished, error,"
            " outputs)"
        )
        again = (
            "ON DUPLICATE KEY UPDATE service = VALUES(service), version = VALUES(version), status = VALUES(status),"
            " started = VALUES(started), finished = VALUES(finished), error = VALUES(error), outputs = VALUES(outputs)"
        )
        while True:
            try:
                self._db.insert(into, rows, again)
                return
            except RowTooLarge as error:
                # The state counts; what one may read of it is left out.
                rows[error.index] = (*rows[error.index][:8], None, None)

    def vanish(
        self, runs: Iterable[tuple[int, int, str]], max_attempts: int, only: LiteralString = "1 = 1"
    ) -> list[Released]:
        """Ends open runs (id, attempt, host) whose executor vanished; those of them for which `only` still holds."""
        ended = (self.end(run, rules.vanished(run[2]), max_attempts, vanished=True, only=only) for run in sorted(runs))
        return [one for one in ended if one is not None]

    def end(
        self,
        run: tuple[int, int, str],
        reason: str,
        max_attempts: int,
        *,
        vanished: bool,
        only: LiteralString = "1 = 1",
    ) -> Released | None:
        """Closes an open run (id, attempt, host) without an end of its workflow, if `only` holds for it. None where
        the row is not in processing (any more)."""
        status = self.lock(run[0])
        closed = self._db.change(
            "UPDATE peach_runs SET ended = %s, outcome = %s, reason = %s"
            f" WHERE queue_id = %s AND attempt = %s AND ended IS NULL AND {only}",
            (self._wall(), "vanished" if vanished else "given back", columns.text(reason), run[0], run[1]),
        )
        return self._put_back(run, status, reason, max_attempts, vanished=vanished) if closed else None

    def strand(self, id: int, max_attempts: int) -> Released | None:
        """Ends what is in processing without a run, where it still is."""
        status = self.lock(id)
        found = self._db.row(
            "SELECT j.attempt FROM peach_jobs j WHERE j.queue_id = %s"
            " AND NOT EXISTS (SELECT 1 FROM peach_runs r WHERE r.queue_id = j.queue_id AND r.ended IS NULL)",
            (id,),
        )
        if found is None or status is not Status.PROCESSING:
            return None
        return self._put_back((id, found[0], ""), status, rules.vanished(""), max_attempts, vanished=True)

    def _put_back(
        self, run: tuple[int, int, str], status: Status | None, reason: str, max_attempts: int, *, vanished: bool
    ) -> Released | None:
        id, attempt, host = run
        if status is not Status.PROCESSING:
            self.forget_if_deleted(id)
            if status is Status.CANCELLED:
                self.settle_nodes(id, NodeStatus.CANCELLED, NodeStatus.CANCELLED, None)
            return None
        self._db.change("UPDATE peach_jobs SET vanished = vanished + %s WHERE queue_id = %s", (int(vanished), id))
        (lost,) = self._db.row("SELECT vanished FROM peach_jobs WHERE queue_id = %s", (id,))
        ended = vanished and lost >= max_attempts
        if ended:
            error = {"type": "Vanished", "message": reason, "traceback": ""}
            self.settle_nodes(id, NodeStatus.ERROR, NodeStatus.SKIPPED, error)
            self._db.change(
                "UPDATE {queue} SET status = 4, finished_date = %s WHERE id = %s",
                (columns.local_time(self._wall()), id),
            )
            reason = rules.used_up(reason, lost)
        else:
            self.settle_nodes(id, NodeStatus.WAITING, NodeStatus.WAITING, None)
            self._db.change("UPDATE {queue} SET status = 0 WHERE id = %s", (id,))
            reason = rules.another_attempt(reason)
        self.note(id, reason, unpacked=ended)
        return Released(id, attempt, ended, host)

    def settle_nodes(self, id: int, running: NodeStatus, waiting: NodeStatus, error: dict[str, str] | None) -> None:
        """Nodes that did not come to an end of their own."""
        failed = columns.node_values(NodeState("", "", 0, running, error=error))[6]
        now = self._wall() if running is not NodeStatus.WAITING else None
        self._db.change(
            "UPDATE peach_nodes SET status = %s, error = %s, finished = %s,"
            " started = CASE WHEN %s IS NULL THEN NULL ELSE started END WHERE queue_id = %s AND status = 'running'",
            (running.value, failed, now, now, id),
        )
        if waiting is not NodeStatus.WAITING:
            self._db.change(
                "UPDATE peach_nodes SET status = %s WHERE queue_id = %s AND status = 'waiting'", (waiting.value, id)
            )

    def open(self, key: tuple[int, int, str]) -> bool:
        """Whether this run (id, attempt, token) is open."""
        return (
            self._db.row(
                "SELECT 1 FROM peach_runs WHERE queue_id = %s AND attempt = %s AND token = %s AND ended IS NULL", key
            )
            is not None
        )

    def close_run(self, key: tuple[int, int, str], outcome: str, reason: str | None) -> bool:
        """Whether the run was open."""
        return (
            self._db.change(
                "UPDATE peach_runs SET ended = %s, outcome = %s, reason = %s"
                " WHERE queue_id = %s AND attempt = %s AND token = %s AND ended IS NULL",
                (self._wall(), outcome, None if reason is None else columns.text(reason), *key),
            )
            == 1
        )

    def note(self, id: int, reason: str | None, *, unpacked: bool) -> None:
        """Why the row is where it is; and whether its output is still to be packed."""
        self._db.change(
            "INSERT INTO peach_jobs (queue_id, reason, unpacked) VALUES (%s, %s, %s)"
            " ON DUPLICATE KEY UPDATE reason = VALUES(reason), unpacked = VALUES(unpacked)",
            (id, None if reason is None else columns.text(reason), int(unpacked)),
        )

    def sweep(self) -> None:
        """Forgets what is remembered of rows that clients deleted, some at a time. Not inside of a transaction."""
        found = self._db.rows(
            "SELECT j.queue_id, q.id IS NULL AND NOT EXISTS"
            # An open run is left for its executor to hear of.
            " (SELECT 1 FROM peach_runs r WHERE r.queue_id = j.queue_id AND r.ended IS NULL)"
            " FROM peach_jobs j LEFT JOIN {queue} q ON q.id = j.queue_id"
            " WHERE j.queue_id > %s ORDER BY j.queue_id LIMIT %s",
            (self._swept, _SWEPT),
        )
        self._swept = found[-1][0] if len(found) == _SWEPT else 0
        gone = [id for id, forgotten in found if forgotten]
        if gone:
            self._db.transaction(lambda: self.forget(gone), marked=False)
        self._db.change("DELETE FROM peach_writers WHERE seen < UTC_TIMESTAMP() - INTERVAL 1 DAY LIMIT 1000")

    def forget(self, ids: Sequence[int]) -> None:
        """All that is remembered of rows. Not their origins: the messages stay known, they are not filed again."""
        condition, values = among("queue_id", ids)
        for table in _REMEMBERED:
            self._db.change(f"DELETE FROM {table} WHERE {condition}", values)

    def forget_stale(self, ids: Sequence[int]) -> None:
        """What clients deleted rows of, and their numbers came again, is forgotten. ids: of new rows."""
        condition, values = among("queue_id", ids)
        parts = [f"SELECT queue_id FROM {table} WHERE {condition}" for table in _REMEMBERED]
        stale = sorted({id for (id,) in self._db.rows(_joined(parts), tuple(values) * len(parts))})
        if stale:
            self.forget(stale)

    def forget_if_deleted(self, id: int) -> None:
        if self._db.row("SELECT 1 FROM {queue} WHERE id = %s", (id,)) is None:
            self.forget([id])


def _joined(parts: Sequence[str]) -> Any:
    return " UNION ALL ".join(parts)
