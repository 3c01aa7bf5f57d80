"""What holds for the inbox folder: which files are taken, when, and what no file name can do."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peachctl.bus import folder
from peachctl.bus.folder import FolderBus
from tests.bus.conftest import take

SLOW_SWEEP = 60.0


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


@pytest.fixture
def bus(inbox: Path) -> Iterator[FolderBus]:
    """One whose sweeps (but for the first) come too late for these tests: it lives by events."""
    made = FolderBus(inbox, None, "host", 1000, sweep=SLOW_SWEEP, settle=0.2)
    assert made.poll(0, 10) == []
    yield made
    made.close()


@pytest.fixture
def sweeping(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FolderBus]:
    """One that hears of no event."""
    monkeypatch.setattr("peachctl.bus.watch.Watch.names", lambda self: [])
    made = FolderBus(inbox, None, "host", 1000, sweep=0.05, settle=0.2)
    yield made
    made.close()


def taken(inbox: Path) -> list[str]:
    return [path.name for path in (inbox / ".taken").iterdir()]


def test_a_file_is_taken_when_it_is_closed_or_moved_in_long_before_the_next_sweep(bus: FolderBus, inbox: Path) -> None:
    start = time.monotonic()
    for number in range(10):
        (inbox / f"closed{number}.bin").write_bytes(b"closed")
        assert take(bus, 1)[0].body == b"closed"
        (inbox.parent / "x").write_bytes(b"moved")
        (inbox.parent / "x").rename(inbox / f"moved{number}.wf")
        assert take(bus, 1)[0].body == b"moved"
    # Half a second each, if taking them were watched as well.
    assert time.monotonic() - start < 3


def test_a_file_renamed_inside_the_inbox_is_taken(bus: FolderBus, inbox: Path) -> None:
    (inbox / "x.part").write_bytes(b"whole")
    (inbox / "x.part").rename(inbox / "x.json")
    [message] = take(bus, 1)
    assert (message.body, message.file) == (b"whole", "x.json")


def test_a_file_in_place_at_the_start_is_taken_at_once(inbox: Path) -> None:
    (inbox / "one.bin").write_bytes(b"one")
    bus = FolderBus(inbox, None, "host", 1000, sweep=SLOW_SWEEP, settle=SLOW_SWEEP)
    assert [message.body for message in bus.poll(0, 10)] == [b"one"]
    bus.close()


@pytest.mark.parametrize("which", ["bus", "sweeping"])
def test_a_file_that_is_being_written_is_not_taken(which: str, inbox: Path, request: pytest.FixtureRequest) -> None:
    bus: FolderBus = request.getfixturevalue(which)
    with (inbox / "slow.bin").open("wb") as writer:
        writer.write(b"half")
        writer.flush()
        assert bus.poll(0.6, 10) == []
        writer.write(b" and half")
    assert [message.body for message in take(bus, 1)] == [b"half and half"]


def test_one_of_two_writers_closing_is_not_enough(bus: FolderBus, inbox: Path) -> None:
    with (inbox / "two.bin").open("wb") as slow:
        (inbox / "two.bin").write_bytes(b"1234")
        assert bus.poll(0.4, 10) == []
        slow.write(b"done")
    assert [message.body for message in take(bus, 1)] == [b"done"]


def test_where_the_kernel_does_not_tell_two_equal_looks_are_needed(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, sweeping: FolderBus
) -> None:
    monkeypatch.setattr(folder, "writer", lambda fd: None)
    with (inbox / "slow.bin").open("wb") as writer:
        for _ in range(8):
            writer.write(b"more ")
            writer.flush()
            assert sweeping.poll(0.05, 10) == []
    assert [message.body for message in take(sweeping, 1)] == [b"more " * 8]


def test_where_the_kernel_does_not_tell_a_close_is_believed(
    bus: FolderBus, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "writer", lambda fd: None)
    (inbox / "one.bin").write_bytes(b"one")
    assert [message.body for message in take(bus, 1, seconds=2)] == [b"one"]


def test_an_empty_file_gets_time_to_be_filled(bus: FolderBus, inbox: Path) -> None:
    (inbox / "filled.bin").touch()
    assert bus.poll(0.1, 10) == []
    (inbox / "filled.bin").write_bytes(b"now")
    assert [message.body for message in take(bus, 1)] == [b"now"]
    (inbox / "empty.bin").touch()
    assert [message.body for message in take(bus, 1, seconds=3)] == [b""]


def test_a_file_that_its_writer_has_locked_waits(sweeping: FolderBus, inbox: Path) -> None:
    import fcntl

    (inbox / "locked.bin").write_bytes(b"locked")
    with (inbox / "locked.bin").open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert sweeping.poll(0.3, 10) == []
    assert len(take(sweeping, 1)) == 1


def test_somebody_who_opens_a_file_while_it_is_looked_at_does_no_harm(sweeping: FolderBus, inbox: Path) -> None:
    """Breaking the read lease sends a signal; were it the default one, this process would end here."""
    path = inbox / "one.bin"
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with path.open("ab") as writer:
                writer.write(b"x")

    thread = threading.Thread(target=write)
    thread.start()
    got = [message for _ in range(30) for message in sweeping.poll(0.02, 10)]
    stop.set()
    thread.join()
    got += sweeping.poll(0.2, 10)
    assert got
    assert all(set(message.body) <= {ord("x")} for message in got)


def test_200_files_at_once_come_once_each(bus: FolderBus, inbox: Path) -> None:
    for number in range(200):
        (inbox / f"{number}.bin").write_bytes(b"%d" % number)
    got: list[int] = []
    while len(got) < 200:
        batch = bus.poll(5, 64)
        assert 0 < len(batch) <= 64
        got += [int(message.body) for message in batch]
        bus.ack(batch)
    assert sorted(got) == list(range(200))
    assert taken(inbox) == []


def test_the_same_name_dropped_twice_is_two_messages(bus: FolderBus, inbox: Path) -> None:
    (inbox / "same.bin").write_bytes(b"1")
    [first] = take(bus, 1)
    (inbox / "same.bin").write_bytes(b"2")
    [second] = take(bus, 1)
    assert (first.body, second.body) == (b"1", b"2")
    assert first.origin != second.origin


def test_what_is_no_workflow_file_stays_where_it_is(sweeping: FolderBus, inbox: Path) -> None:
    for name in ("notes.txt", ".hidden.bin", "noend", "x.bin.part", "x.py"):
        (inbox / name).write_bytes(b"not yours")
    (inbox / "folder.bin").mkdir()
    (inbox.parent / "secret").write_bytes(b"secret")
    (inbox / "link.bin").symlink_to(inbox.parent / "secret")
    (inbox / "dangling.json").symlink_to("nowhere")
    os.mkfifo(inbox / "fifo.bin")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(inbox / "s.bin"))
    before = sorted(path.name for path in inbox.iterdir())
    assert sweeping.poll(0.5, 10) == []
    assert sorted(path.name for path in inbox.iterdir()) == before
    assert (inbox.parent / "secret").read_bytes() == b"secret"


def test_what_is_no_regular_file_is_not_taken_and_said_once(
    sweeping: FolderBus, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (inbox / "link.bin").symlink_to("/etc/passwd")
    (inbox / "loop.wf").symlink_to("loop.wf")
    (inbox / "folder\n.json").mkdir()
    os.mkfifo(inbox / "pipe.bin")
    sweeping.poll(0.5, 10)
    (inbox / "good.bin").write_bytes(b"good")
    assert [message.body for message in sweeping.poll(5, 10)] == [b"good"]
    said = sorted(record.message.split(":")[0] for record in caplog.records)
    assert said == [
        r"folder\n.json in the inbox is a folder",
        "link.bin in the inbox is a link",
        "loop.wf in the inbox is a link",
        "pipe.bin in the inbox is no regular file",
    ]
    assert len(list(inbox.glob("[!.]*"))) == 4


@pytest.mark.fault("D3")
def test_offsets_grow_even_when_the_clock_is_set_back(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = []
    for clock in (5_000, 4_000, 4_000, 9_000, 1):
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        (inbox / "one.bin").write_bytes(b"one")
        bus = FolderBus(inbox, None, "host", 1000)
        [message] = take(bus, 1)
        bus.ack([message])
        bus.close()
        offsets.append(message.origin.offset)
    assert offsets == [5_000, 5_001, 5_002, 9_000, 9_001]


def test_the_topic_stays_when_the_host_gets_a_new_name(inbox: Path) -> None:
    (inbox / "one.bin").write_bytes(b"one")
    before = FolderBus(inbox, None, "container-1", 1000)
    [message] = take(before, 1)
    before.close()
    after = FolderBus(inbox, None, "container-2", 1000)
    assert take(after, 1)[0].origin == message.origin
    after.close()
    assert message.origin.topic == "inbox@container-1"


@pytest.mark.parametrize("done", ["ack", "reject"])
def test_a_file_that_is_written_on_after_it_was_taken_comes_again(done: str, sweeping: FolderBus, inbox: Path) -> None:
    (inbox / "a.json").write_bytes(b"{")
    [message] = take(sweeping, 1)
    [taken] = (inbox / ".taken").iterdir()
    taken.write_bytes(b"{}")
    sweeping.ack([message]) if done == "ack" else sweeping.reject(message, "cut off")
    [again] = take(sweeping, 1)
    assert (again.body, again.origin) == (b"{}", message.origin)
    sweeping.ack([again])
    assert not taken.exists()


@pytest.mark.fault("D8")
def test_an_inbox_that_vanishes_and_comes_back_goes_on(inbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus = FolderBus(inbox, None, "host", 1000, sweep=0.1, settle=0.1)
    assert bus.poll(0.1, 10) == []
    inbox.rename(inbox.parent / "away")
    assert bus.poll(0.5, 10) == []
    assert [record.message for record in caplog.records if "cannot be read" in record.message] == [
        f"the inbox {inbox} cannot be read: No such file or directory; it is looked at again"
    ]
    inbox.mkdir()
    (inbox / "one.bin").write_bytes(b"one")
    bus.ack(take(bus, 1))
    time.sleep(0.3)
    bus.poll(0, 10)
    bus._sweep = bus._next_sweep = time.monotonic() + SLOW_SWEEP  # from here on only events
    (inbox / "two.bin").write_bytes(b"two")
    assert [message.body for message in take(bus, 1)] == [b"two"]
    bus.close()


@pytest.mark.fault("D8")
def test_without_inotify_it_is_swept(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_more(folder: str, hear: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("peachctl.bus.watch._start", no_more)
    bus = FolderBus(inbox, None, "host", 1000, sweep=0.1)
    assert bus.poll(0.3, 10) == []
    (inbox / "one.bin").write_bytes(b"one")
    assert len(take(bus, 1)) == 1
    bus.close()
    assert sum("cannot be watched" in record.message for record in caplog.records) == 1


def test_a_file_that_cannot_be_set_aside_is_still_done_with(bus: FolderBus, inbox: Path) -> None:
    (inbox / ".refused").write_bytes(b"a file in the way")
    (inbox / "bad.bin").write_bytes(b"bad")
    [message] = take(bus, 1)
    bus.reject(message, "malformed")
    bus.ack([message])
    assert taken(inbox) == []


def test_large_files_make_small_batches(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_BATCH_BYTES", 1000)
    for number in range(5):
        (inbox / f"{number}.bin").write_bytes(bytes(600))
    bus = FolderBus(inbox, None, "host", 1000)
    assert [len(bus.poll(1, 10)) for _ in range(3)] == [2, 2, 1]
    bus.close()


HOSTILE = [
    b"new\nline.bin",
    b"\x1b[31mred.bin",
    b"-rf.bin",
    b"~.bin",
    b"\xff\xfe.bin",
    b"$(touch pwned).bin",
    b"' or 1=1; --.json",
    "\u202enib.exe.bin".encode(),
    "💥".encode() * 62 + b".bin",
    b"x" * 251 + b".bin",
    b"a" * 250 + b".json",
    b"%s%n.wf",
    b"con.bin",
    b" .bin",
]

DRIVER = """
import os, sys
from pathlib import Path
from watchdog.observers import inotify
from peachctl.bus.folder import FolderBus
home = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
bus = FolderBus(home / "inbox", None, "host", 1000, sweep=0.1)
messages = []
while len(messages) < int(sys.argv[2]):
    messages += bus.poll(1, 100)
assert len({one.origin for one in messages}) == len(messages)
for message in messages:
    message.file.encode()
    assert message.body == b"hostile"
    print(ascii(message.file))
for message in messages[::2]:
    bus.reject(message, "refused")
bus.ack(messages)
bus.close()
"""


def test_no_file_name_leads_out_of_the_inbox() -> None:
    """In a process without privileges, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        inbox = os.path.join(os.fsencode(home), b"inbox")
        os.mkdir(inbox)
        for one in HOSTILE:
            with open(os.path.join(inbox, one), "wb") as file:
                file.write(b"hostile")
        (home / "driver.py").write_text(DRIVER)
        if os.geteuid() == 0:
            for top, _, inside in os.walk(os.fsencode(home)):
                for path in [top, *(os.path.join(top, one) for one in inside)]:
                    os.chown(path, 65534, 65534)
        root = str(Path(folder.__file__).parents[2])
        done = subprocess.run(
            [sys.executable, home / "driver.py", home, str(len(HOSTILE))],
            env={**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == len(HOSTILE)
        assert sorted(path.name for path in home.iterdir()) == ["driver.py", "inbox"]
        assert sorted(os.listdir(inbox)) == [b".origin", b".refused", b".taken"]
        assert list((home / "inbox" / ".taken").iterdir()) == []
        aside = [path.name for path in (home / "inbox" / ".refused").iterdir()]
        assert len(aside) == 2 * len(HOSTILE[::2])
        assert all(one.isprintable() and one[0].isdigit() for one in aside)
