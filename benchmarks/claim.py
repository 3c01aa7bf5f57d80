"""What a claim costs as the queue grows: the same claim of one row, with 100, 10,000 and 100,000 rows waiting.

Two shapes: many users with rows in turn (the queue's front settles it), and one user who already runs something and
has filed half of the queue before anybody else (so that every user must be looked at). The floor is a transaction of
the same database that writes one row.

    python benchmarks/claim.py [--claims N]
"""

import argparse
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peachctl.store import Executor
from peachctl.store.sqlite import SqliteStore, open_store

SIZES = ((100, 100), (10_000, 1_000), (100_000, 1_000))
EXECUTOR = Executor("benchmark", "here", "{}")


def fill(path: Path, rows: int, users: int, *, greedy: bool) -> None:
    """Inserts waiting rows as a client would. greedy: one user's rows are half of all and come first."""
    with sqlite3.connect(path) as client:
        head = rows // 2 if greedy else 0
        client.executemany(
            "INSERT INTO queue (user, execution_file, workflow_json) VALUES (?, ?, ?)",
            (
                ("greedy" if number < head else f"user{number % users}", f"{number}.py", '{"name": "x", "nodes": []}')
                for number in range(rows)
            ),
        )
    client.close()


def timed(claims: int, act: Callable[[], object]) -> float:
    """Median seconds of a call."""
    took = []
    for _ in range(claims):
        start = time.perf_counter()
        act()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def measure(folder: Path, rows: int, users: int, claims: int, *, greedy: bool) -> tuple[float, float]:
    """(seconds of a claim, seconds of the floor)"""
    path = folder / f"{rows}-{greedy}.sqlite"
    store: SqliteStore = open_store(path)
    store.join(EXECUTOR)
    fill(path, rows, users, greedy=greedy)
    store.claim(EXECUTOR, 1, 60)
    claim = timed(claims, lambda: store.claim(EXECUTOR, 1, 60))
    turns = itertools.cycle((True, False))
    floor = timed(claims, lambda: store.hold(next(turns)))
    store.close()
    return claim, floor


def main() -> None:
    """Prints a table and the ratio to the smallest queue."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--claims", type=int, default=40, help="claims per measurement (default 40)")
    claims = parser.parse_args().claims
    for greedy in (False, True):
        print("one user filed half, and runs" if greedy else "users in turn")
        first = None
        with tempfile.TemporaryDirectory() as folder:
            for rows, users in SIZES:
                claim, floor = measure(Path(folder), rows, users, claims, greedy=greedy)
                first = first or claim
                print(
                    f"  {rows:>7} rows, {users:>5} users: {claim * 1e3:7.2f} ms a claim, {claim / first:4.1f} x the"
                    f" smallest; floor {floor * 1e3:6.2f} ms"
                )


if __name__ == "__main__":
    main()
