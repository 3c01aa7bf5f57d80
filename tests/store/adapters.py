"""The databases that the suite of the port runs against. Another adapter is one more class and one more name here."""

import functools
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from peachctl.store import Store
from peachctl.store.sqlite import open_store
from peachctl.store.sqlite_file import Clock, system_clock


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


ADAPTERS = {"sqlite": SqliteDatabase}


def open_place(adapter: str, place: str) -> Store:
    """Opens in another process what a test made."""
    openers = {"sqlite": lambda: open_store(Path(place))}
    return openers[adapter]()


def ids(claims: Sequence[Any]) -> list[int]:
    return [one.id for one in claims]
