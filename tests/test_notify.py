"""What systemd hears (sd_notify), over a real datagram socket."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peachctl.notify import Notifier
from tests.conftest import Peach


class Ear:
    """systemd's end: a datagram socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def listen(self) -> list[str]:
        """All that was heard so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.append(self._socket.recv(4096).decode())
        return self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    made = Ear(str(tmp_path / "notify") if request.param == "path" else f"@peach-{os.getpid()}-{time.time_ns()}")
    yield made
    made.close()


def test_ready_is_said_once_and_only_when_all_is_well(ear: Ear) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": ear.address})
    notifier.step(well=False)
    assert ear.listen() == []
    notifier.step(well=True)
    notifier.step(well=False)
    notifier.step(well=True)
    assert ear.listen() == ["READY=1"]


@pytest.mark.fault("B10")
def test_the_watchdog_hears_a_beat_each_half_of_its_time_and_none_while_another_loop_hangs(ear: Ear) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.patience == pytest.approx(0.1)
    notifier.step(well=False, alive=False)
    assert ear.listen() == []
    until = time.monotonic() + 0.35
    while time.monotonic() < until:
        notifier.step(well=False)
        time.sleep(0.01)
    assert set(ear.listen()) == {"WATCHDOG=1"}
    assert 3 <= len(ear.heard) <= 4


def test_a_watchdog_for_another_process_is_none_of_ours(ear: Ear) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
    notifier.step(well=False)
    assert ear.listen() == []
    assert notifier.patience == float("inf")


def test_a_status_is_one_line_and_said_when_it_changes(ear: Ear) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": ear.address})
    notifier.step(well=False, status=lambda: "two\nREADY=1")
    assert ear.listen() == ["STATUS=two\\nREADY=1"]
    asked: list[str] = []
    notifier.step(well=False, status=lambda: asked.append("again") or "")
    assert asked == []
    notifier.stopping()
    assert ear.listen()[1:] == ["STOPPING=1"]


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "/nowhere/at/all"])
def test_where_nobody_listens_nothing_happens(name: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "x"})
    notifier.step(well=True, status=lambda: "fine")
    notifier.stopping()


@pytest.mark.parametrize("command", [("consume", "ingest"), ("consume", "execute"), ("watch",)])
def test_a_loop_is_ready_beats_says_what_it_does_and_that_it_stops(command: tuple[str, ...], peach: Peach) -> None:
    ear = Ear(str(peach.home / "notify"))
    process = peach.start(*command, NOTIFY_SOCKET=ear.address, WATCHDOG_USEC="400000")
    peach.until(lambda: ear.listen().count("WATCHDOG=1") > 2)
    assert ear.heard.count("READY=1") == 1
    [status] = [line for line in ear.heard if line.startswith("STATUS=")]
    assert status == ("STATUS=0 queued" if command[-1] == "ingest" else "STATUS=0 running, 0 queued")
    process.terminate()
    assert process.wait(20) == 0
    assert ear.listen()[-1] == "STOPPING=1"
    ear.close()
