"""What a claim costs as the queue grows: the same claim of one row, with 100, 10,000 and 100,000 rows waiting.

Three shapes: users with rows in turn; each user's rows in one block; and one user who already runs something and filed
half of the queue before anybody else, so that every user must be looked at. The floor is a transaction of the same
database that writes one row: most of it is waiting for the disk (a server of the tests' waits for none).

    python benchmarks/claim.py [--claims N] [--database sqlite|mariadb|mysql]
"""

import argparse
import itertools
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from peachctl.store import Executor, Store

sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers of the tests

from tests import servers

SIZES = ((100, 100), (10_000, 1_000), (100_000, 1_000))
EXECUTOR = Executor("benchmark", "here", "{}")

SHAPES: dict[str, Callable[[int, int, int], str]] = {
    # of row, rows, users: the row's user
    "users in turn": lambda row, _rows, users: f"user{row % users}",
    "a block per user": lambda row, rows, users: f"user{row * users // rows}",
    "half of it one user's, who runs": lambda row, rows, users: "greedy" if row < rows // 2 else f"user{row % users}",
}


INSERT = 'INSERT INTO queue (user, execution_file, workflow_json) VALUES (%s, %s, \'{"name": "x", "nodes": []}\')'


def waiting(rows: int, users: int, shape: str) -> list[tuple[str, str]]:
    """User and script name of each row, as clients would insert them."""
    return [(SHAPES[shape](row, rows, users), f"{row}.py") for row in range(rows)]


@contextmanager
def embedded(found: list[tuple[str, str]]) -> Iterator[Store]:
    """A SQLite database with these rows."""
    from peachctl.store.sqlite import open_store

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peach.sqlite"
        with closing(open_store(path)) as store:
            with closing(sqlite3.connect(path)) as client, client:
                client.executemany(INSERT.replace("%s", "?"), found)
            yield store


@contextmanager
def served(kind: str, found: list[tuple[str, str]]) -> Iterator[Store]:
    """A database of the tests' MariaDB or MySQL with these rows."""
    from peachctl.config_values import Mysql
    from peachctl.store.mysql import open_store
    from peachctl.store.mysql_connection import Server
    from peachctl.store.mysql_schema import migrate
    from tests.servers import databases

    known = databases.server(kind)
    with databases.database(kind) as name:
        server = Server(Mysql("root", "127.0.0.1", known["port"], name))
        migrate(server)
        with closing(databases.connect(known, name)) as client:
            cursor = client.cursor()
            for start in range(0, len(found), 500):
                cursor.executemany(INSERT, found[start : start + 500])
            cursor.execute("ANALYZE TABLE queue")
        with closing(open_store(server)) as store:
            yield store


def timed(times: int, act: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a call, and mean seconds of processor time."""
    took, before = [], time.process_time()
    for _ in range(times):
        start = time.perf_counter()
        act()
        took.append(time.perf_counter() - start)
    return statistics.median(took), (time.process_time() - before) / times


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--claims", type=int, default=40, help="claims per measurement (default 40)")
    parser.add_argument("--database", choices=("sqlite", "mariadb", "mysql"), default="sqlite")
    asked = parser.parse_args()
    with servers.session() if asked.database != "sqlite" else nullcontext():
        for shape in SHAPES:
            print(shape)
            smallest = None
            for rows, users in SIZES:
                found = waiting(rows, users, shape)
                made = embedded(found) if asked.database == "sqlite" else served(asked.database, found)
                with made as store:
                    store.join(EXECUTOR)
                    store.claim(EXECUTOR, 1, 60)
                    wall, cpu = timed(asked.claims, lambda store=store: store.claim(EXECUTOR, 1, 60))  # type: ignore[misc]
                    turns = itertools.cycle((True, False))
                    floor, floor_cpu = timed(asked.claims, lambda store=store, turns=turns: store.hold(next(turns)))  # type: ignore[misc]
                smallest = smallest or cpu
                print(
                    f"  {rows:>7} rows, {users:>5} users: {wall * 1e3:6.2f} ms a claim, processor {cpu * 1e3:5.2f} ms"
                    f" ({cpu / smallest:3.1f} x the smallest); floor {floor * 1e3:5.2f} ms, {floor_cpu * 1e3:4.2f} ms"
                )


if __name__ == "__main__":
    main()
