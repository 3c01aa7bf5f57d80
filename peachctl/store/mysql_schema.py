"""What the schema needs of a MySQL or MariaDB server, and what `init-db` does there.

Each change of a table is a transaction of its own there, so the files of `sql/mysql` may be repeated, statement by
statement. A lock of the server's holds off a second `init-db`; one on the table that somebody else holds is waited for
some seconds and then named.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import mysql.connector  # noqa: TID253 - this module is imported where a mysql:// URL is opened, and nowhere else

from peachctl.errors import ConfigError, PeachError, UnreachableError
from peachctl.store import schema
from peachctl.store.mysql_connection import MysqlSession, Server

LOCK_WAIT = 5
"""Seconds to wait for a table that somebody else has in use: nobody gets to it meanwhile who comes after us."""

_TURN = 600.0  # seconds to wait for another init-db

# Dates of 2017 are nobody's to judge (0000-00-00); what does not fit is an error and never cut.
_MODE = "STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO"

_TABLE = re.compile(r"^CREATE TABLE IF NOT EXISTS (peach_\w+) ", re.M)
_INDEX = re.compile(r"^CREATE (UNIQUE )?INDEX (\w+) ON \S+ \((.*)\);$", re.M)

_INTS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")
_DATES = ("datetime", "timestamp")
_KINDS = {
    **dict.fromkeys(schema.COLUMNS, _TEXTS),
    **dict.fromkeys(("id", "status", "progress", "priority"), _INTS),
    **dict.fromkeys(("sending_date", "finished_date"), _DATES),
}
"""Types that become the ones of the schema without a change of a value."""

_WIDE = {"innodb_large_prefix": "ON", "innodb_file_format": "BARRACUDA", "innodb_file_per_table": "ON"}
_PAGE = 16384

# Who is in the way, from the surest source to the one that all may ask, which knows only of sessions of the same user:
# id, user, host, seconds.
_BLOCKERS = (
    """SELECT DISTINCT t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST, t.PROCESSLIST_TIME
    FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID
    WHERE m.OBJECT_SCHEMA = DATABASE() AND m.OBJECT_NAME = %s AND m.LOCK_STATUS = 'GRANTED'
    AND t.PROCESSLIST_ID <> CONNECTION_ID()""",
    """SELECT p.ID, p.USER, p.HOST, TIMESTAMPDIFF(SECOND, x.trx_started, NOW())
    FROM information_schema.INNODB_TRX x JOIN information_schema.PROCESSLIST p ON p.ID = x.trx_mysql_thread_id
    WHERE p.DB = DATABASE() AND p.ID <> CONNECTION_ID() AND %s <> '' ORDER BY x.trx_started""",
    """SELECT ID, USER, HOST, TIME FROM information_schema.PROCESSLIST
    WHERE DB = DATABASE() AND ID <> CONNECTION_ID() AND %s <> '' ORDER BY TIME DESC""",
)


class MysqlSchema:
    """`schema.Database` of a session. lock_wait: seconds to wait for a table that somebody else has in use."""

    dialect = "mysql"

    def __init__(self, session: MysqlSession, lock_wait: int = LOCK_WAIT) -> None:
        self._session = session
        self._lock_wait = lock_wait
        self._connection: Any = None

    @property
    def name(self) -> str:
        return self._session.name

    @property
    def queue_table(self) -> str:
        return self._session.queue_table

    @property
    def frame(self) -> tuple[str, str]:
        return f"SET SESSION sql_mode = '{_MODE}', lock_wait_timeout = {self._lock_wait};", ""

    def quoted(self, identifier: str) -> str:
        return self._session.quoted(identifier)

    def meta(self) -> dict[str, str]:
        if not self._exists("peach_meta"):
            return {}
        return {_text(name): _text(value) for name, value in self._session.rows("SELECT name, value FROM peach_meta")}

    def columns(self) -> tuple[str, ...]:
        """Raises ConfigError where one has a type that no queue of Peach ever had, and where the server has no room for
        the indexes: before anything is changed."""
        self._need_room()
        found = self._session.rows(
            "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
            (self.queue_table,),
        )
        types = {_text(name).lower(): _text(kind).lower() for name, kind in found}
        for name, kind in types.items() if tuple(types) == schema.COLUMNS else ():
            if kind not in _KINDS[name]:
                raise ConfigError(
                    f"{self.name}: the column {name} of the table {self.queue_table!r} is of type {kind}; in a queue of"
                    f" Peach it is one of {', '.join(_KINDS[name])}",
                    "set database.queue_table to the name of another table, or change the column's type",
                )
        return tuple(types)

    def _need_room(self) -> None:
        """Each index is over a name of up to 512 characters; the older servers take 191 as they come."""
        values = {
            _text(name): _text(value).upper()
            for name, value in self._session.rows("SHOW GLOBAL VARIABLES LIKE 'innodb%'")
        }
        wrong = [
            f"{name} is {values[name]}, {wanted.upper()} is needed"
            for name, wanted in _WIDE.items()
            # Newer servers know these no more, or have them empty.
            if values.get(name, "") not in ("", wanted) and (name != "innodb_file_per_table" or self._session.narrow)
        ]
        if int(values["innodb_page_size"]) < _PAGE:
            wrong.append(f"innodb_page_size is {values['innodb_page_size']}, {_PAGE} is needed")
        if wrong:
            raise ConfigError(
                f"{self.name}: the server has no room for an index over 512 characters: {'; '.join(wrong)}",
                "docs/mysql.md, 'Which servers', has the settings",
            )

    def effort(self) -> str:
        found = self._session.row(
            "SELECT TABLE_ROWS, DATA_LENGTH FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s",
            (self.queue_table,),
        )
        if found is None:
            return ""
        # What the server remembers of a table's size may be old; a table mostly consists of its workflows.
        sample = "SELECT AVG(LENGTH(workflow_json)) FROM (SELECT workflow_json FROM {queue} LIMIT 500) some"
        rows = int(found[0] or 0)
        size = max(int(found[1] or 0), int(self._session.row(sample)[0] or 0) * rows)
        return (
            f": about {rows:,} rows, {size / 1e6:,.1f} MB, are written anew, at 10 MB/s in {max(1, size // 10**7):,} s;"
            " nobody else can write to it meanwhile"
        )

    def extras(self) -> Sequence[str]:
        return ()  # an ALTER TABLE keeps what others hung on the table

    def needed(self, statement: str) -> bool:
        made = _TABLE.search(statement)
        if made is not None:
            return not self._exists(made[1])
        match = _INDEX.search(statement)
        if match is None:
            return True
        unique, name, columns = match.groups()
        found: dict[str, list[str]] = {}
        for index, column, not_unique, part in self._session.rows(
            "SELECT INDEX_NAME, COLUMN_NAME, NON_UNIQUE, SUB_PART FROM information_schema.STATISTICS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s ORDER BY INDEX_NAME, SEQ_IN_INDEX",
            (self.queue_table,),
        ):
            if not unique or not (not_unique or part):
                found.setdefault(_text(index).lower(), []).append(_text(column))
        return columns.split(", ") not in found.values() if unique else name not in found

    def _exists(self, table: str) -> bool:
        found = self._session.row(
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s", (table,)
        )
        return found is not None

    @contextmanager
    def changing(self) -> Iterator[None]:
        self._connection = self._session.separate()
        try:
            wait = self._lock_wait
            # The zone: should a date be a TIMESTAMP, its local time is what stays.
            self.execute(
                f"SET SESSION sql_mode = '{_MODE}', time_zone = @@GLOBAL.time_zone, wait_timeout = 3600,"
                f" lock_wait_timeout = {wait}, innodb_lock_wait_timeout = {wait}"
            )
            self._take_turn()
            yield
        finally:
            with suppress(mysql.connector.Error, OSError):
                self._connection.close()
            self._connection = None

    def _take_turn(self) -> None:
        """Waits for any other init-db of this database; the connection's end gives the turn away."""
        until = time.monotonic() + _TURN
        turn = "CONCAT('peach_', LEFT(SHA2(DATABASE(), 256), 40))"  # a name has at most 64 characters
        while self._ask(f"SELECT GET_LOCK({turn}, 5)")[0][0] != 1:
            if time.monotonic() > until:
                other = self._ask(f"SELECT IS_USED_LOCK({turn})")[0][0]
                raise UnreachableError(
                    f"{self.name}: another init-db is at it for {_TURN:g} s (connection {other})",
                    f"see what it does: SHOW PROCESSLIST; a dead one is ended by KILL {other}",
                )

    def execute(self, statement: str) -> None:
        self._ask(statement)

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            cursor = self._connection.cursor()
            cursor.execute(sql, tuple(values))
            return cursor.fetchall() if cursor.with_rows else []
        except (mysql.connector.Error, OSError) as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> PeachError:
        number = getattr(error, "errno", None)
        said = self._session.told(error).message
        table = self.queue_table
        if number == 1205:
            return self._in_the_way()
        if number in (1044, 1142, 1143, 1227, 1370):
            return UnreachableError(
                said,
                "init-db is run by the owner of the database, the consumers by another user: docs/mysql.md has the two",
            )
        if number in (1366, 1300, 3854):
            return ConfigError(
                f"{said}: a text in the table {table!r} is none in the character set that its column claims",
                "docs/mysql.md, 'Texts that are none'; the table is as it was",
            )
        if number == 1062:
            return ConfigError(
                f"{said}: two rows of {table!r} have the same execution_file",
                "keep one of them",
            )
        if number in (1071, 1709):
            return ConfigError(
                f"{said}: this server has no room for an index over 512 characters",
                "InnoDB with innodb_page_size of 16k, innodb_file_format Barracuda and innodb_large_prefix where these"
                " are settings still (before MySQL 5.7, MariaDB 10.2)",
            )
        if number in (1138, 1265, 1264, 1292, 1406):
            return ConfigError(
                f"{said}: a value of {table!r} does not fit its column", "the table is as it was; mend the value"
            )
        return self._session.told(error)

    def _in_the_way(self) -> PeachError:
        found: list[Any] = []
        own = self._session.row("SELECT CONNECTION_ID()")[0]
        for query in _BLOCKERS:
            # Not every server has each of them, not every user may read them.
            with suppress(mysql.connector.Error):
                cursor = self._connection.cursor()
                cursor.execute(query, (self.queue_table,))
                found = [one for one in cursor.fetchall() if one[0] != own]
            if found:
                break
        who = [
            f"connection {id} ({_text(user)}@{_text(host)}, for {int(seconds or 0)} s)"
            for id, user, host, seconds in found[:3]
        ]
        if not found or query is _BLOCKERS[-1]:
            who.append("a session that this user may not see")
        hint = f"wait for it, or end it (KILL {found[0][0]})" if found else "SHOW PROCESSLIST as a user who may see it"
        return UnreachableError(
            f"{self.name}: the table {self.queue_table!r} stayed in use for {self._lock_wait} s by {' or '.join(who)}",
            f"{hint}, and run init-db again: it goes on where it was",
        )


def plan(server: Server, queue_table: str = "queue") -> schema.Plan:
    """What `init-db` would do to this database. Changes nothing."""
    session = MysqlSession(server, queue_table)
    try:
        return schema.pending(MysqlSchema(session))
    finally:
        session.close()


def migrate(server: Server, queue_table: str = "queue", lock_wait: int = LOCK_WAIT) -> schema.Plan:
    """What `init-db` does: creates, upgrades or adopts. Returns what was done. Raises PeachError; what was done before
    stays done, and the next call goes on from there."""
    session = MysqlSession(server, queue_table)
    try:
        return schema.apply(MysqlSchema(session, lock_wait))
    finally:
        session.close()


def need_schema(session: MysqlSession) -> None:
    """For whoever opens the store: raises ConfigError where `init-db`, or a newer peachctl, is needed."""
    found = schema.pending(MysqlSchema(session))
    if found.steps:
        what = f"holds a queue of 2017 in {session.queue_table!r}" if found.adopts else "has an older schema, or none"
        raise ConfigError(f"{session.name}: the database {what}", "peachctl init-db")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | bytearray) else str(value)
