"""The execute loop in this process, on a real database and with real runs, where a test must reach into its time."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from peachctl import app
from peachctl.config import load
from peachctl.execute import ExecuteLoop
from peachctl.store import Executor, Row, Store
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
