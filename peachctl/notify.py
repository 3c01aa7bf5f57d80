"""What systemd is told of a long-lived command (sd_notify): that it is up, that its loop lives, what it is doing.

Only the loop itself reports, after a step that returned: a loop that hangs falls silent, and systemd (`WatchdogSec=`)
starts it anew. Without `NOTIFY_SOCKET` nothing is sent. The supervisor of runs and the runs do not get the variable.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

from peachctl.names import printable

_STATUS_EVERY = 5.0


class Notifier:
    """One process's line to systemd. variables: `NOTIFY_SOCKET` (a path, or `@` and an abstract name),
    `WATCHDOG_USEC` and `WATCHDOG_PID` as systemd sets them."""

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        name = variables.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name if name.startswith("/") else None
        self._every: float | None = None
        usec = variables.get("WATCHDOG_USEC", "")
        if usec.isascii() and usec.isdigit() and variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._every = int(usec) / 2_000_000 or None
        self._next_beat = 0.0
        self._next_status = 0.0
        self._status = ""
        self._ready = False
        self._stopping = False

    @property
    def patience(self) -> float:
        """Seconds within which every loop of this process must have made a step (infinite without a watchdog)."""
        return float("inf") if self._every is None or self._address is None else self._every

    def step(self, *, well: bool, alive: bool = True, status: Callable[[], str] = str) -> None:
        """After a step of the loop. well: whether what it depends on has answered; the first time means READY.
        alive: False where another loop of this process made no step for longer than `patience`. status: says in a few
        words what is being done; asked every few seconds, where anybody listens."""
        if self._address is None:
            return
        now = time.monotonic()
        if well and not self._ready and not self._stopping:
            self._ready = True
            self._send("READY=1")
        if alive and self._every is not None and now >= self._next_beat:
            self._next_beat = now + self._every
            self._send("WATCHDOG=1")
        if now >= self._next_status:
            self._next_status = now + _STATUS_EVERY
            text = printable(status(), 500)
            if text and text != self._status:
                self._status = text
                self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The end was asked for; what follows may take its time. Said once."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")

    def _send(self, line: str) -> None:
        if self._address is None:
            return
        # A full or vanished socket is systemd's trouble: the loop must not wait for it, nor end because of it.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.setblocking(False)
            out.sendto(line.encode(), self._address)
