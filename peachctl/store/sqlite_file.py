"""A SQLite database file: opened, locked, changed, and its errors told in sentences that name the file.

WAL, so that readers and the one writer do not wait for each other; `synchronous=FULL`, so that what was committed
survives a power cut; `BEGIN IMMEDIATE`, so that a transaction that will write never finds out too late that it may
not (an upgrade of a read lock fails at once, whatever the time-out).
"""

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

from peachctl.errors import ConfigError, PeachError, UnreachableError
from peachctl.store import schema

Values = Sequence[Any] | dict[str, Any]

FILE_MODE = 0o640
"""workflow_json may hold passwords: for owner and group only. SQLite gives -wal and -shm the mode of the file."""

FOLDER_MODE = 0o750


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _boottime() -> float:
    # Goes on while the machine sleeps and knows nothing of a wall clock that somebody sets.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Clock:
    """Time as this store sees it. boot: names the start of the machine that `boottime` counts from (seconds).
    wall: unix seconds, for what people read."""

    boot: str
    boottime: Callable[[], float] = _boottime
    wall: Callable[[], float] = time.time


def system_clock() -> Clock:
    """The clocks of this machine."""
    return Clock(_boot_id())


class SqliteFile:
    """An open database file. One thread. Also what `schema` needs to see to it (`schema.Database`)."""

    dialect = "sqlite"

    def __init__(self, path: Path, queue_table: str, connection: sqlite3.Connection, timeout: float) -> None:
        self.path = path
        self.queue_table = queue_table
        self._connection = connection
        self._timeout = timeout
        self._quoted = self.quoted(queue_table)

    @property
    def name(self) -> str:
        return str(self.path)

    def make_durable(self) -> None:
        """WAL and full synchronisation: once after opening, unless nothing is to be changed, not even the header."""
        until = time.monotonic() + self._timeout
        with self._translated():
            while self._connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                try:
                    self._connection.execute("PRAGMA journal_mode = WAL")
                    break
                except sqlite3.OperationalError as error:
                    # Two that make the same database: this change of mode does not wait for the other's lock by itself.
                    busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                    if not busy or time.monotonic() > until:
                        raise
                    time.sleep(0.01)
            self._connection.execute("PRAGMA synchronous = FULL")

    # For the verbs. `{queue}` in their SQL stands for the table's name, the only thing that ever becomes part of SQL.

    def rows(self, sql: LiteralString, values: Values = ()) -> list[Any]:
        """All rows of a query."""
        with self._translated():
            return self._connection.execute(self._named(sql), values).fetchall()

    def row(self, sql: LiteralString, values: Values = ()) -> Any:
        """The first row of a query, or None."""
        with self._translated():
            return self._connection.execute(self._named(sql), values).fetchone()

    def change(self, sql: LiteralString, values: Values = ()) -> sqlite3.Cursor:
        """One statement inside of `writing`."""
        return self._connection.execute(self._named(sql), values)

    def change_many(self, sql: LiteralString, values: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        """One statement for each of `values`, inside of `writing`."""
        return self._connection.executemany(self._named(sql), values)

    def _named(self, sql: str) -> str:
        return sql.replace("{queue}", self._quoted)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: committed when the block is left, rolled back by any exception."""
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._translated():
            self._connection.close()

    # For the schema

    def quoted(self, identifier: str) -> str:
        return f'"{identifier}"'

    def meta(self) -> dict[str, str]:
        if not self.row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'peach_meta'"):
            return {}
        return dict(self.rows("SELECT name, value FROM peach_meta"))

    def columns(self) -> tuple[str, ...]:
        found = self.rows("SELECT name FROM pragma_table_info(?) ORDER BY cid", (self.queue_table,))
        return tuple(name.lower() for (name,) in found)

    def extras(self) -> list[str]:
        found = self.rows(
            "SELECT sql FROM sqlite_master WHERE lower(tbl_name) = lower(?) AND type IN ('index', 'trigger')"
            " AND sql IS NOT NULL",
            (self.queue_table,),
        )
        return [f"{sql};" for (sql,) in found]

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self.writing():
            # Else a view over the table, which for a moment is not there, would stop its being renamed.
            self._connection.execute("PRAGMA legacy_alter_table = ON")
            try:
                yield
            finally:
                self._connection.execute("PRAGMA legacy_alter_table = OFF")

    def execute(self, statement: str) -> None:
        self._connection.execute(statement)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake of ours (a closed store, another thread), to be seen as what it is
        except sqlite3.Error as error:
            raise translated(self.path, error, self._timeout) from error


def translated(path: Path, error: sqlite3.Error, timeout: float) -> PeachError:
    """A driver's error as a sentence."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnreachableError(f"{path}: the database stayed locked for {timeout:g} s", "see who has it open: fuser")
    if code == sqlite3.SQLITE_FULL:
        return UnreachableError(f"{path}: the disk is full", "free some space; nothing was half written")
    if code == sqlite3.SQLITE_READONLY:
        return UnreachableError(f"{path}: the database, or its folder, cannot be written to", "see who owns it")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return UnreachableError(f"{path}: the database cannot be opened", "see that file and folder can be written to")
    if code == sqlite3.SQLITE_NOTADB:
        return UnreachableError(f"{path}: this file is not a SQLite database", "see database.url")
    if code == sqlite3.SQLITE_CORRUPT:
        return UnreachableError(f"{path}: the database is damaged ({error})", "restore it from a backup")
    if code == sqlite3.SQLITE_IOERR:
        return UnreachableError(
            f"{path}: the database cannot be read or written ({error})", "see the state of the disk"
        )
    if "no such table" in str(error):
        return ConfigError(f"{path}: {error}", "peachctl init-db")
    return UnreachableError(f"{path}: {error}")


def connect(path: Path, queue_table: str, timeout: float, *, create: bool) -> SqliteFile:
    """Opens a database file; with `create`, one that is not there is made, and its folder.

    Raises UnreachableError, and ConfigError for an impossible name of the queue table.
    """
    path = path.absolute()
    schema.table_name(queue_table)
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            # Made here and not by SQLite, which would take the umask alone for its mode.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, FILE_MODE))
        _look_at(path)
    except FileNotFoundError as error:
        raise UnreachableError(f"{path}: there is no database", "peachctl init-db") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnreachableError(f"{path}: the database cannot be opened ({reason})") from error
    try:
        connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    except sqlite3.Error as error:
        raise translated(path, error, timeout) from error
    # What a client wrote may be no UTF-8: shown with replacement characters, not an error for the whole list.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return SqliteFile(path, queue_table, connection, timeout)


def _look_at(path: Path) -> None:
    """Raises OSError where the file cannot be opened. It is not opened to find out: its closing would take away the
    locks of all other connections that this process has to it, and the next process to close its own would then take
    itself for the last one, and remove the log that they go on writing to."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR)) if path.is_dir() else OSError(errno.EINVAL, "no file")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def memory(path: Path, queue_table: str) -> SqliteFile:
    """An empty database that stands for one that is not there yet, to see what would have to be done."""
    schema.table_name(queue_table)
    return SqliteFile(path.absolute(), queue_table, sqlite3.connect(":memory:", isolation_level=None), 0)
