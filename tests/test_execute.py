"""The execute loop in this process, on a real database and with real runs, where a test must reach into its time."""

import contextlib
import gc
import hashlib
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from peachctl import app, by_hand, drain, files, serve, takeover
from peachctl.backoff import Backoff
from peachctl.config import load
from peachctl.errors import UnreachableError
from peachctl.execute import ExecuteLoop
from peachctl.runner import alive
from peachctl.runner.supervised import Supervised
from peachctl.stop import Stop
from peachctl.store import Executor, Row, Store, sqlite
from peachctl.store.sqlite_file import Clock
from tests.conftest import Peach, make_hub, node, workflow
from tests.runner.rig import carriers, wait_until, waits

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
    entries = [(f"{n}.json", by_hand.entry_of(config, str(peach.file(value)))) for n, value in enumerate(values)]
    return [one.id for one in by_hand.submit(config, store, entries)]


def test_a_run_that_the_supervisor_ended_for_want_of_beats_is_given_back_and_no_failure(peach: Peach) -> None:
    with opened(peach, lease=1.5) as rig:
        [id] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(id, "s"))
        time.sleep(1.2)  # as a process that was stopped
        rig.until(lambda: (id, "given back") in rig.heard)
        rig.until(lambda: rig.row(id).attempt == 2 and rig.runs(id, "s"))
        assert rig.row(id).status.word == "processing"


def test_a_database_that_was_away_until_the_runs_were_ended_counts_against_no_workflow(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise UnreachableError("the database is away")

    with opened(peach, lease=1.5, beat=0.1, max_attempts=1) as rig:
        [id] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(id, "s"))
        with monkeypatch.context() as patch:
            patch.setattr(rig.store, "renew", away)
            rig.until(lambda: (id, "given back") in rig.heard)
        rig.until(lambda: rig.row(id).attempt > 1 and rig.runs(id, "s"))


def test_what_its_host_froze_with_counts_as_vanished(peach: Peach) -> None:
    """Else a workflow that has its host swap to death would do so for ever."""
    with opened(peach, lease=1.5, max_attempts=1) as rig:
        [id] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(id, "s"))
        time.sleep(1.2)
        rig.until(lambda: rig.row(id).status.ended)
        assert "its executor was frozen" in (rig.row(id).reason or "")


def test_leases_are_renewed_between_any_two_writes_of_a_step(peach: Peach, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs report, or end, while the database is slow."""
    verbs: list[str] = []

    def note(name: str) -> None:
        real = getattr(rig.store, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            verbs.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(rig.store, name, noted)

    with opened(peach, slots=4, beat=0.0) as rig:
        for name in ("renew", "report", "finish", "claim", "release_expired", "unpacked"):
            note(name)
        ids = filed(peach, rig.store, *[workflow(node("t", "Text", ["y"])) for _ in range(8)])
        rig.until(lambda: all(rig.row(id).status.word == "success" for id in ids))
        assert {"renew", "report", "finish", "claim", "release_expired", "unpacked"} == set(verbs)
        began = verbs.index("claim")
        assert not [pair for pair in pairwise(verbs[began:]) if "renew" not in pair]


def test_a_beat_counts_from_before_the_renewal_however_late_that_returns(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[float] = []
    with opened(peach) as rig:
        [id] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(id, "s"))
        renewals: list[float] = []
        renew = rig.store.renew

        def noted(*arguments: Any) -> Any:
            renewals.append(time.monotonic())
            return renew(*arguments)

        monkeypatch.setattr(rig.store, "renew", noted)
        monkeypatch.setattr(Supervised, "beat", lambda _, at: beats.append(at))
        rig.until(lambda: beats)
        assert beats[0] <= renewals[0]


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


def delete(peach: Peach, id: int) -> None:
    """As clients do."""
    with contextlib.closing(sqlite3.connect(peach.database)) as database, database:
        database.execute("DELETE FROM queue WHERE id = ?", (id,))


def test_nothing_stays_of_a_row_that_is_deleted_while_it_is_packed(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = stall(monkeypatch, "pack")
    with opened(peach) as rig:
        [id] = filed(peach, rig.store, workflow(node("t", "Text", ["y"])))
        rig.until(began.is_set)
        delete(peach, id)
        go_on.set()
        rig.until(lambda: not rig.loop.busy)
    assert list((peach.data / "downloads" / "files").iterdir()) == []
    assert list((peach.data / "workflow_temp").iterdir()) == []


def test_an_executor_whose_running_row_was_deleted_signs_off_as_any_other(peach: Peach) -> None:
    with opened(peach) as rig:
        [id] = filed(peach, rig.store, SLEEPER)
        rig.until(lambda: rig.runs(id, "s"))
        delete(peach, id)
        rig.until(lambda: not rig.loop.busy)
    with contextlib.closing(app.open_store(load(environ=peach.environment()))) as store:
        assert store.executors() == []


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


@pytest.mark.fault("D4")
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


def test_a_script_that_was_edited_is_refused_whatever_its_checksum_says(peach: Peach) -> None:
    with opened(peach) as rig:
        edited, forged, other_comment = filed(peach, rig.store, *[workflow(node("t", "Text", ["y"]))] * 3)
        paths = {id: peach.queue / rig.row(id).execution_file for id in (edited, forged, other_comment)}
        text = paths[edited].read_text()
        head, body = text.split("# checksum", 1)
        body = body.partition("\n")[2] + "print('mine')\n"
        paths[edited].write_text(text.replace("run(graph)", "run(graph)  # mine"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        paths[forged].write_text(f"{head}# checksum: sha256 {digest} of the {len(body)} bytes after this line\n{body}")
        paths[other_comment].write_text(text.replace("python3\n", "python3\rraise SystemExit(3)\n", 1))
        rig.until(lambda: all(rig.row(id).output_file for id in paths))
        for id in (edited, forged):
            assert rig.row(id).status.word == "error" and "was edited" in (rig.row(id).reason or "")
        assert rig.row(other_comment).status.word == "success"


@pytest.mark.parametrize(
    ("name", "status"), [(None, "success"), ("", "success"), ("..", "error"), ("ä" * 200, "error")]
)
def test_a_row_whose_script_name_is_none_runs_from_its_rendering_or_ends_at_once(
    peach: Peach, name: str | None, status: str
) -> None:
    with opened(peach) as rig:
        [id] = filed(peach, rig.store, workflow(node("t", "Text", ["y"])))
        with contextlib.closing(sqlite3.connect(peach.database)) as database, database:
            database.execute("UPDATE queue SET execution_file = ? WHERE id = ?", (name, id))
        rig.until(lambda: rig.row(id).status.ended)
        assert (rig.row(id).status.word, rig.row(id).attempt) == (status, 1)
        assert rig.loop.paused is None


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


def test_nothing_stays_in_hand_of_runs_that_have_ended(peach: Peach) -> None:
    with opened(peach, slots=4, scheduler="sync") as rig:

        def in_hand() -> Counter[str]:
            """Objects of ours by class, and descriptors here and in the supervisor: megabytes would tell much later."""
            gc.collect()
            found = Counter(kind.__name__ for kind in map(type, gc.get_objects()) if kind.__module__ in ours)
            carrying = list(carriers(rig.executor.token))
            supervisor = {f"/proc/{pid}/fd" for pid in carrying if not waits(pid)}
            return found + Counter({folder: len(os.listdir(folder)) for folder in {"/proc/self/fd", *supervisor}})

        def run(count: int) -> None:
            ids = filed(peach, rig.store, *[workflow(node("a", "Text", ["x"]), node("f", "FailWith", [], "a"))] * count)
            rig.until(lambda: all(rig.row(id).status.ended for id in ids) and not rig.loop.busy)
            # As many descriptors as at rest: a process waits for the next run.
            wait_until(lambda: any(waits(pid) for pid in carriers(rig.executor.token)))

        ours = {name for name in sys.modules if name.startswith("peachctl.")}
        run(2)
        before = in_hand()
        run(4)
        assert not in_hand() - before


def test_a_worker_that_is_killed_while_it_waits_costs_no_node(peach: Peach) -> None:
    with opened(peach) as rig:
        for _ in range(3):
            worker = rig.until(
                lambda: [pid for pid in carriers(rig.executor.token) if waits(pid) and os.getsid(pid) != pid]
            )[0]
            os.kill(worker, signal.SIGKILL)
            [id] = filed(peach, rig.store, workflow(node("a", "Text", ["x"])))
            rig.until(lambda id=id: rig.row(id).status.ended)
            assert rig.row(id).status.word == "success"


def test_a_run_has_the_service_as_it_is_and_not_as_it_was_when_its_process_was_forked(
    peach: Peach, tmp_path: Path
) -> None:
    hub = make_hub(tmp_path / "changing")
    peach.env["PEACHCTL_FOLDERS__HUB"] = str(hub)
    code = hub / "Text" / "v1" / "Text.py"
    with opened(peach) as rig:
        for text in ("one", "another"):  # of another size: within a second Python tells modules by it
            rig.until(lambda: any(waits(pid) for pid in carriers(rig.executor.token)))
            code.write_text(f"def start(c, *_):\n    return [{text!r}]\n")
            [id] = filed(peach, rig.store, workflow(node("a", "Text", ["x"])))
            rig.until(lambda id=id: rig.row(id).status.ended)
            [state] = rig.store.nodes(id)
            assert (state.outputs, state.status.value) == ([text], "success")


def test_an_end_that_cannot_be_written_does_not_hold_up_the_end_of_an_executor(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise UnreachableError("the database is away")

    def full(*_: Any) -> Any:
        raise files.DiskFull("the disk is full")

    monkeypatch.setattr(drain, "_LEAVES", 0.5)
    for what, name, fails in ((sqlite.SqliteStore, "finish", away), (files, "pack", full)):
        with opened(peach, drain=0.0) as rig, monkeypatch.context() as patch:
            patch.setattr(what, name, fails)
            [id] = filed(peach, rig.store, workflow(node("t", "Text", ["y"])))
            rig.until(lambda: rig.loop.paused)
            rig.loop.drain()
            assert rig.loop.busy
            rig.until(lambda: not rig.loop.busy)
            assert rig.row(id).status.word == "processing"


@pytest.mark.parametrize("step", ["prepare_attempt", "pack"])
def test_a_disk_that_is_full_at_a_start_or_an_end_is_said_once_until_there_is_room(
    peach: Peach, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    tries = []

    def full(*_: Any) -> Any:
        tries.append(1)
        raise files.DiskFull("the disk is full")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Backoff, "later", lambda self: setattr(self, "_at", time.monotonic() + 0.2))
    with opened(peach, beat=0.05) as rig, monkeypatch.context() as patch:
        patch.setattr(files, step, full)
        [id] = filed(peach, rig.store, workflow(node("t", "Text", ["y"])))
        rig.until(lambda: len(tries) > 2)
        assert rig.loop.paused == "the disk is full"
        patch.undo()
        rig.until(lambda: rig.row(id).status.ended and rig.loop.paused is None)
    said = [record.message for record in caplog.records]
    assert [line for line in said if line in ("the disk is full", "going on")] == ["the disk is full", "going on"]


def test_the_end_of_an_executor_waits_for_a_database_that_is_away_once(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def away(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise UnreachableError("the database is away")

    with opened(peach, slots=2) as rig, monkeypatch.context() as patch:
        ids = filed(peach, rig.store, SLEEPER, SLEEPER)
        rig.until(lambda: all(rig.runs(id, "s") for id in ids))
        for name in ("renew", "report", "give_back", "finish", "leave"):
            patch.setattr(rig.store, name, away)
        assert not rig.loop.close()
        assert len(tries) == 1
        patch.undo()
        rig.loop.close = lambda: False  # type: ignore[method-assign]


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
        rig.loop.drain()
        rig.loop.step(0.0)
        assert rig.row(id).attempt == 0
        # What it would have to end again takes its time as well.
        assert rig.store.executors() == [] and list(carriers(rig.executor.token)) == []
