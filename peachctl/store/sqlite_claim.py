"""Which queued rows are claimed next: priority (higher first), then the user with the least running, then id.

The cost of a claim must not grow with the queue. So for each priority there are two looks, both along an index:

- The first rows by id, a few of them. As soon as one belongs to a user who runs nothing, it is the one: nobody has
  less running, and nobody with as little has an older row.
- Only where that finds nothing (somebody who runs already has filed very many): the oldest row of each user, one
  seek per user and not one step per row.
"""

# ruff: noqa: S608 - the pieces that are put together here are constants of this module; values are bound

import heapq
from collections.abc import Iterator

from peachctl.store.sqlite_file import SqliteFile

WINDOW = 64

_LOWER = {ord("A") + letter: ord("a") + letter for letter in range(26)}

# A row that was left at the adoption, and one whose former run has not been ended yet, are not there for a claim.
_FREE = """NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id)
    AND NOT EXISTS (SELECT 1 FROM peach_runs r WHERE r.queue_id = q.id AND r.ended IS NULL)"""


def pick(db: SqliteFile, most: int, per_user: int | None) -> list[int]:
    """Ids of up to `most` rows to be claimed now, inside of a transaction that writes."""
    picker = _Picker(db, per_user)
    picked: list[int] = []
    for priority in picker.priorities():
        picked += picker.oldest_of_idle(priority, most - len(picked))
        if len(picked) < most:
            picked += picker.fairest(priority, most - len(picked), picked)
        if len(picked) >= most:
            break
    return picked


def pick_only(db: SqliteFile, id: int, per_user: int | None) -> list[int]:
    """This row, if it may be claimed now."""
    row = db.row(f"SELECT q.user FROM {{queue}} q WHERE q.id = ? AND q.status = 0 AND {_FREE}", (id,))
    if row is None:
        return []
    picker = _Picker(db, per_user)
    return [id] if picker.may(row[0]) else []


def _key(user: str | None) -> str | None:
    """What makes two users the same: the column's collation (NOCASE: ASCII letters alone)."""
    return None if user is None else user.translate(_LOWER)


class _Picker:
    def __init__(self, db: SqliteFile, per_user: int | None) -> None:
        self._db = db
        self._per_user = per_user
        self._running: dict[str | None, int] = {}
        # Rows that were left at the adoption have status 1 for ever and run nowhere.
        counted = db.rows(
            "SELECT q.user, count(*) FROM {queue} q WHERE q.status = 1"
            " AND NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id) GROUP BY q.user"
        )
        for user, count in counted:
            self._running[_key(user)] = self._running.get(_key(user), 0) + count
        # A client may have written no priority at all: 1 unless said otherwise (contract).
        db.change("UPDATE {queue} SET priority = 1 WHERE status = 0 AND priority IS NULL")

    def may(self, user: str | None) -> bool:
        return self._per_user is None or self._running.get(_key(user), 0) < self._per_user

    def priorities(self) -> Iterator[int]:
        """Of queued rows, highest first."""
        row = self._db.row("SELECT max(priority) FROM {queue} WHERE status = 0")
        while row[0] is not None:
            yield row[0]
            row = self._db.row("SELECT max(priority) FROM {queue} WHERE status = 0 AND priority < ?", (row[0],))

    def oldest_of_idle(self, priority: int, most: int) -> list[int]:
        """The oldest rows of users who run nothing, as far as they are among the first few."""
        if self._per_user is not None and self._per_user < 1:
            return []
        rows = self._db.rows(
            f"SELECT q.id, q.user FROM {{queue}} q INDEXED BY peach_queue_claim"
            f" WHERE q.status = 0 AND q.priority = ? AND {_FREE} ORDER BY q.id LIMIT {WINDOW}",
            (priority,),
        )
        found: list[int] = []
        for id, user in rows:
            if len(found) < most and not self._running.get(_key(user)):
                self._running[_key(user)] = 1
                found.append(id)
        return found

    def fairest(self, priority: int, most: int, picked: list[int]) -> list[int]:
        """Up to `most` rows, each of the user who has the least running then."""
        users, heap = {}, []
        for id, user in self._heads(priority):
            key = _key(user)
            users[key] = user
            heap.append((self._running.get(key, 0), id, key))
        heapq.heapify(heap)
        found: list[int] = []
        while heap and len(found) < most:
            running, id, key = heapq.heappop(heap)
            if not self.may(key):
                continue
            if id not in picked and self._free(id):
                found.append(id)
                running += 1
                self._running[key] = running
            following = self._db.row(
                "SELECT q.id FROM {queue} q INDEXED BY peach_queue_claim_user WHERE q.status = 0"
                f" AND q.priority = ? AND q.user IS ? AND q.id > ? AND {_FREE} ORDER BY q.id LIMIT 1",
                (priority, users[key], id),
            )
            if following is not None:
                heapq.heappush(heap, (running, following[0], key))
        return found

    def _free(self, id: int) -> bool:
        return self._db.row(f"SELECT 1 FROM {{queue}} q WHERE q.id = ? AND {_FREE}", (id,)) is not None

    def _heads(self, priority: int) -> list[tuple[int, str | None]]:
        """The oldest row of each user, free or not: from one user to the next in one seek."""
        oldest = (
            "SELECT q.id FROM {queue} q INDEXED BY peach_queue_claim_user WHERE q.status = 0 AND q.priority = :priority"
        )
        found: list[tuple[int, str | None]] = self._db.rows(
            f"""WITH RECURSIVE heads (id, user) AS (
                SELECT n.id, n.user FROM {{queue}} n
                WHERE n.id = ({oldest} AND q.user IS NOT NULL ORDER BY q.user, q.id LIMIT 1)
                UNION ALL
                SELECT n.id, n.user FROM heads h
                JOIN {{queue}} n ON n.id = ({oldest} AND q.user > h.user ORDER BY q.user, q.id LIMIT 1))
            SELECT id, user FROM heads
            UNION ALL SELECT id, NULL FROM ({oldest} AND q.user IS NULL ORDER BY q.id LIMIT 1)""",
            {"priority": priority},
        )
        return found
