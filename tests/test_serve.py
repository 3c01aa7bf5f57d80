"""What long-lived commands do while a server is away."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from peachctl import app, serve
from peachctl.config import load
from peachctl.errors import RefusedError, UnreachableError
from peachctl.notify import Notifier
from peachctl.serve import IngestThread, Scripts, waited_for
from peachctl.stop import Stop, Stopped
from tests.conftest import Peach, node, workflow
from tests.test_execute import filed, opened
from tests.test_notify import Ear


def test_a_server_that_is_away_is_waited_for_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([UnreachableError("away"), UnreachableError("away"), "here"])

    def make() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert waited_for(make, Stop(), once=False) == "here"
    assert [record.message for record in caplog.records] == ["away; it is waited for"]


@pytest.mark.parametrize("error", [UnreachableError("away"), RefusedError("no")])
def test_once_gives_up_after_a_while_and_a_refusal_is_never_waited_for(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "ONCE_PATIENCE", 0.6)

    def make() -> None:
        raise error

    with pytest.raises(type(error)):
        waited_for(make, Stop(), once=not isinstance(error, RefusedError))


def test_an_end_may_be_asked_for_while_a_server_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    stop = Stop()

    def make() -> None:
        raise UnreachableError("away")

    threading.Timer(0.1, lambda: setattr(stop, "asked", 1)).start()
    with pytest.raises(Stopped):
        waited_for(make, stop, once=False)


@pytest.mark.parametrize("existing", [False, True])
def test_a_script_whose_row_was_deleted_is_left_alone_by_the_next_watch_until_it_is_saved(
    peach: Peach, existing: bool
) -> None:
    config = load(environ=peach.environment())
    value = workflow(node("a", "Text", ["x"]))
    with contextlib.ExitStack() as stack:
        rig = stack.enter_context(opened(peach))
        filed(peach, rig.store, value)
        [placed] = config.folders.queue.glob("*.py")
        (config.folders.queue / "mine.py").write_text(placed.read_text())
        bus = stack.enter_context(contextlib.closing(app.open_folder_bus(config)))
        for _ in range(2):
            Scripts(rig.store, bus, config.folders.queue, "me").look_around()
        assert sorted(row.execution_file for row in rig.store.rows()) == sorted([placed.name, "mine.py"])
        if existing:
            placed.unlink()
        for row in rig.store.rows():
            rig.store.delete(row.id)
        scripts = Scripts(rig.store, bus, config.folders.queue, "me", existing=existing)
        scripts.look_around()
        assert rig.store.rows() == []
        (config.folders.queue / "mine.py").write_text(placed.read_text() if not existing else "run(graph)\n")
        rig.until(lambda: (scripts.step(), rig.store.rows())[1])
        assert [row.execution_file for row in rig.store.rows()] == ["mine.py"]
        for row in rig.store.rows():
            rig.store.delete(row.id)
        Scripts(rig.store, bus, config.folders.queue, "me", existing=existing).look_around()
        assert rig.store.rows() == []


def test_the_watchdog_hears_nothing_while_ingest_hangs_beside_an_executor(
    peach: Peach, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(environ=peach.environment())
    ear = Ear(str(peach.home / "notify"))
    monkeypatch.setattr(serve, "Notifier", lambda: Notifier({"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "400000"}))
    hangs, goes_on = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def open_ingest(_: Stop) -> Iterator[tuple[Any, Any]]:
        with (
            contextlib.closing(app.open_store(config)) as store,
            contextlib.closing(app.open_folder_bus(config)) as bus,
        ):
            poll = bus.poll

            def hanging(timeout: float, most: int) -> Any:
                assert not hangs.is_set() or goes_on.wait(20)
                return poll(timeout, most)

            monkeypatch.setattr(bus, "poll", hanging)
            yield app.open_ingest(config, store, bus), store

    with opened(peach) as rig:
        stop = Stop()
        ingest = IngestThread(open_ingest, rig.loop.poke)

        def beats(count: int) -> None:
            before = ear.listen().count("WATCHDOG=1")
            end = time.monotonic() + 15
            while ear.listen().count("WATCHDOG=1") < before + count:
                assert time.monotonic() < end
                time.sleep(0.05)

        def person() -> None:
            try:
                beats(3)
                hangs.set()
                time.sleep(1.0)  # until it is noticed
                heard = len(ear.listen())
                time.sleep(1.0)
                said.append([line for line in ear.listen()[heard:] if line == "WATCHDOG=1"])
                goes_on.set()
                beats(2)
                said.append(["again"])
            finally:
                goes_on.set()
                stop.asked = 1
                rig.loop.drain()

        said: list[list[str]] = []
        thread = threading.Thread(target=person)
        thread.start()
        serve.serve_events(rig.loop, rig.store, stop, None, ingest, once=False)
        thread.join()
    assert said == [[], ["again"]]
    ear.close()
