"""What the folder bus tells of the queue folder."""

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peachctl.bus.folder import FolderBus, ScriptSeen


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    made = tmp_path / "queue"
    made.mkdir()
    (made / "old.py").write_text("old")
    return made


@pytest.fixture
def bus(queue: Path) -> Iterator[FolderBus]:
    made = FolderBus(None, queue, "host", 1000, sweep=60)
    yield made
    made.close()


def changed(bus: FolderBus, seconds: float = 5) -> list[ScriptSeen]:
    """What changed, as a loop hears of it: woken through the descriptor."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        select.select([bus.fileno()], [], [], 0.2)
        bus.clear()
        found = bus.changed()
        if found:
            return found
    return []


def test_scripts_that_were_there_before_are_listed_but_did_not_change(bus: FolderBus, queue: Path) -> None:
    assert bus.changed() == []
    [seen] = bus.scripts()
    status = (queue / "old.py").stat()
    assert seen == ScriptSeen(queue / "old.py", "old.py", status.st_mtime_ns, status.st_ino)


def test_a_script_that_appears_or_is_saved_again_wakes_and_is_told_once(bus: FolderBus, queue: Path) -> None:
    (queue / "new.py").write_text("1")
    assert [seen.name for seen in changed(bus)] == ["new.py"]
    (queue / "new.py").write_text("2")
    assert [seen.name for seen in changed(bus)] == ["new.py"]
    (queue / ".x").write_text("3")
    (queue / ".x").replace(queue / "new.py")
    assert [seen.name for seen in changed(bus)] == ["new.py"]
    assert changed(bus, 0.3) == []


def test_reading_a_script_or_closing_it_unchanged_is_no_change(bus: FolderBus, queue: Path) -> None:
    (queue / "old.py").read_text()
    (queue / "old.py").open("a").close()
    assert changed(bus, 0.5) == []


def test_the_descriptor_is_quiet_until_something_happens(bus: FolderBus, queue: Path) -> None:
    assert select.select([bus.fileno()], [], [], 0)[0] == []
    (queue / "new.py").write_text("1")
    assert select.select([bus.fileno()], [], [], 5)[0]
    bus.clear()
    assert select.select([bus.fileno()], [], [], 0.2)[0] == []
    bus.clear()


def test_files_that_are_no_scripts_are_never_told(bus: FolderBus, queue: Path) -> None:
    (queue / "services.avro").write_text("{}")
    (queue / ".new.py").write_text("temporary")
    (queue / "dir.py").mkdir()
    (queue / "link.py").symlink_to(queue / "services.avro")
    os.mkfifo(queue / "fifo.py")
    assert changed(bus, 0.4) == []
    assert [seen.name for seen in bus.scripts()] == ["old.py"]


def test_without_events_the_sweep_tells(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peachctl.bus.watch.Watch.names", lambda self: [])
    bus = FolderBus(None, queue, "host", 1000, sweep=0.05)
    with (queue / "new.py").open("w") as writer:
        writer.write("half")
        writer.flush()
        time.sleep(0.1)
        assert bus.changed() == []
        writer.write(" and half")
    time.sleep(0.1)
    assert [seen.name for seen in bus.changed()] == ["new.py"]
    time.sleep(0.1)
    assert bus.changed() == []
    bus.close()


@pytest.mark.fault("D8")
def test_a_queue_folder_that_vanishes_and_comes_back_goes_on(queue: Path) -> None:
    bus = FolderBus(None, queue, "host", 1000, sweep=0.1)
    queue.rename(queue.parent / "away")
    time.sleep(0.2)
    assert bus.changed() == []
    assert bus.scripts() == []
    queue.mkdir()
    (queue / "old.py").write_text("new")
    assert [seen.name for seen in changed(bus)] == ["old.py"]
    bus.close()


def test_a_bus_without_an_inbox_has_no_messages(bus: FolderBus) -> None:
    assert bus.poll(0.01, 10) == []
