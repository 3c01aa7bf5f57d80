"""What is SQLite's alone: the file, its errors, the boot that a lease belongs to, the cost of a claim."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from peachctl.errors import ConfigError, UnreachableError
from peachctl.store import Entry, Executor, Status, sqlite_claim
from peachctl.store.sqlite import SqliteStore, open_store, plan
from peachctl.store.sqlite_file import system_clock
from tests.store.adapters import SqliteClient, ids

EXECUTOR = Executor("t", "h", "{}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "peach.sqlite"


@pytest.fixture
def umask() -> Iterator[None]:
    """The test may change it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o000, 0o640), (0o022, 0o640), (0o077, 0o600)])
def test_the_files_are_for_owner_and_group_only(
    path: Path, entry: Callable[..., Entry], umask: None, mask: int, mode: int
) -> None:
    os.umask(mask)
    path = path.parent / "a" / "b" / path.name
    with closing(open_store(path)) as store:
        store.file([entry()])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {f"peach.sqlite{end}": mode for end in ("", "-wal", "-shm")}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750 & ~mask


@pytest.mark.fault("A11")
def test_what_was_committed_is_on_the_disk(path: Path) -> None:
    store = open_store(path)
    assert store._db.row("PRAGMA journal_mode") == ("wal",)
    assert store._db.row("PRAGMA synchronous") == (2,)
    store.close()


def test_a_lease_of_another_boot_has_run_out(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path)) as store:
        (filed,) = store.file([entry()])
        store.claim(EXECUTOR, 1, 10**9)
    clock = replace(system_clock(), boot="after a restart", boottime=lambda: 1.0)
    with closing(open_store(path, clock=clock)) as store:
        assert ids(store.release_expired(3)) == [filed.id]
        store.claim(EXECUTOR, 1, 30)
        assert store.release_expired(3) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: path.write_bytes(b"not a database at all" * 100), "not a SQLite database"),
        (lambda path: path.parent.joinpath("file").touch(), "cannot be opened"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    path = tmp_path / "x.sqlite"
    make(path)
    if not path.exists():
        path = tmp_path / "file" / "x.sqlite"
    with pytest.raises(UnreachableError, match=says) as caught:
        open_store(path)
    assert str(path) in caught.value.message


def test_a_path_with_nul_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        open_store(tmp_path / "a\0b")


def test_a_database_that_is_not_there_is_not_made_unless_told(path: Path) -> None:
    with pytest.raises(UnreachableError, match="no database") as caught:
        open_store(path, create=False)
    assert caught.value.hint == "peachctl init-db" and not path.exists()
    path.touch()
    with pytest.raises(ConfigError) as without:
        open_store(path, create=False)
    assert without.value.hint == "peachctl init-db"
    open_store(path).close()
    open_store(path, create=False).close()


@pytest.mark.fault("C15")
def test_a_lock_that_lasts_is_named_after_the_time_out(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path, timeout=0.2)) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(UnreachableError, match=r"locked for 0\.2 s"):
            store.file([entry()])
        assert time.monotonic() - started < 5
        assert store.rows() == [], "readers do not wait"
        holder.execute("ROLLBACK")
        holder.close()
        assert store.file([entry()])[0].new


def test_a_lock_that_ends_is_waited_for(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path)) as store:
        holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: holder.execute("ROLLBACK"))
        timer.start()
        assert store.file([entry()])[0].new
        timer.join()
        holder.close()


@pytest.mark.fault("D1")
def test_a_full_disk_is_named_and_leaves_nothing_half_written(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path)) as store:
        store.file([entry()])
        pages = store._db.row("PRAGMA page_count")[0]
        store._db.rows(f"PRAGMA max_page_count = {pages + 20}")
        big = [entry(workflow_json="x" * 20_000) for _ in range(50)]
        with pytest.raises(UnreachableError, match="disk is full"):
            store.file(big)
        assert len(store.rows()) == 1
        store._db.rows("PRAGMA max_page_count = 100000")
        assert len(store.file(big)) == 50


def test_a_damaged_file_is_named(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path)) as store:
        store.file([entry(workflow_json="x" * 5000) for _ in range(200)])
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(UnreachableError, match=r"damaged|not a SQLite"):
        open_store(path).rows()


def test_a_table_that_somebody_dropped_asks_for_init_db(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path)) as store:
        client = SqliteClient(path)
        client.run("DROP TABLE peach_jobs")
        client.close()
        with pytest.raises(ConfigError, match="peach_jobs"):
            store.file([entry()])


def test_text_that_is_no_utf8_is_read(path: Path) -> None:
    with closing(open_store(path)) as store:
        client = SqliteClient(path)
        client.run("INSERT INTO queue (user, execution_file, status) VALUES (CAST(x'41ff' AS TEXT), x'42', 3)")
        client.close()
        (row,) = store.rows()
        assert (row.user, row.execution_file) == ("A\ufffd", "B")


def test_each_thread_opens_its_own(path: Path, entry: Callable[..., Entry]) -> None:
    entries = [[entry() for _ in range(20)] for _ in range(4)]
    failures: list[BaseException] = []

    def work(mine: list[Entry]) -> None:
        try:
            with closing(open_store(path)) as store:
                for one in mine:
                    store.file([one])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(open_store(path)) as store:
        assert failures == [] and store.counts()[Status.QUEUED] == 80
    assert plan(path).steps == []


def test_an_exception_in_a_transaction_rolls_it_back(path: Path, entry: Callable[..., Entry]) -> None:
    with closing(open_store(path)) as store:
        with pytest.raises(KeyboardInterrupt), store._db.writing():
            store._db.change("DELETE FROM peach_meta")
            raise KeyboardInterrupt
        assert store.file([entry()])[0].new and store._db.row("SELECT count(*) FROM peach_meta") == (2,)


@pytest.mark.parametrize("window", [0, 1, 3, 4096])
@pytest.mark.parametrize("most", [1, 2, 7])
def test_every_look_at_the_queue_takes_the_same_rows(
    path: Path, entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch, window: int, most: int
) -> None:
    monkeypatch.setattr(sqlite_claim, "WINDOW", window)
    blocks = ["a"] * 6 + ["B", "b"] * 2 + ["c"] * 5 + ["d"] + ["A"] * 3 + ["", "e\0f", "\U0001f9e0", "e"]
    with closing(open_store(path)) as store:
        first = store.file([entry(user) for user in blocks])[0].id
        taken: list[int] = []
        while claims := store.claim(EXECUTOR, most, 30):
            taken += [claim.id - first for claim in claims]
    heads = [0, 6, 10, 15, 19, 20, 21, 22]
    assert taken[: len(heads)] == heads
    assert taken[len(heads) :] == [1, 7, 11, 2, 8, 12, 3, 9, 13, 4, 14, 5, 16, 17, 18]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_claim_reads_as_little_of_a_long_queue_as_of_a_short_one(path: Path, greedy: bool) -> None:
    """Counted in instructions of SQLite's virtual machine, which do not depend on how busy the machine is."""

    def fill(store: SqliteStore, rows: int, users: int) -> None:
        with store._db.writing():
            store._db.change_many(
                "INSERT INTO {queue} (user, execution_file, workflow_json, status) VALUES (?, ?, '{}', 0)",
                [("greedy" if greedy and n < rows // 2 else f"user{n % users}", f"{rows}-{n}.py") for n in range(rows)],
            )

    def cost(store: SqliteStore) -> int:
        steps = [0]

        def step() -> None:
            steps[0] += 1

        store.claim(EXECUTOR, 1, 30)
        connection = store._db._connection
        connection.set_progress_handler(step, 10)
        (claim,) = store.claim(EXECUTOR, 1, 30)
        connection.set_progress_handler(None, 10)
        assert claim.row.user.startswith("user")
        return steps[0]

    with closing(open_store(path)) as store:
        fill(store, 10_000, 100)
        short = cost(store)
    with closing(open_store(path.parent / "long.sqlite")) as store:
        fill(store, 40_000, 100)
        long = cost(store)
    assert long < 1.1 * short


def test_a_second_connection_of_a_process_takes_no_lock_away_from_the_first(path: Path) -> None:
    """Else another process that came and went would remove the log that the first goes on writing to."""
    first, second = open_store(path), open_store(path)
    opened = f"__import__('peachctl.store.sqlite').store.sqlite.open_store(__import__('pathlib').Path({str(path)!r}))"

    def look() -> str:
        """From another process, which opens the database and closes it."""
        code = f"store = {opened}; print(store.held()); store.close()"
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    look()
    first.hold(True)
    seen = look()
    first.close()
    second.close()
    assert seen == "True\n"
