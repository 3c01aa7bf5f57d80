"""kill -9 of `run`, of an executor, of the warm parent, of a run: taken up again or ended with a reason."""

import contextlib
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DIAMOND, Peach, node, workflow
from tests.road.judge import judge


def counted(peach: Peach) -> tuple[dict[str, Any], Path]:
    """A workflow whose first node notes that it ran, and whose second runs until `go_on`."""
    notes = peach.home / "notes"
    return (
        workflow(
            node("text", "Text", ["x"]),
            node("first", "Count", [str(notes)], "text"),
            node("slow", "Until", [str(peach.home / "go on")], "first"),
            node("last", "Count", [str(notes)], "slow"),
        ),
        notes,
    )


def go_on(peach: Peach) -> None:
    (peach.home / "go on").touch()


def is_running(peach: Peach, name: str) -> bool:
    return any(
        one["id"] == name and one["status"] == "running"
        for row in peach.rows()
        for one in peach.detail(row["id"])["nodes"]
    )


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


@pytest.mark.fault("A8", "A9")
@pytest.mark.parametrize("command", [("run",), ("consume", "execute")])
def test_a_killed_executor_is_taken_over_at_once_and_done_nodes_do_not_run_again(
    command: tuple[str, ...], peach: Peach
) -> None:
    value, notes = counted(peach)
    file = peach.file(value)
    if command == ("run",):
        process = peach.start("run", file)
    else:
        peach("submit", file)
        process = peach.start(*command)
    peach.until(lambda: is_running(peach, "slow"))
    process.kill()
    process.wait()
    peach.until(lambda: not peach.marked())  # else the node may end well before it is ended
    go_on(peach)
    began = time.monotonic()
    peach("consume", "execute", "--once", PEACHCTL_EXECUTE__LEASE="600s")
    assert time.monotonic() - began < 60, "waited for the lease"
    [row] = judge(peach, rows=1)
    assert row["attempt"] == 2
    assert notes.read_text().split() == ["first", "last"]
    states = {one["id"]: one["status"] for one in peach.detail(row["id"])["nodes"]}
    assert states == {"text": "reused", "first": "reused", "slow": "success", "last": "success"}


def test_a_killed_run_is_taken_up_with_the_hub_and_scheduler_that_it_had(peach: Peach, tmp_path: Path) -> None:
    value, _ = counted(peach)
    process = peach.start(
        "run", peach.file(value), "--hub", peach.hub, "--scheduler", "sync", PEACHCTL_FOLDERS__HUB="/"
    )
    peach.until(lambda: is_running(peach, "slow"))
    process.kill()
    process.wait()
    empty = tmp_path / "empty"
    empty.mkdir()
    go_on(peach)
    peach("consume", "execute", "--once", PEACHCTL_FOLDERS__HUB=str(empty))
    judge(peach, rows=1)


@pytest.mark.parametrize("which", ["supervisor", "all of its processes"])
def test_when_the_warm_parent_is_killed_the_same_executor_starts_the_workflow_again(which: str, peach: Peach) -> None:
    value, notes = counted(peach)
    process = peach.start("run", peach.file(value))
    peach.until(lambda: is_running(peach, "slow"))
    victims = children(process.pid) if which == "supervisor" else descendants(process.pid)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    go_on(peach)
    assert process.wait(60) == 0
    judge(peach, rows=1)
    assert notes.read_text().split() == ["first", "last"]


@pytest.mark.fault("A8")
def test_an_attempt_that_keeps_losing_its_executor_ends_in_error_after_max_attempts(peach: Peach) -> None:
    peach("submit", peach.file(counted(peach)[0]))
    for _ in range(2):
        process = peach.start("consume", "execute", PEACHCTL_EXECUTE__MAX_ATTEMPTS="2")
        peach.until(lambda pid=process.pid: is_running(peach, "slow") and len(descendants(pid)) > 1)
        process.kill()
        process.wait()
    peach("consume", "execute", "--once", PEACHCTL_EXECUTE__MAX_ATTEMPTS="2")
    [row] = judge(peach, rows=1, statuses=("error",))
    assert "vanished" in row["reason"] and "2" in row["reason"]


@pytest.mark.parametrize("scheduler", ["processes", "threads", "sync"])
@pytest.mark.parametrize("isolation", ["warm", "fresh"])
def test_a_run_that_is_killed_ends_in_error_and_names_the_nodes_that_ran(
    scheduler: str, isolation: str, peach: Peach
) -> None:
    value = workflow(
        node("a", "Text", ["x"]),
        node("bad", "KillRun", [], "a"),
        node("after", "Upper", [], "bad"),
    )
    done = peach.json("run", peach.file(value), "--scheduler", scheduler, code=3, PEACHCTL_EXECUTE__ISOLATION=isolation)
    states = {one["id"]: one["status"] for one in done["nodes"]}
    assert states == {"a": "success", "bad": "error", "after": "skipped"}
    assert "SIGKILL" in done["reason"] and "'bad'" in done["reason"]
    judge(peach, rows=1, statuses=("error",))


def test_daemons_that_a_service_started_do_not_outlive_the_run(peach: Peach) -> None:
    value = workflow(node("a", "Text", ["x"]), node("d", "Daemon", [str(peach.home / "daemon")], "a"))
    peach("run", peach.file(value))
    judge(peach, rows=1)


def test_ctrl_c_cancels_a_run_with_all_of_its_processes(peach: Peach) -> None:
    value = workflow(
        node("a", "Text", ["x"]),
        node("d", "Daemon", [str(peach.home / "daemon")], "a"),
        node("s", "Sleep", ["60"], "d"),
    )
    process = peach.start("run", peach.file(value))
    peach.until(lambda: is_running(peach, "s"))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    judge(peach, rows=1, statuses=("cancelled",))


@pytest.mark.fault("D7")
def test_sigterm_drains_and_the_next_attempt_is_not_counted_and_goes_on_from_the_nodes_that_are_done(
    peach: Peach,
) -> None:
    value, notes = counted(peach)
    peach("submit", peach.file(value))
    process = peach.start("consume", "execute", PEACHCTL_EXECUTE__DRAIN="0.2s", PEACHCTL_EXECUTE__MAX_ATTEMPTS="1")
    peach.until(lambda: is_running(peach, "slow"))
    process.terminate()
    assert process.wait(30) == 0
    assert [row["status"] for row in peach.rows()] == ["queued"]
    go_on(peach)
    peach("consume", "execute", "--once", PEACHCTL_EXECUTE__MAX_ATTEMPTS="1")
    judge(peach, rows=1)
    assert notes.read_text().split() == ["first", "last"]


def test_two_executors_on_one_database_run_each_workflow_once(peach: Peach) -> None:
    notes = peach.home / "notes"
    files = []
    for number in range(12):
        value = workflow(node("t", "Text", ["x"]), node(f"n{number}", "Count", [str(notes)], "t"))
        files.append(peach.file(value, f"{number}.json"))
    peach("submit", *files)
    both = [peach.start("consume", "execute", "--once") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    judge(peach, rows=12)
    assert sorted(notes.read_text().split()) == sorted(f"n{number}" for number in range(12))
    errors = "".join(path.read_text() for path in peach.home.glob("stderr.*"))
    assert "locked" not in errors


@pytest.mark.fault("C7")
def test_a_row_that_a_client_deletes_or_cancels_while_it_runs_is_ended(peach: Peach) -> None:
    slow = workflow(node("a", "Text", ["x"]), node("s", "Sleep", ["60"], "a"))
    peach("submit", peach.file(slow), peach.file(slow, "two.json"))
    process = peach.start("consume", "execute")
    peach.until(lambda: [row["status"] for row in peach.rows()] == ["processing", "processing"])
    with sqlite3.connect(peach.database) as database:
        database.execute("DELETE FROM queue WHERE id = 1")
        database.execute("UPDATE queue SET status = 2 WHERE id = 2")
    peach.until(lambda: len(peach.marked()) <= len([process.pid, *descendants(process.pid)]) and no_runs(process.pid))
    peach.until(lambda: peach.rows()[0]["output_file"])
    process.terminate()
    assert process.wait(20) == 0
    [row] = judge(peach, rows=1, statuses=("cancelled",))
    assert row["id"] == 2
    assert not (peach.data / "workflow_temp" / "workflow_1").exists()


def no_runs(pid: int) -> bool:
    """Whether the executor has nothing but its supervisor below it."""
    return all(b"Sleep" not in Path(f"/proc/{one}/cmdline").read_bytes() for one in descendants(pid))


def test_a_diamond_runs_with_every_scheduler_and_isolation(peach: Peach) -> None:
    for scheduler in ("sync", "threads", "processes"):
        for isolation in ("warm", "fresh"):
            done = peach.json(
                "run", peach.file(DIAMOND), "--scheduler", scheduler, PEACHCTL_EXECUTE__ISOLATION=isolation
            )
            assert done["status"] == "success"
            folder = peach.data / "workflow_temp" / f"workflow_{done['id']}"
            assert (folder / "E_out.txt").read_text() == "I-N.TXT"
    judge(peach, rows=6)


@contextlib.contextmanager
def locked(peach: Peach) -> Iterator[None]:
    """Somebody else writes to the database, and does not come to an end."""
    with contextlib.closing(sqlite3.connect(peach.database, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.fault("D7")
def test_a_second_sigterm_ends_at_once_though_the_database_does_not_answer(peach: Peach) -> None:
    peach("submit", peach.file(counted(peach)[0]))
    process = peach.start("consume", "execute", PEACHCTL_EXECUTE__LEASE="600s")
    peach.until(lambda: is_running(peach, "slow"))
    with locked(peach):
        process.terminate()
        time.sleep(0.1)  # else the kernel makes one of them
        process.terminate()
        assert process.wait(12) == 0  # SQLite would have waited for 30 s
        peach.until(lambda: not peach.marked())


def test_an_executor_that_is_overdue_ends_though_the_database_does_not_answer(peach: Peach) -> None:
    quick = """
import functools, sys
from peachctl import app, execute
execute._WRITES = 0.5
app.options = functools.partial(app.options, term_grace=0.5)
from peachctl.cli import main
sys.argv = ["peachctl", "consume", "execute"]
main()
"""
    peach("submit", peach.file(counted(peach)[0]))
    variables = {"PEACHCTL_EXECUTE__LEASE": "600s", "PEACHCTL_EXECUTE__DRAIN": "0.5s"}
    process = peach.spawn([sys.executable, "-c", quick], **variables)
    peach.until(lambda: is_running(peach, "slow"))
    with locked(peach):
        process.terminate()
        assert process.wait(12) == 0  # SQLite would have waited for 30 s, again and again
        peach.until(lambda: not peach.marked())
    go_on(peach)
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def test_ctrl_c_is_not_lost_while_the_database_is_away(peach: Peach) -> None:
    process = peach.start("run", peach.file(counted(peach)[0]))
    peach.until(lambda: is_running(peach, "slow"))
    with locked(peach):
        process.send_signal(signal.SIGINT)
        peach.until(lambda: "is not cancelled yet" in (peach.home / "stderr.0").read_text())
    assert process.wait(20) == 130
    judge(peach, rows=1, statuses=("cancelled",))


def test_a_run_in_the_debugger_does_not_outlive_its_executor_and_is_taken_over_at_once(peach: Peach) -> None:
    value = workflow(node("a", "Text", ["x"]), node("bad", "Fail", ["look here"], "a"))
    with peach.on_terminal("run", peach.file(value), "--pdb") as (_, terminal):
        seen = b""
        while b"(Pdb)" not in seen:
            assert select.select([terminal], [], [], 30)[0], seen
            seen += os.read(terminal, 4096)
    peach("consume", "execute", "--once", PEACHCTL_EXECUTE__LEASE="600s")
    [row] = judge(peach, rows=1, statuses=("error",))
    assert row["attempt"] == 2 and "look here" in row["reason"]


def test_run_beside_watch_and_neither_runs_what_is_the_others(peach: Peach) -> None:
    notes = peach.home / "notes"

    def note(name: str) -> dict[str, Any]:
        return workflow(node("t", "Text", ["x"]), node(name, "Count", [str(notes)], "t"))

    def dropped(name: str) -> None:
        peach.file(note(name), "being-written").rename(peach.inbox / f"{name}.json")
        peach.until(lambda: notes.exists() and name in notes.read_text().split())

    watch = peach.start("watch")
    peach.until(lambda: "Inbox:" in (peach.home / "stderr.0").read_text())
    dropped("first")
    peach("run", peach.file(note("run")))
    dropped("last")  # by then it has seen the script of `run`
    watch.terminate()
    assert watch.wait(30) == 0
    rows = judge(peach, rows=3)
    assert sorted(notes.read_text().split()) == ["first", "last", "run"]
    assert [row["attempt"] for row in rows] == [1, 1, 1]


@pytest.mark.fault("D1")
def test_a_full_disk_hands_the_claim_back_uncounted_and_a_kill_meanwhile_loses_nothing(peach: Peach) -> None:
    """A real full disk: a small tmpfs, in a mount namespace of the executor's own."""
    peach("submit", peach.file(DIAMOND))
    folder = peach.data / "workflow_temp"
    script = 'mount -t tmpfs -o size=64k none "$0"; head -c 100k /dev/zero >"$0/full" 2>/dev/null; exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", script, str(folder), sys.executable, "-m", "peachctl"]
    private = {"XDG_RUNTIME_DIR": str(peach.home), "PEACHCTL_EXECUTE__MAX_ATTEMPTS": "1"}
    process = subprocess.Popen(
        [*command, "consume", "execute"],
        env=peach.environment(**private),
        stderr=(peach.home / "stderr.0").open("w"),
        cwd=peach.home,
    )
    peach.running.append(process)
    peach.until(lambda: "No space left on device" in (peach.home / "stderr.0").read_text())
    peach.until(lambda: [row["status"] for row in peach.rows()] == ["queued"])
    process.kill()
    process.wait()
    peach("consume", "execute", "--once", **private)
    [row] = judge(peach, rows=1)
    assert row["attempt"] >= 2
