"""A MySQL or MariaDB server: entered, asked and changed. What fails is told as `mysql_errors` says.

- Each read is a transaction of its own, so that nothing old is ever seen. Changes are made in `transaction`, at READ
  COMMITTED. FOUND_ROWS: a row that an UPDATE finds counts, whether or not it is changed by it, as in SQLite.
- What fails for the moment (a lost connection, a deadlock) is begun again as a whole, on a new connection where the
  old one is in doubt, until `patience` has passed; a connection is never mended in the midst of a transaction.
- A COMMIT whose reply is lost may have happened or not. So a transaction begins by writing its number into the row of
  `peach_writers` that belongs to this session. Whoever begins again reads it under a lock: that waits until the server
  has ended the former connection's transaction, and then tells whether that one was committed. Claims and ends of runs
  do without: they lock the rows that they had in hand, and find there whether they were committed. The filing of
  messages does as well: they are known by their origins.
- A process that is frozen in a transaction keeps its locks only until the server ends the idle connection.
"""

import os
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import mysql.connector  # noqa: TID253 - this module is imported where a mysql:// URL is opened, and nowhere else
from mysql.connector.constants import ClientFlag  # noqa: TID253

from peachctl.config_values import Mysql
from peachctl.errors import ConfigError, PeachError, RefusedError, UnreachableError
from peachctl.store import schema
from peachctl.store.mysql_errors import (
    OF_THE_MOMENT,
    ROLLED_BACK,
    Again,
    RowTooLarge,
    duplicates,
    number_of,
    said,
    translated,
)
from peachctl.store.mysql_values import bind

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds in which a verb is begun again after failures of the moment."""

_CONNECT, _REPLY = 5.0, 15.0  # most seconds to wait for a connection, for a reply
_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_IDLE = 30  # seconds after which the server ends a connection that says nothing, and a transaction with it
_FORM = 2048  # bytes of a statement that are no values
_ROWS = 500  # of one INSERT
_MANY = 1000  # ids in one statement
_LOCK = 5  # seconds to wait for a row that somebody else has locked
_LATE = 2  # seconds by which a server may be late with saying so: the older ones look once a second

OLDEST = {"MariaDB": (10, 1), "MySQL": (5, 6)}
"""The oldest versions that are supported: what `make proof ARGS="servers"` runs."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a database is and how it is entered. tls_ca: TLS is wanted, by a certificate of this authority and for this
    host (unless tls_verify is off); without it TLS is used where the server offers it."""

    url: Mysql
    password: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_verify: bool = True

    @property
    def wants_tls(self) -> bool:
        return self.tls_ca is not None or self.tls_cert is not None


class MysqlSession:
    """One connection at a time to one database. One thread. SQL has `%s` where values stand, and `{queue}` for the
    table's name, the only thing that ever becomes part of SQL."""

    dialect = "mysql"

    def __init__(self, server: Server, queue_table: str = "queue", patience: float = PATIENCE) -> None:
        schema.table_name(queue_table)
        self.server = server
        self.queue_table = queue_table
        self.patience = patience
        self.packet = 1 << 20
        """The most bytes of a statement; known once a connection was made."""
        self.skips_locked = True
        """Whether the server has SKIP LOCKED; known once a connection was made."""
        self.narrow = False
        """Whether the server's indexes are narrow unless its settings say otherwise; known as that."""
        self.last_id = 0
        """The id that the last statement gave, where it made one row."""
        self._quoted = self.quoted(queue_table)
        self._connection: Any = None
        self._cursor: Any = None  # one for all: to make one asks the server for a sign of life
        self._used = 0.0
        self._inside = False
        self._writer = os.urandom(16).hex()
        self._number = 0

    @property
    def name(self) -> str:
        return str(self.server.url)

    @property
    def _reply(self) -> int:
        """Seconds for which a reply is waited for."""
        return max(_LATE + 1, round(min(_REPLY, self.patience)))

    @property
    def _lock(self) -> int:
        """Seconds for which a lock is waited for: the server is to say that somebody else has it, before we take it for
        dead."""
        return min(_LOCK, self._reply - _LATE)

    def quoted(self, identifier: str) -> str:
        return f"`{identifier}`"

    # Inside of a transaction, or each a transaction of its own

    def rows(self, sql: LiteralString, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        if self._inside:
            return self._execute(sql, values)[0]
        return self._persist(lambda: self._execute(sql, values)[0])

    def row(self, sql: LiteralString, values: Sequence[Any] = ()) -> Any:
        """The first row of a query, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def change(self, sql: LiteralString, values: Sequence[Any] = ()) -> int:
        """One statement. Returns how many rows it found. Outside of a transaction it may happen twice: for what is the
        same then. Raises DuplicateKey inside of one."""
        if self._inside:
            return self._execute(sql, values)[1]
        return self._persist(lambda: self._execute(sql, values)[1])

    def change_unless_locked(self, sql: LiteralString, ids: Sequence[int]) -> list[int]:
        """A statement about one id, for each of these, in a transaction on a server without SKIP LOCKED. Returns those
        whose row was found; not those that somebody else keeps locked for a second, the least that can be waited for.
        """
        self._execute("SET SESSION innodb_lock_wait_timeout = 1")
        try:
            found = [id for id in ids if self._found_unlocked(sql, id)]
        except mysql.connector.Error as error:
            if error.errno in ROLLED_BACK:  # the connection goes on
                self._execute("SET SESSION innodb_lock_wait_timeout = %s", (self._lock,))
            raise
        self._execute("SET SESSION innodb_lock_wait_timeout = %s", (self._lock,))
        return found

    def _found_unlocked(self, sql: LiteralString, id: int) -> bool:
        try:
            return self._execute(sql, (id,))[1] > 0
        except mysql.connector.Error as error:
            # Of the transaction only this statement is undone, unless the server is told to undo all of it.
            if error.errno != 1205 or self._execute("SELECT @@GLOBAL.innodb_rollback_on_timeout")[0][0][0]:
                raise
            return False

    def insert(
        self,
        into: LiteralString,
        rows: Sequence[Sequence[Any]],
        on_duplicate: LiteralString = "",
        form: LiteralString | None = None,
    ) -> None:
        """Many rows of the same form, in statements of a few hundred, each smaller than what the server takes.

        into: up to `VALUES`. form: of a row, where it is not all `%s`. Raises DuplicateKey, and RowTooLarge before
        anything of it is sent.
        """
        one = (form or f"({marks(rows[0])})" if rows else "").encode()
        bound = [self._checked(bind(one, row), index) for index, row in enumerate(rows)]
        part: list[bytes] = []
        total = 0
        for row in bound:
            if len(part) == _ROWS or total + len(row) > self.packet - _FORM:
                self._insert(into, part, on_duplicate)
                part, total = [], 0
            part.append(row)
            total += len(row) + 1
        if part:
            self._insert(into, part, on_duplicate)

    def _insert(self, into: str, rows: Sequence[bytes], on_duplicate: str) -> None:
        statement = self._named(into) + b" VALUES " + b",".join(rows) + b" " + on_duplicate.encode()
        # As `_send`, but without the cursor, which looks for several statements in its text: of some hundred rows.
        self._connected()
        with duplicates():
            told = self._connection.cmd_query(statement)
        self._used = time.monotonic()
        self.last_id = told["insert_id"]

    def check_size(self, row: Sequence[Any]) -> None:
        """Raises RowTooLarge where these values are larger than a statement may be."""
        self._checked(bind(marks(row).encode(), row), 0)

    def _checked(self, row: bytes, index: int) -> bytes:
        if len(row) > self.packet - _FORM:
            raise RowTooLarge(index, len(row), self.packet)
        return row

    def transaction(self, work: Callable[[], T], *, marked: bool = True) -> T:
        """What `work` returns, once all that it did is committed. Rolled back by any exception.

        work: is called again after a failure of the moment. marked: False for what may happen twice without harm, or
        finds by itself what it did before, under a lock; it then takes a statement less.
        """
        if marked:
            self._number += 1
        done: list[T] = []  # by an attempt whose COMMIT was sent

        def attempt() -> T:
            self._execute("START TRANSACTION")
            self._inside = True
            if marked:
                if done and self._committed():
                    self._execute("COMMIT")
                    return done[-1]
                done.clear()
                self._execute(
                    "INSERT INTO peach_writers (token, number, seen) VALUES (%s, %s, UTC_TIMESTAMP())"
                    " ON DUPLICATE KEY UPDATE number = VALUES(number), seen = VALUES(seen)",
                    (self._writer, self._number),
                )
            result = work()
            done.append(result)
            self._execute("COMMIT")
            return result

        return self._persist(attempt)

    def _committed(self) -> bool:
        found, _ = self._execute("SELECT number FROM peach_writers WHERE token = %s FOR UPDATE", (self._writer,))
        return found == [(self._number,)]

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(mysql.connector.Error, OSError):
                connection.close()

    # For the schema

    def separate(self) -> Any:
        """A connection beside the session's own, on which a reply may take as long as it takes: the driver's."""
        try:
            connection = self._connect()
        except Exception as error:
            number = number_of(error)
            raise error if number is None else self.told(error) from error
        connection.read_timeout = None
        return connection

    def told(self, error: Exception) -> PeachError:
        """A driver's error as a sentence."""
        number = number_of(error)
        if number is None or number in OF_THE_MOMENT:
            return UnreachableError(
                f"{self.name}: {said(error, self._reply)}", "see whether the server runs, and database.url"
            )
        return translated(error, number, self.server.url)

    # Beneath

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Makes attempts until one succeeds, a failure is not of the moment, or patience has passed."""
        until = time.monotonic() + self.patience
        pause = _PAUSE
        while True:
            try:
                return attempt()
            except Again as error:
                self._rollback()
                failure: Exception = error
            except Exception as error:
                number = number_of(error)
                if number is None or number in ROLLED_BACK:
                    self._rollback()
                else:
                    self._discard()
                if number is None:
                    raise
                if number not in OF_THE_MOMENT:
                    raise translated(error, number, self.server.url) from error
                failure = error
            except BaseException:
                self._discard()  # a reply may be half read
                raise
            finally:
                self._inside = False
            left = until - time.monotonic()
            if left <= 0:
                raise self._gave_up(failure) from failure
            time.sleep(min(left, pause * random.uniform(0.5, 1)))  # noqa: S311 - so that not all come back at once
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _execute(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[Any], int]:
        """Rows, and how many there are or were found."""
        return self._send(bind(self._named(sql), values))

    def _named(self, sql: str) -> bytes:
        return sql.replace("{queue}", self._quoted).encode()

    def _send(self, statement: bytes) -> tuple[list[Any], int]:
        cursor = self._connected()
        with duplicates():
            cursor.execute(statement)
            found = cursor.fetchall() if cursor.with_rows else []
        self._used = time.monotonic()
        self.last_id = cursor.lastrowid or 0
        return found, cursor.rowcount

    def _connected(self) -> Any:
        """The cursor."""
        # Never inside of a transaction, whose first half would be gone with the connection.
        if self._connection is not None and not self._inside and time.monotonic() - self._used > _IDLE - 5:
            self._discard()
        if self._connection is None:
            if self._inside:
                raise Again("the connection is gone")
            self._connection = self._connect()
            self._cursor = self._connection.cursor()
            self._used = time.monotonic()
        return self._cursor

    def _connect(self) -> Any:
        url, server = self.server.url, self.server
        reply = self._reply
        where: dict[str, Any] = (
            {"unix_socket": str(url.unix_socket)}
            if url.unix_socket is not None
            else {"host": url.host.strip("[]"), "port": url.port}
        )
        if server.tls_ca is not None:
            where |= {
                "ssl_ca": str(server.tls_ca),
                "ssl_verify_cert": server.tls_verify,
                "ssl_verify_identity": server.tls_verify,
            }
        if server.tls_cert is not None and server.tls_key is not None:
            where |= {"ssl_cert": str(server.tls_cert), "ssl_key": str(server.tls_key)}
        for file in (server.tls_ca, server.tls_cert, server.tls_key):
            if file is not None and not os.access(file, os.R_OK):
                raise ConfigError(f"database.tls_*: {file} cannot be read")
        connection: Any = None
        try:
            connection = self._enter(
                **where,
                user=url.user,
                password=server.password or "",
                database=url.name,
                use_pure=True,
                charset="utf8mb4",
                collation="utf8mb4_general_ci",  # of itself it takes one that not every server knows
                sql_mode="STRICT_ALL_TABLES",
                time_zone="+00:00",
                autocommit=True,
                # Without attributes: to say what it runs on, the driver would run `lsb_release` for each connection.
                client_flags=[ClientFlag.FOUND_ROWS, -ClientFlag.CONNECT_ARGS],
                allow_local_infile=False,
                connection_timeout=max(1, round(min(_CONNECT, self.patience))),
                read_timeout=reply,
                write_timeout=reply,
            )
            cursor = connection.cursor()
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(
                "SET SESSION wait_timeout = %s, innodb_lock_wait_timeout = %s, lock_wait_timeout = %s",
                (_IDLE, self._lock, self._lock),
            )
            cursor.execute("SELECT @@max_allowed_packet, @@version")
            self.packet, version = cursor.fetchone()
            self._know(_text(version))
            if self.narrow:
                cursor.execute("SELECT @@innodb_log_file_size * @@innodb_log_files_in_group")
                # Some of these take no text larger than a tenth of their redo log (1118).
                self.packet = min(self.packet, int(cursor.fetchone()[0]) // 11)
            if server.wants_tls:
                cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
                if not cursor.fetchone()[1]:
                    raise RefusedError(
                        f"{self.name}: the connection is not encrypted, and database.tls_ca asks for it",
                        "set up TLS on the server",
                    )
        except BaseException as error:
            if connection is not None:
                connection.shutdown()
            # Whatever answers on that port may be no MySQL: its bytes break the driver in more ways than it knows.
            if isinstance(error, Exception) and not isinstance(error, PeachError) and number_of(error) is None:
                raise UnreachableError(
                    f"{self.name}: what answers there is no MySQL or MariaDB ({type(error).__name__})",
                    "see database.url",
                ) from error
            raise
        return connection

    def _enter(self, **how: Any) -> Any:
        """The driver's connection. Where TLS is not asked for, and the server has one that nobody speaks any more (1.1,
        until MySQL 5.7 and MariaDB 10.2 in many builds), without it: whoever sits between could have that as well."""
        try:
            return mysql.connector.connect(**how)
        except mysql.connector.Error as error:
            if self.server.wants_tls or number_of(error) != 2026:
                raise
            return mysql.connector.connect(**how, ssl_disabled=True)

    def _know(self, version: str) -> None:
        """Raises ConfigError for a server that is too old."""
        kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        known = _numbers(version)
        if known is None:
            self.skips_locked = False
            return
        if known < OLDEST[kind]:
            oldest = " or ".join(f"{name} {major}.{minor}" for name, (major, minor) in OLDEST.items())
            raise ConfigError(
                f"{self.name}: the server is {kind} {version}, at least {oldest} is needed", "docs/mysql.md"
            )
        self.skips_locked = known >= ((10, 6) if kind == "MariaDB" else (8, 0))
        self.narrow = known < ((10, 2) if kind == "MariaDB" else (5, 7))

    def _rollback(self) -> None:
        if self._connection is None:
            return
        try:
            self._cursor.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - the server rolls back what has no connection any more
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Without a last word: whoever does not read would let us wait for it.
            with suppress(Exception):
                connection.shutdown()

    def _gave_up(self, failure: Exception) -> UnreachableError:
        return UnreachableError(
            f"{self.name}: the database could not be reached for {self.patience:g} s ({said(failure, self._reply)})",
            "see whether the server runs, and database.url",
        )


def marks(many: Sequence[Any]) -> Any:
    """`%s, %s` for the values of an IN, which must be one at least."""
    return ", ".join(["%s"] * len(many))


def parts(many: Sequence[T]) -> list[Sequence[T]]:
    """Of these, what one statement may have in an IN."""
    return [many[start : start + _MANY] for start in range(0, len(many), _MANY)]


def among(column: LiteralString, ids: Sequence[int]) -> tuple[Any, Sequence[int]]:
    """The condition that a column is one of these, which must be one at least, and its values: a range where nothing
    lies between them, which a batch of hundreds mostly is."""
    if max(ids) - min(ids) == len(ids) - 1 and len(set(ids)) == len(ids):
        return f"{column} BETWEEN %s AND %s", (min(ids), max(ids))
    return f"{column} IN ({marks(ids)})", ids


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | bytearray) else str(value)


def _numbers(version: str) -> tuple[int, int] | None:
    """The first two of a server's version; None where it has none."""
    match = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None
