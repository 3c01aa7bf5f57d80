"""Which queued rows are claimed next: priority (higher first), then the user with the least running, then id.

The same three looks as in `sqlite_claim`, each along an index, so that the cost does not grow with the queue: the front
of the queue within a window of ids; the oldest row of each user who runs nothing; the oldest row of each user at all.

Looking locks nothing. What was found is then locked at once where nobody else has it (`FOR UPDATE SKIP LOCKED`; on
servers without it by a compare-and-set of the status, which waits a second for a locked row and then passes it over):
one who waits for nobody cannot be stopped by one that froze. A row that another claims in the same moment counts as
running of its user, and the looking goes on behind it. So claims made at the same moment keep to the order among what
each could see. `per_user` is a limit and no order: where it is given, claims are made one after another (`gate`).

Whether two users are the same is the column's collation to say: SQL compares them, and what Python has in hand is the
collation's weights (`_weights`).
"""

# ruff: noqa: S608 - the pieces that are put together here are constants of this module; values are bound

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from peachctl.store.mysql_connection import MysqlSession, marks

WINDOW = 4096

# A row that was left at the adoption, and one whose former run has not been ended yet, are not there for a claim.
_FREE = """NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id)
    AND NOT EXISTS (SELECT 1 FROM peach_runs r WHERE r.queue_id = q.id AND r.ended IS NULL)"""


def _weights(table: str) -> Any:
    """What is the same for two users whom the column's collation takes for one."""
    return f"HEX(WEIGHT_STRING(RTRIM({table}.user)))"


_ALL = 1 << 62


def look(db: MysqlSession) -> list[Any]:
    """The first rows that a claim may find, (id, priority, user), two at most; locks nothing. Most often it finds none,
    or one, and then there is nothing to choose."""
    return db.rows(
        f"SELECT q.id, q.priority, q.user FROM {{queue}} q WHERE q.status = 0 AND {_FREE}"
        " AND NOT EXISTS (SELECT 1 FROM peach_meta WHERE name = 'held' AND value = '1') LIMIT 2"
    )


def gate(db: MysqlSession, *, alone: bool) -> bool:
    """Whether the queue is open for claims, and stays so until this transaction ends. alone: no other claim is made
    meanwhile. What `hold` waits for, so that no claim is made once it has returned."""
    rows = db.rows(
        "SELECT name, value FROM peach_meta WHERE name IN ('held', 'schema') FOR UPDATE"
        if alone
        else "SELECT name, value FROM peach_meta WHERE name IN ('held', 'schema') LOCK IN SHARE MODE"
    )
    return (b"held", "1") not in rows


def pick(db: MysqlSession, most: int, per_user: int | None, seen: Sequence[Any] = ()) -> list[int]:
    """Ids of up to `most` rows to be claimed now, locked, in the order of the claims. seen: what `look` has found a
    moment ago."""
    if per_user is not None and per_user < 1:
        return []
    if per_user is None and len(seen) == 1 and None not in seen[0]:
        locked = _lock(db, [seen[0][0]])
        if locked or not db.skips_locked:  # there it was waited for
            return locked
    picker = _Picker(db, per_user, most)
    picked: list[int] = []
    for priority in picker.priorities():
        following = picker.next_ones(priority)
        while len(picked) < most and (found := list(islice(following, most - len(picked)))):
            picked += _lock(db, found)
        if len(picked) == most:
            break
    return picked


def pick_only(db: MysqlSession, id: int, per_user: int | None) -> list[int]:
    """This row, locked, if it may be claimed now."""
    if per_user is not None:
        # Looked at before the row is taken: without SKIP LOCKED that changes it. No other claim is made meanwhile.
        (running,) = db.row(
            "SELECT count(*) FROM {queue} q JOIN {queue} this ON this.id = %s"
            " WHERE q.status = 1 AND q.id <> this.id AND coalesce(q.user, '') = coalesce(this.user, '')"
            " AND NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id)",
            (id,),
        )
        if running >= per_user:
            return []
    return _lock(db, [id])


def _lock(db: MysqlSession, ids: Sequence[int]) -> list[int]:
    """Those of the ids that are there to be claimed and that nobody else has locked, in their order."""
    if db.skips_locked:
        found = db.rows(
            f"SELECT q.id FROM {{queue}} q WHERE q.id IN ({marks(ids)}) AND q.status = 0 AND {_FREE}"
            " FOR UPDATE SKIP LOCKED",
            ids,
        )
        locked = {id for (id,) in found}
        return [id for id in ids if id in locked]
    return db.change_unless_locked(
        f"UPDATE {{queue}} q SET q.status = 1 WHERE q.id = %s AND q.status = 0 AND {_FREE}", ids
    )


class _Picker:
    def __init__(self, db: MysqlSession, per_user: int | None, most: int) -> None:
        self._db = db
        self._per_user = per_user
        self._most = most
        self._running: dict[str, int] = {}  # by key
        self._busy: dict[str, str] = {}  # a user of each key
        # Rows that were left at the adoption have status 1 for ever and run nowhere.
        counted = db.rows(
            f"SELECT min(q.user), {_weights('q')}, count(*) FROM {{queue}} q WHERE q.status = 1 AND q.user IS NOT NULL"
            f" AND NOT EXISTS (SELECT 1 FROM peach_left l WHERE l.queue_id = q.id) GROUP BY {_weights('q')}"
        )
        for user, key, count in counted:
            self._running[key] = count
            self._busy[key] = user

    def priorities(self) -> Iterator[int]:
        """Of queued rows, highest first."""
        # What a client left empty: priority is 1 unless said otherwise (contract), and nobody is a user as well.
        self._fill("priority = 1", "priority IS NULL", ())
        highest = (
            "SELECT priority FROM {queue} FORCE INDEX (peach_queue_claim) WHERE status = 0 AND priority IS NOT NULL"
        )
        row = self._db.row(f"{highest} ORDER BY priority DESC LIMIT 1")
        while row is not None:
            self._fill("user = ''", "priority = %s AND user IS NULL", row)
            yield row[0]
            row = self._db.row(f"{highest} AND priority < %s ORDER BY priority DESC LIMIT 1", row)

    def _fill(self, change: str, where: str, values: Sequence[Any]) -> None:
        # Looked for first: an UPDATE would wait for whatever row another has locked.
        found = self._db.rows(f"SELECT q.id FROM {{queue}} q WHERE q.status = 0 AND {where} AND {_FREE}", values)
        if found:
            ids = [id for (id,) in found]
            self._db.change(f"UPDATE {{queue}} SET {change} WHERE id IN ({marks(ids)}) AND status = 0", ids)

    def next_ones(self, priority: int) -> Iterator[int]:
        """Ids of this priority in the order of claims, each counted as running of its user once it is given."""
        taken: set[int] = set()
        for id in self._front(priority):
            taken.add(id)
            yield id
        for id in self._idle(priority):
            taken.add(id)
            yield id
        yield from self._fairest(priority, taken)

    def _front(self, priority: int) -> Iterator[int]:
        """The oldest rows of users who run nothing, one each, as far as they are near the front."""
        last, end = 0, None
        some = 2 * self._most + 8
        while True:
            # All rows before the last one found belong to users who run something by now.
            busy, values = self._not_busy()
            if end is None:
                row = self._db.row(
                    "SELECT id FROM {queue} FORCE INDEX (peach_queue_claim) WHERE status = 0 AND priority = %s"
                    " ORDER BY id LIMIT 1",
                    (priority,),
                )
                if row is None:
                    return
                end = row[0] + WINDOW
            rows = self._db.rows(
                f"SELECT q.id, q.user, {_weights('q')} FROM {{queue}} q FORCE INDEX (peach_queue_claim)"
                f" WHERE q.status = 0 AND q.priority = %s AND q.id > %s AND q.id < %s AND q.{busy} AND {_FREE}"
                " ORDER BY q.id LIMIT %s",
                (priority, last, end, *values, some),
            )
            for id, user, key in rows:
                last = id
                if key not in self._running:
                    self._count(user, key)
                    yield id
            if len(rows) < some:
                return

    def _idle(self, priority: int) -> Iterator[int]:
        """The oldest rows of users who run nothing, one each, wherever they are."""
        while True:
            rows = self._heads(priority, self._most, idle=True)
            for id, user, key in rows:
                if key not in self._running:
                    self._count(user, key)
                    yield id
            if len(rows) < self._most:
                return

    def _fairest(self, priority: int, taken: set[int]) -> Iterator[int]:
        """Each time the oldest row of the user who has the least running then."""
        users, heap = {}, []
        for id, user, key in self._heads(priority, _ALL, idle=False):
            users[key] = user
            heap.append((self._running.get(key, 0), id, key))
        heapq.heapify(heap)
        while heap:
            running, id, key = heapq.heappop(heap)
            if self._per_user is not None and running >= self._per_user:
                continue
            if id not in taken:
                self._count(users[key], key)
                yield id
                running = self._running[key]
            following = self._db.row(
                "SELECT q.id FROM {queue} q FORCE INDEX (peach_queue_claim_user) WHERE q.status = 0"
                f" AND q.priority = %s AND q.user = %s AND q.id > %s AND {_FREE} ORDER BY q.id LIMIT 1",
                (priority, users[key], id),
            )
            if following is not None:
                heapq.heappush(heap, (running, following[0], key))

    def _count(self, user: str, key: str) -> None:
        self._running[key] = self._running.get(key, 0) + 1
        self._busy[key] = user

    def _heads(self, priority: int, most: int, *, idle: bool) -> list[tuple[int, str, str]]:
        """The oldest row of each user, oldest first: from one user to the next in one seek (a loose index scan)."""
        # All columns of the index up to the user, and a LIMIT that keeps the condition on users outside: else both
        # servers step through every row.
        busy, values = self._not_busy() if idle else ("user IS NOT NULL", ())
        return self._db.rows(
            f"""SELECT heads.id, heads.user, heads.weights FROM (
                SELECT u.user, {_weights("u")} AS weights,
                    (SELECT q.id FROM {{queue}} q FORCE INDEX (peach_queue_claim_user)
                     WHERE q.status = 0 AND q.priority = %s AND q.user = u.user AND {_FREE}
                     ORDER BY q.id LIMIT 1) AS id
                FROM (SELECT DISTINCT status, priority, user FROM {{queue}} FORCE INDEX (peach_queue_claim_user)
                      WHERE status = 0 AND priority = %s LIMIT {_ALL}) u
                WHERE u.{busy}) heads
            WHERE heads.id IS NOT NULL ORDER BY heads.id LIMIT %s""",
            (priority, priority, *values, most),
        )

    def _not_busy(self) -> tuple[Any, Sequence[str]]:
        busy = tuple(self._busy.values())
        return (f"user NOT IN ({marks(busy)})", busy) if busy else ("user IS NOT NULL", ())
