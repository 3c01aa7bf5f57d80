"""Which queued rows are claimed next: priority (higher first), then the user with the least running, then id.

The cost of a claim must not grow with the queue. So for each priority there are three looks, each along an index and
each only where the one before did not find enough:

- The front of the queue by id, within a window: the first row of a user who runs nothing is the one, for nobody has
  less running, and nobody with as little has an older row.
- The oldest row of each user who runs nothing, one seek per user and not one step per row: for a front that is all
  one user's who filed very many.
- The oldest row of each user at all, taken in turn.
"""

# ruff: noqa: S608 - the pieces that are put together here are constants of this module; values are bound

import heapq
import json
from collections.abc import Iterator

from peachctl.store.sqlite_file import SqliteFile

WINDOW = 4096

_LOWER = {ord("A") + letter: ord("a") + letter for letter in range(26)}

# A row that was left at the adoption, and one whose former run has not been ended yet, are not there for a claim.
_FREE = """NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id)
    AND NOT EXISTS (SELECT 1 FROM peach_runs r WHERE r.queue_id = q.id AND r.ended IS NULL)"""

_IDLE = "user COLLATE NOCASE NOT IN (SELECT value FROM json_each(:busy))"


def pick(db: SqliteFile, most: int, per_user: int | None) -> list[int]:
    """Ids of up to `most` rows to be claimed now, inside of a transaction that writes."""
    if per_user is not None and per_user < 1:
        return []
    picker = _Picker(db, per_user)
    picked: list[int] = []
    for priority in picker.priorities():
        picked += picker.front(priority, most - len(picked))
        if len(picked) < most:
            picked += picker.idle(priority, most - len(picked))
        if len(picked) < most:
            picked += picker.fairest(priority, most - len(picked), picked)
        if len(picked) == most:
            break
    return picked


def pick_only(db: SqliteFile, id: int, per_user: int | None) -> list[int]:
    """This row, if it may be claimed now."""
    row = db.row(f"SELECT q.user FROM {{queue}} q WHERE q.id = ? AND q.status = 0 AND {_FREE}", (id,))
    return [id] if row is not None and _Picker(db, per_user).may(row[0]) else []


def _key(user: str | None) -> str:
    """What makes two users the same: the column's collation (NOCASE: ASCII letters alone)."""
    return (user or "").translate(_LOWER)


class _Picker:
    def __init__(self, db: SqliteFile, per_user: int | None) -> None:
        self._db = db
        self._per_user = per_user
        self._running: dict[str, int] = {}
        # Rows that were left at the adoption have status 1 for ever and run nowhere.
        counted = db.rows(
            "SELECT q.user, count(*) FROM {queue} q WHERE q.status = 1"
            " AND NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id) GROUP BY q.user"
        )
        for user, count in counted:
            self._running[_key(user)] = self._running.get(_key(user), 0) + count

    def may(self, user: str | None) -> bool:
        return self._per_user is None or self._running.get(_key(user), 0) < self._per_user

    def priorities(self) -> Iterator[int]:
        """Of queued rows, highest first."""
        # What a client left empty: priority is 1 unless said otherwise (contract), and nobody is a user as well.
        self._db.change(f"UPDATE {{queue}} AS q SET priority = 1 WHERE status = 0 AND priority IS NULL AND {_FREE}")
        row = self._db.row("SELECT max(priority) FROM {queue} WHERE status = 0")
        while row[0] is not None:
            self._db.change(
                f"UPDATE {{queue}} AS q SET user = '' WHERE status = 0 AND priority = ? AND user IS NULL AND {_FREE}",
                (row[0],),
            )
            yield row[0]
            row = self._db.row("SELECT max(priority) FROM {queue} WHERE status = 0 AND priority < ?", (row[0],))

    def front(self, priority: int, most: int) -> list[int]:
        """The oldest rows of users who run nothing, one each, as far as they are near the front."""
        found: list[int] = []
        while len(found) < most:
            # All rows before the last one found belong to users who run something by now.
            row = self._db.row(
                "SELECT q.id, q.user FROM (SELECT id, user FROM {queue} INDEXED BY peach_queue_claim"
                " WHERE status = 0 AND priority = :priority AND id > :last ORDER BY id LIMIT :window) q"
                f" WHERE q.{_IDLE} AND {_FREE} LIMIT 1",
                {
                    "priority": priority,
                    "last": found[-1] if found else 0,
                    "window": WINDOW,
                    "busy": json.dumps(list(self._running)),
                },
            )
            if row is None:
                break
            self._running[_key(row[1])] = 1
            found.append(row[0])
        return found

    def idle(self, priority: int, most: int) -> list[int]:
        """The oldest rows of users who run nothing, one each, wherever they are."""
        found = self._heads(priority, most, list(self._running))
        self._running.update((_key(user), 1) for _, user in found)
        return [id for id, _ in found]

    def fairest(self, priority: int, most: int, picked: list[int]) -> list[int]:
        """Up to `most` rows, each of the user who has the least running then."""
        users, heap = {}, []
        taken = set(picked)
        for id, user in self._heads(priority, -1, []):
            key = _key(user)
            users[key] = user
            heap.append((self._running.get(key, 0), id, key))
        heapq.heapify(heap)
        found: list[int] = []
        while heap and len(found) < most:
            running, id, key = heapq.heappop(heap)
            if not self.may(key):
                continue
            if id not in taken:
                found.append(id)
                running += 1
                self._running[key] = running
            following = self._db.row(
                "SELECT q.id FROM {queue} q INDEXED BY peach_queue_claim_user WHERE q.status = 0"
                f" AND q.priority = ? AND q.user = ? AND q.id > ? AND {_FREE} ORDER BY q.id LIMIT 1",
                (priority, users[key], id),
            )
            if following is not None:
                heapq.heappush(heap, (running, following[0], key))
        return found

    def _heads(self, priority: int, most: int, busy: list[str]) -> list[tuple[int, str]]:
        """The oldest row of each user who is not busy, oldest first: from one user to the next in one seek."""
        # The LIMIT keeps SQLite from merging the two SELECTs, which would look up every id twice.
        found: list[tuple[int, str]] = self._db.rows(
            f"""WITH RECURSIVE users (user) AS (
                SELECT min(user) FROM {{queue}} WHERE status = 0 AND priority = :priority
                UNION ALL
                SELECT (SELECT min(q.user) FROM {{queue}} q INDEXED BY peach_queue_claim_user
                        WHERE q.status = 0 AND q.priority = :priority AND q.user > users.user)
                FROM users WHERE users.user IS NOT NULL)
            SELECT id, user FROM (
                SELECT (SELECT q.id FROM {{queue}} q INDEXED BY peach_queue_claim_user
                        WHERE q.status = 0 AND q.priority = :priority AND q.user = users.user AND {_FREE}
                        ORDER BY q.id LIMIT 1) AS id, user
                FROM users WHERE user IS NOT NULL AND {_IDLE} LIMIT -1)
            WHERE id IS NOT NULL ORDER BY id LIMIT :most""",
            {"priority": priority, "most": most, "busy": json.dumps(busy)},
        )
        return found
