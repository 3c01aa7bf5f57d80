"""The databases that the suite of the port runs against. Another adapter is one more class and one more name here."""

import functools
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import mysql.connector  # noqa: TID253  only tests come here, and they mean it

from peachctl.config_values import Mysql, parse_database_url
from peachctl.store import Store
from peachctl.store import mysql as mysql_store
from peachctl.store.mysql_connection import MysqlSession, Server
from peachctl.store.mysql_schema import migrate
from peachctl.store.sqlite import open_store
from peachctl.store.sqlite_file import Clock, system_clock
from tests.servers import databases


class Client(Protocol):
    """A connection of somebody else, each statement its own transaction. `?` stands for a value."""

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]: ...

    def close(self) -> None: ...


class Database(Protocol):
    """One empty database, made for one test. `place` is what another process needs to reach it."""

    place: str

    def open(self) -> Store: ...

    def client(self) -> Client: ...

    def advance(self, seconds: float) -> None:
        """Time passes, for the leases of all stores that were opened here."""
        ...

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        ...

    def close(self) -> None: ...


class SqliteClient:
    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=20, isolation_level=None)

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def close(self) -> None:
        self._connection.close()


@functools.cache
def _empty() -> bytes:
    """A database as `open_store` makes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite"
        open_store(path).close()
        return path.read_bytes()


class SqliteDatabase:
    def __init__(self, folder: Path) -> None:
        self.place = str(folder / "peach.sqlite")
        self._passed = 0.0
        self._jumped = 0.0
        self._opened: list[Any] = []
        real = system_clock()
        self.clock = Clock(
            real.boot, lambda: real.boottime() + self._passed, lambda: time.time() + self._passed + self._jumped
        )

    def open(self) -> Store:
        path = Path(self.place)
        if not path.exists():
            path.write_bytes(_empty())
        store = open_store(path, clock=self.clock)
        # Waiting for the disk is most of what the suite would do; that a store does wait is tested in test_sqlite.
        store._db.rows("PRAGMA synchronous = OFF")
        self._opened.append(store)
        return store

    def client(self) -> Client:
        client = SqliteClient(Path(self.place))
        self._opened.append(client)
        return client

    def advance(self, seconds: float) -> None:
        self._passed += seconds

    def jump(self, seconds: float) -> None:
        self._jumped += seconds

    def close(self) -> None:
        for one in self._opened:
            one.close()


class MysqlClient:
    """Dates come as texts, as SQLite has them."""

    def __init__(self, server: Server) -> None:
        url = server.url
        self._connection = mysql.connector.connect(
            host=url.host, port=url.port, user=url.user, database=url.name, use_pure=True, autocommit=True,
            charset="utf8mb4", collation="utf8mb4_general_ci",
        )  # fmt: skip

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        cursor.execute(sql.replace("?", "%s"), values)
        rows = cursor.fetchall() if cursor.with_rows else []
        return [tuple(str(value) if isinstance(value, datetime) else value for value in row) for row in rows]

    def close(self) -> None:
        self._connection.close()


@functools.cache
def _own(kind: str) -> str:
    """A database of this process on the session's server, with the tables of `init-db`; emptied for each test."""
    known = databases.server(kind)
    name = f"t_{uuid.uuid4().hex[:14]}"  # of a user as well, which has 16 characters at most on MySQL 5.6
    databases.execute(known, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    place = f"mysql://root@127.0.0.1:{known['port']}/{name}"
    migrate(place_server(place))
    databases.execute(
        known, f"CREATE USER {name}@'%'", f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{name}`.* TO {name}@'%'"
    )
    return place


_TABLES = ("jobs", "origins", "outbox", "runs", "nodes", "letters", "executors", "left", "writers")


class MysqlDatabase:
    """The server's time is that of each connection's `SET timestamp`: the SQL under test is the one that is used."""

    def __init__(self, kind: str) -> None:
        self.place = _own(kind)
        self._passed = 0.0
        self._jumped = 0.0
        self._opened: list[Any] = []
        self._sessions: list[MysqlSession] = []
        client = self.client()
        for table in ("queue", *(f"peach_{name}" for name in _TABLES)):
            client.run(f"DELETE FROM {table}")
        client.run("DELETE FROM peach_meta WHERE name NOT IN ('queue_table', 'schema')")

    def open(self) -> Store:
        # As the user that docs/mysql.md has for the consumers: what the suite does, it can do.
        server = place_server(self.place)
        server = replace(server, url=replace(server.url, user=server.url.name))
        store = mysql_store.open_store(server, wall=lambda: time.time() + self._passed + self._jumped)
        self._opened.append(store)
        self._sessions.append(store._db)
        self._set(store._db)
        return store

    def client(self) -> Client:
        client = MysqlClient(place_server(self.place))
        self._opened.append(client)
        return client

    @contextmanager
    def locked(self, id: int) -> Iterator[None]:
        """Meanwhile somebody else keeps this row locked."""
        client = self.client()
        client.run("START TRANSACTION")
        client.run("SELECT id FROM queue WHERE id = ? FOR UPDATE", id)
        try:
            yield
        finally:
            client.run("ROLLBACK")

    def advance(self, seconds: float) -> None:
        self._passed += seconds
        for session in self._sessions:
            self._set(session)

    def jump(self, seconds: float) -> None:
        self._jumped += seconds

    def _set(self, session: MysqlSession) -> None:
        if self._passed:
            session.change("SET timestamp = %s", (time.time() + self._passed,))

    def close(self) -> None:
        for one in self._opened:
            one.close()


def place_server(place: str) -> Server:
    url = parse_database_url(place)
    assert isinstance(url, Mysql)
    return Server(url)


ADAPTERS: dict[str, Callable[[Path], Database]] = {
    "sqlite": SqliteDatabase,
    **{kind: lambda _, kind=kind: MysqlDatabase(kind) for kind in databases.KINDS},  # type: ignore[misc]
}


def open_place(adapter: str, place: str) -> Store:
    """Opens in another process what a test made."""
    return open_store(Path(place)) if adapter == "sqlite" else mysql_store.open_store(place_server(place))


def ids(claims: Sequence[Any]) -> list[int]:
    return [one.id for one in claims]
