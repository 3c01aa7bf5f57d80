"""Leases in MySQL: rows are claimed under one, a claim whose reply was lost is found again, all are renewed at once."""

# ruff: noqa: S608 - the pieces that are put together here are constants of this package; values are bound

from collections.abc import Sequence

from peachctl.store import Claim, Executor, Wanted, columns, rules
from peachctl.store.mysql_attempts import Attempts, Before, key
from peachctl.store.mysql_claim import gate, look, pick, pick_only
from peachctl.store.mysql_connection import MysqlSession, marks, parts


class Leases:
    """Of one store, that is of one executor at a time."""

    def __init__(self, db: MysqlSession, attempts: Attempts) -> None:
        self._db = db
        self._attempts = attempts
        self._unsure: list[Claim] = []  # of a claim whose outcome is not known

    def claim(
        self, executor: Executor, most: int, lease: float, *, only: int | None, per_user: int | None
    ) -> list[Claim]:
        """As the verb of `Store`."""
        found_by_looking = look(self._db)
        if not self._unsure and not found_by_looking:
            return []

        def work() -> list[Claim]:
            found = self._found_again(executor, lease)
            if not found and gate(self._db, alone=per_user is not None):
                if only is None:
                    ids = pick(self._db, most, per_user, found_by_looking)
                else:
                    ids = pick_only(self._db, only, per_user)
                found = self.begin(ids, executor, lease)
            # Should the reply be lost: the next attempt looks for them, or the next claim, should the server stay away.
            self._unsure = found
            return found

        claims = self._db.transaction(work, marked=False)
        self._unsure = []
        return claims

    def _found_again(self, executor: Executor, lease: float) -> list[Claim]:
        """Claims whose COMMIT was not answered, where they were made. Also those that were cancelled since: the
        next renewal says so, and whoever holds them ends them."""
        if not self._unsure:
            return []
        # The transaction whose reply was lost may be open on the server still: this lock waits for its end, which the
        # UPDATE of a renewal does not (at READ COMMITTED it passes over rows that are not committed).
        ids = sorted(claim.id for claim in self._unsure)
        self._db.rows(f"SELECT id FROM {{queue}} WHERE id IN ({marks(ids)}) ORDER BY id FOR UPDATE", ids)
        wanted = self.renew(executor, self._unsure, lease)
        return [claim for claim in self._unsure if wanted[claim] in (Wanted.GO_ON, Wanted.CANCELLED)]

    def begin(self, ids: Sequence[int], executor: Executor, lease: float) -> list[Claim]:
        """A claim of each of these rows, in a transaction that has locked them."""
        if not ids:
            return []
        found = self._db.rows(
            f"{columns.SELECT}, coalesce(j.from_start, 0), EXISTS (SELECT 1 FROM peach_runs o WHERE o.queue_id = q.id"
            f" AND o.ended IS NULL) FROM {{queue}} q {columns.BESIDE} WHERE q.id IN ({marks(ids)})",
            ids,
        )
        rows = {row.id: row for row in (columns.row(values[:-2]) for values in found)}
        before = [Before(values[0], rows[values[0]].attempt, bool(values[-2]), bool(values[-1])) for values in found]
        begun = self._attempts.begin(before, executor, lease)
        host = columns.text(executor.host)
        return [
            Claim(id, one.attempt, one.token, columns.begun(rows[id], one.attempt, host), one.resumed)
            for id, one in ((id, begun[id]) for id in ids)
        ]

    def renew(self, executor: Executor, claims: Sequence[Claim], lease: float) -> dict[Claim, Wanted]:
        """As the verb of `Store`, in a transaction or without one."""
        wanted: dict[Claim, Wanted] = {}
        for part in parts(claims):
            ids, tokens = [claim.id for claim in part], [claim.token for claim in part]
            self._db.change(
                "UPDATE peach_runs SET lease_until = UTC_TIMESTAMP(6) + INTERVAL %s SECOND, beat = beat + 1"
                f" WHERE queue_id IN ({marks(ids)}) AND token IN ({marks(tokens)}) AND executor = %s"
                " AND ended IS NULL",
                (lease, *ids, *tokens, executor.token),
            )
            statuses: dict[int, int | None] = {}
            held = set()
            for token, id, value in self._db.rows(
                f"SELECT '' AS token, id, status FROM {{queue}} WHERE id IN ({marks(ids)})"
                " UNION ALL SELECT token, queue_id, attempt FROM peach_runs"
                f" WHERE queue_id IN ({marks(ids)}) AND executor = %s AND ended IS NULL",
                (*ids, *ids, executor.token),
            ):
                if token:
                    held.add((id, value, token))
                else:
                    statuses[id] = value
            for claim in part:
                wanted[claim] = rules.wanted(
                    statuses.get(claim.id), there=claim.id in statuses, held=key(claim) in held
                )
        return wanted
