"""What a claim costs as the queue grows: the same claim of one row, with 100, 10,000 and 100,000 rows waiting.

Three shapes: users with rows in turn; each user's rows in one block; and one user who already runs something and filed
half of the queue before anybody else, so that every user must be looked at. The floor is a transaction of the same
database that writes one row: most of it is waiting for the disk.

    python benchmarks/claim.py [--claims N]
"""

import argparse
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from peachctl.store import Executor
from peachctl.store.sqlite import open_store

SIZES = ((100, 100), (10_000, 1_000), (100_000, 1_000))
EXECUTOR = Executor("benchmark", "here", "{}")

SHAPES: dict[str, Callable[[int, int, int], str]] = {
    # of row, rows, users: the row's user
    "users in turn": lambda row, _rows, users: f"user{row % users}",
    "a block per user": lambda row, rows, users: f"user{row * users // rows}",
    "half of it one user's, who runs": lambda row, rows, users: "greedy" if row < rows // 2 else f"user{row % users}",
}


def fill(path: Path, rows: int, users: int, shape: str) -> None:
    """Inserts waiting rows as a client would."""
    with closing(sqlite3.connect(path)) as client, client:
        client.executemany(
            'INSERT INTO queue (user, execution_file, workflow_json) VALUES (?, ?, \'{"name": "x", "nodes": []}\')',
            ((SHAPES[shape](row, rows, users), f"{row}.py") for row in range(rows)),
        )


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
    claims = parser.parse_args().claims
    for shape in SHAPES:
        print(shape)
        smallest = None
        for rows, users in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "peach.sqlite"
                with closing(open_store(path)) as store:
                    store.join(EXECUTOR)
                    fill(path, rows, users, shape)
                    store.claim(EXECUTOR, 1, 60)
                    wall, cpu = timed(claims, lambda store=store: store.claim(EXECUTOR, 1, 60))  # type: ignore[misc]
                    turns = itertools.cycle((True, False))
                    floor, floor_cpu = timed(claims, lambda store=store, turns=turns: store.hold(next(turns)))  # type: ignore[misc]
            smallest = smallest or cpu
            print(
                f"  {rows:>7} rows, {users:>5} users: {wall * 1e3:6.2f} ms a claim, processor {cpu * 1e3:5.2f} ms"
                f" ({cpu / smallest:3.1f} x the smallest); floor {floor * 1e3:5.2f} ms, {floor_cpu * 1e3:4.2f} ms"
            )


if __name__ == "__main__":
    main()
