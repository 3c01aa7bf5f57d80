"""A runner, scripts for it, and a look at what is alive; without pytest, for the process that plays the executor."""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peachctl.runner import Ended, SupervisorLost, alive
from peachctl.runner.supervised import Supervised, SupervisedRun, open_runner
from peachctl.runtime.job import Job

PRELUDE = """
import json, os, signal, socket, subprocess, sys, time
channel = socket.socket(fileno=json.loads(os.environ["PEACHCTL_JOB"])["report_fd"])
def report(**event): channel.send(json.dumps(event).encode())
def stray(seconds):
    '''A process that has done all that a daemon does: double fork, session, no descriptor, no environment.'''
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid() if os.getpgrp() == os.getpid() else None
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.closerange(0, 64)
            text = f"sleep {seconds} & sleep {seconds} & wait"
            os.execve("/bin/sh", ["sh", "-c", text], {"PATH": os.environ["PATH"]})
        os._exit(0)
    os.waitpid(child, 0)
"""


def make_job(script: Path) -> Job:
    return Job(
        queue_id=1,
        attempt=1,
        script=str(script),
        hub="",
        scheduler="sync",
        workers=1,
        folder=str(script.parent),
        download_workflows="",
        download_files="",
    )


def living(marker: str) -> list[str]:
    """Command lines of processes that carry the marker among their arguments (zombies have none)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if marker in line:
                    found.append(f"{entry.name}: {line}")
    return found


def waits(pid: int) -> bool:
    """Whether a process was forked ahead, for a run that is not known yet."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "peach:waiting\n"
    except OSError:
        return False


def carriers(token: str) -> Iterator[int]:
    """Processes that were started with the marker of that executor (in our numbers)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{alive.MARKER}={token}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def outer(pid: int, token: str) -> int:
    """Our number of a process of that executor, which calls itself `pid`."""
    (found,) = (
        number
        for number in carriers(token)
        if f"NSpid:\t{number}" in (text := Path(f"/proc/{number}/status").read_text())
        and int(text.split("NSpid:")[1].split("\n")[0].split()[-1]) == pid
    )
    return found


def wait_until(truth: Callable[[], Any], seconds: float = 10.0) -> Any:
    until = time.monotonic() + seconds
    while not (value := truth()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
    return value


@dataclass
class Rig:
    """A runner, and what a test does with it."""

    runner: Supervised
    folder: Path
    held: alive.Held
    ends: dict[str, Ended] = field(default_factory=dict)
    count: int = 0

    def start(self, text: str) -> SupervisedRun:
        key = f"{os.getpid() % 10000}.{self.count + 1}"
        return self.start_as(key, text, self.output(key))

    def start_as(self, key: str, text: str, output: Path) -> SupervisedRun:
        self.count += 1
        script = self.folder / f"{self.count}.py"
        script.write_text(PRELUDE + text)
        return self.runner.start(key, make_job(script), output)

    def output(self, key: str) -> Path:
        return self.folder / f"{key}.log"

    def event(self, run: SupervisedRun, seconds: float = 20.0) -> Any:
        """The next thing that the run reports."""
        assert select.select([run], [], [], seconds)[0], "no event came"
        return run.events()[0]

    def end(self, run: SupervisedRun, seconds: float = 20.0) -> Ended:
        """How the run ended; beats meanwhile."""
        until = time.monotonic() + seconds
        while run.key not in self.ends:
            assert time.monotonic() < until, "the run did not end"
            self.runner.beat()
            select.select([self.runner], [], [], 0.2)
            self.ends.update({ended.key: ended for ended in self.runner.ended()})
        return self.ends.pop(run.key)

    def whole(self, text: str) -> tuple[Ended, list[Any]]:
        """Runs a script from start to end."""
        run = self.start(text)
        ended = self.end(run)
        events = run.events()
        run.close()
        return ended, events

    def lose(self) -> None:
        """Waits until the runner says that its supervisor is lost."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            select.select([self.runner], [], [], 0.2)
            try:
                self.runner.ended()
            except SupervisorLost:
                return
        raise AssertionError("nothing was said of the supervisor's loss")


@contextlib.contextmanager
def opened(way: str, folder: Path, orders_after: float = 30.0) -> Iterator[Rig]:
    isolation, _, kind = way.partition("-")
    held = alive.take(folder / "locks")
    before = os.environ.pop("PEACHCTL_NO_NAMESPACE", None)
    if kind == "fallback":
        os.environ["PEACHCTL_NO_NAMESPACE"] = "1"
    try:
        runner = open_runner(isolation, held.fd, held.token, orders_after)  # type: ignore[arg-type]
    finally:
        os.environ.pop("PEACHCTL_NO_NAMESPACE", None)
        if before is not None:
            os.environ["PEACHCTL_NO_NAMESPACE"] = before
    rig = Rig(runner, folder, held)
    try:
        yield rig
    finally:
        runner.close()
        held.release()
