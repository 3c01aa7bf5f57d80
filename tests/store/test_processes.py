"""Several processes on one database, and what a killed one leaves."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from peachctl.store import Entry, Status, Store
from tests.store.adapters import Client, Database, ids

ROOT = Path(__file__).parents[2]


def start(adapter: str, place: str, task: str, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.store.worker", adapter, place, task, name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.fault("C5", "C15")
def test_four_processes_claim_every_row_once(
    adapter: str, database: Database, store: Store, entry: Callable[..., Entry]
) -> None:
    filed = ids(store.file([entry(f"user{n % 7}", priority=n % 3) for n in range(600)]))
    workers = [start(adapter, database.place, "claim", f"worker{n}") for n in range(4)]
    outputs = [worker.communicate(timeout=60)[0].split("\n") for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    claimed = Counter(line for output in outputs for line in output if line)
    assert claimed == Counter(f"{id} 1" for id in filed)
    assert store.counts()[Status.PROCESSING] == 600


@pytest.mark.fault("A2")
def test_a_killed_process_leaves_whole_transactions_only(
    adapter: str, database: Database, store: Store, client: Client
) -> None:
    pauses = random.Random(7)
    acknowledged: list[int] = []
    for round_ in range(6):
        worker = start(adapter, database.place, "write", f"round{round_}")
        assert worker.stdout is not None
        lines = [worker.stdout.readline()]
        time.sleep(pauses.uniform(0, 0.25))
        worker.kill()
        lines += worker.stdout.read().splitlines(keepends=True)
        worker.wait()
        worker.stdout.close()
        acknowledged += [int(id) for line in lines if line.endswith("\n") for id in line.split()]
    rows = {row.id: row for row in store.rows()}
    assert acknowledged and set(acknowledged) <= set(rows), "an acknowledged row is there"
    # Batches are of five: rows, origins and announcements, all of them or none.
    by_round = Counter(row.user for row in rows.values())
    assert all(count % 5 == 0 for count in by_round.values())
    for table in ("peach_origins", "peach_outbox", "peach_jobs"):
        assert {id for (id,) in client.run(f"SELECT queue_id FROM {table}")} == set(rows), table
    for row in rows.values():
        states = [node.status for node in store.nodes(row.id)]
        assert len(states) in (0, 20)
        assert (row.status is Status.SUCCESS) == (row.output_file == f"{row.id}.tar") == (row.progress == 100)
        assert row.status is not Status.QUEUED or row.attempt == 0
    left = store.release([f"round{n}" for n in range(6)], 3)
    assert len(left) <= 12 and store.counts()[Status.PROCESSING] == 0 and store.executors() == []


def test_processes_that_open_a_new_database_at_once_all_work(adapter: str, database: Database) -> None:
    workers = [start(adapter, database.place, "open", f"first{n}") for n in range(5)]
    assert [worker.wait(timeout=60) for worker in workers] == [0] * 5
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.close()
    assert sorted(row.user for row in database.open().rows()) == [f"first{n}" for n in range(5)]
