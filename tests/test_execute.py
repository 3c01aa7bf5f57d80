"""The execute loop in this process, on a real database and with real runs, where a test must reach into its time."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from peachctl import app, files, serve, takeover
from peachctl.config import load
from peachctl.errors import UnreachableError
from peachctl.execute import ExecuteLoop
from peachctl.runner import alive
from peachctl.stop import Stop
from peachctl.store import Executor, Row, Store, sqlite
from peachctl.store.sqlite_file import Clock
from tests.conftest import Peach, node, workflow

SLEEPER = workflow(node("a", "Text", ["x"]), node("s", "Sleep", ["60"], "a"))


@dataclass
class Rig:
    """A loop, its store, and what its observer heard."""

    loop: ExecuteLoop
    store: Store
    executor: Executor
    heard: list[tuple[int, str]] = field(default_factory=list)

    def until(self, truth: Callable[[], Any], seconds: float = 20) -> Any:
        """Steps until something is so."""
        end = time.monotonic() + seconds
        while not (found := truth()):
            assert time.monotonic() < end, (self.heard, self.store.rows())
            self.loop.step(0.1)
        return found

    def row(self, id: int) -> Row:
        row = self.store.get(id)
        assert row is not None
        return row

    def runs(self, id: int, name: str) -> bool:
        """Whether a node runs."""
        return any(one.id == name and one.status.value == "running" for one in self.store.nodes(id))


@contextlib.contextmanager
def opened(peach: Peach, **options: Any) -> Iterator[Rig]:
    config = load(environ=peach.environment())
    app.make_folders(config)
    heard: list[tuple[int, str]] = []
    with (
        contextlib.closing(app.open_store(config)) as store,
        app.execute_loop(
            config,
            store,
            app.options(config, **options),
            observer=lambda claim, event: heard.append((claim.id, event["event"])),
        ) as (loop, executor),
    ):
        yield Rig(loop, store, executor, heard)


def filed(peach: Peach, store: Store, *values: Any) -> list[int]:
    config = load(environ=peach.environment())
    entries = [(f"{n}.json", app.entry_of(config, str(peach.file(value)))) for n, value in enumerate(values)]
    return [one.id for one in app.submit(config, store, entries)]


def test_a_run_that_the_supervisor_ended_for_want_of_beats_is_given_back_and_no_failure(peach: Peach) -> None:
    with opened(peach, lease=1.5) as rig:
        [id] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(id, "s"))
        time.sleep(1.2)  # as a process that was stopped
        rig.until(lambda: (id, "given back") in rig.heard)
        rig.until(lambda: rig.row(id).attempt == 2 and rig.runs(id, "s"))
        assert rig.row(id).status.word == "processing"


def test_a_run_that_died_by_itself_while_its_executor_stalled_is_a_failure(peach: Peach) -> None:
    value = workflow(node("a", "Text", ["x"]), node("s", "Sleep", ["0.3"], "a"), node("k", "KillRun", [], "s"))
    with opened(peach, lease=1.5) as rig:
        [id] = filed(peach, rig.store, value)
        rig.until(lambda: rig.runs(id, "s"))
        time.sleep(1.2)  # longer than the supervisor waits; the run is over by then
        rig.until(lambda: rig.row(id).status.ended)
        assert "SIGKILL" in (rig.row(id).reason or "") and rig.row(id).attempt == 1


def stall(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[threading.Event, threading.Event]:
    """Has a function of `files` wait, as on a huge folder: (it has begun, it may go on)."""
    began, go_on = threading.Event(), threading.Event()
    real = getattr(files, name)

    def slow(*arguments: Any) -> Any:
        began.set()
        assert go_on.wait(20)
        return real(*arguments)

    monkeypatch.setattr(files, name, slow)
    return began, go_on


def test_a_huge_folder_holds_up_neither_renewals_nor_other_runs(peach: Peach, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(peach, slots=2, beat=0.05) as rig:
        [slow] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(slow, "s"))
        steps = {name: stall(monkeypatch, name) for name in ("prepare_attempt", "publish", "pack")}
        [id] = filed(peach, rig.store, workflow(node("t", "Text", ["y"])))
        for began, go_on in steps.values():
            rig.until(began.is_set)
            for _ in range(3):
                before = leases(peach)
                rig.until(partial(renewed, peach, before))
            assert len(before) == 2
            go_on.set()
        rig.until(lambda: rig.row(id).status.word == "success")


def renewed(peach: Peach, before: list[float]) -> bool:
    return all(one < other for one, other in zip(before, leases(peach), strict=True))


def leases(peach: Peach) -> list[float]:
    with contextlib.closing(sqlite3.connect(peach.database)) as database:
        return [until for (until,) in database.execute("SELECT lease_until FROM peach_runs WHERE ended IS NULL")]


def test_a_dead_executor_that_takes_long_to_bury_holds_up_nothing(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(proof: str) -> bool:
        began.set()
        return go_on.wait(20)

    with opened(peach) as rig:
        other = Executor("f" * 32, "elsewhere", "{}")
        rig.store.join(other)
        [held, id] = filed(peach, rig.store, SLEEPER, workflow(node("t", "Text", ["y"])))
        rig.store.claim(other, 1, 60, only=held)
        monkeypatch.setattr(alive, "is_dead", slow)
        rig.until(began.is_set)
        rig.until(lambda: rig.row(id).status.word == "success")
        assert not rig.loop.idle
        go_on.set()
        rig.until(lambda: rig.row(held).attempt == 2)


def test_after_a_sleep_of_the_machine_nobody_who_lives_is_taken_for_dead(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = 0.0
    now = takeover.boottime
    monkeypatch.setattr(takeover, "boottime", lambda: now() + slept)
    monkeypatch.setattr(sqlite, "system_clock", lambda: Clock("this boot", lambda: now() + slept))
    with opened(peach, lease=3.0, sweep=0.0, slots=2) as rig:
        neighbour = Executor("f" * 32, "elsewhere", "{}")
        rig.store.join(neighbour)
        theirs, ours, gone = filed(peach, rig.store, SLEEPER, SLEEPER, SLEEPER)
        [claim] = rig.store.claim(neighbour, 1, 60, only=theirs)
        rig.store.claim(neighbour, 1, 60, only=gone)
        rig.until(lambda: rig.runs(ours, "s"))
        slept = 1000.0
        rig.loop.step(0)
        rig.store.renew(neighbour, [claim], 60)
        rig.until(lambda: rig.row(gone).attempt == 2)
        assert rig.row(ours).attempt == rig.row(theirs).attempt == 1


def test_a_script_name_with_a_nul_ends_its_row_and_nothing_else(peach: Peach) -> None:
    with opened(peach) as rig:
        bad, good = filed(peach, rig.store, SLEEPER, workflow(node("t", "Text", ["y"])))
        with contextlib.closing(sqlite3.connect(peach.database)) as database, database:
            database.execute("UPDATE queue SET execution_file = 'a' || char(0) || 'b.py' WHERE id = ?", (bad,))
        rig.until(lambda: rig.row(bad).status.ended and rig.row(good).status.ended)
        assert (rig.row(bad).status.word, rig.row(good).status.word) == ("error", "success")
        assert "is a path, not a name" in (rig.row(bad).reason or "")
        assert rig.row(bad).output_file


def test_people_read_where_files_stay_and_not_where_an_attempt_had_them(peach: Peach) -> None:
    value = workflow(
        node("a", "Text", ["x"]),
        node("s", "Save", ["o.txt"], "a"),
        node("u", "Log", [], "s"),
        node("f", "FailWith", [], "u"),
    )
    with opened(peach) as rig:
        [id] = filed(peach, rig.store, value)
        rig.until(lambda: rig.row(id).status.ended)
        folder = peach.data / "workflow_temp" / f"workflow_{id}"
        [error] = [state.error for state in rig.store.nodes(id) if state.id == "f"]
        assert (folder / "s_o.txt").read_text() == "x"
        for text in (
            (folder / "u.log").read_text(),
            (folder / "peachctl.log").read_text(),
            rig.row(id).reason or "",
            str(error),
        ):
            assert f"{folder}/s_o.txt" in text and f"/.workflow_{id}/" not in text


def test_the_end_of_a_workflow_writes_its_progress_too(peach: Peach) -> None:
    nodes = [node("a", "Text", ["x"]), node("f", "Fail", ["no"], "a"), node("u", "Upper", [], "f")]
    with opened(peach) as rig:
        failing, cancelled = filed(peach, rig.store, workflow(*nodes), workflow(*nodes[:1], node("s", "Sleep", ["60"])))
        rig.until(lambda: rig.row(failing).output_file)
        assert (rig.row(failing).status.word, rig.row(failing).progress) == ("error", 99)
        rig.until(lambda: rig.runs(cancelled, "s") and rig.store.nodes(cancelled)[0].status.value == "success")
        rig.store.cancel(cancelled)
        rig.until(lambda: rig.row(cancelled).output_file)
        assert (rig.row(cancelled).status.word, rig.row(cancelled).progress) == ("cancelled", 50)


def test_an_executors_store_waits_for_a_lock_much_shorter_than_a_supervisor_waits_for_a_beat(peach: Peach) -> None:
    config = load(environ=peach.environment(PEACHCTL_EXECUTE__LEASE="3s"))
    with contextlib.closing(app.open_store(config, executes=True)) as store:
        with contextlib.closing(sqlite3.connect(peach.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UnreachableError, match=r"locked for 0\.6 s"):
                store.hold(True)


@pytest.mark.parametrize("kafka", [False, True])
def test_an_end_that_was_asked_for_during_the_start_leaves_the_queue_alone(peach: Peach, kafka: bool) -> None:
    """It came when there was a handler and not yet a loop; where work never ceases, such a one went on for ever."""
    with opened(peach) as rig, contextlib.closing(app.open_folder_bus(load(environ=peach.environment()))) as bus:
        [id] = filed(peach, rig.store, SLEEPER)
        stop = Stop(asked=1)
        if kafka:
            serve.serve_events(rig.loop, rig.store, stop, None, None, once=False)
        else:
            serve.serve(rig.loop, bus, rig.store, stop, once=False)
        assert rig.row(id).attempt == 0
