"""A runner for one debugged run: the script gets this terminal, so that a post-mortem debugger can ask and answer."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peachctl.runner import Ended
from peachctl.runner.supervised import environment
from peachctl.runtime.job import Job


class TerminalRun:
    """The run of a TerminalRunner."""

    def __init__(self, key: str, process: "subprocess.Popen[bytes]", reports: socket.socket) -> None:
        self.key = key
        self.process = process
        self._reports = reports

    def fileno(self) -> int:
        return self._reports.fileno()

    def events(self) -> list[Mapping[str, Any]]:
        heard: list[Mapping[str, Any]] = []
        while True:
            try:
                data = self._reports.recv(1 << 17)
            except BlockingIOError:
                return heard
            except ConnectionResetError:
                return heard
            if not data:
                return heard
            heard.append(json.loads(data))

    def end(self, grace: float) -> None:
        self.process.send_signal(signal.SIGTERM if grace else signal.SIGKILL)

    def close(self) -> None:
        self._reports.close()


class TerminalRunner:
    """Starts a fresh interpreter in the foreground; its end is seen through a pidfd.

    There is no supervisor: the kernel ends the run with the process (its main thread) that started it. lock_fd, token:
    as in `supervised.open_runner`.
    """

    def __init__(self, lock_fd: int, token: str) -> None:
        self._lock_fd = lock_fd
        self._token = token
        self._run: TerminalRun | None = None
        self._told = False
        # Registered with a selector before there is a process: pidfds come and go inside.
        self._ends = select.epoll()
        self._pidfd = -1

    def start(self, key: str, job: Job, output: Path) -> TerminalRun:
        output.touch(mode=0o640)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        job = replace(job, report_fd=theirs.fileno(), parent=os.getpid())
        variables = {**environment(os.environ, self._token), "PEACHCTL_JOB": job.to_json()}
        if "PEACHCTL_TTY" in os.environ:
            variables["PEACHCTL_TTY"] = os.environ["PEACHCTL_TTY"]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "peachctl.runtime", job.script],
                env=variables,
                pass_fds=[theirs.fileno(), self._lock_fd],
            )
        self._pidfd = os.pidfd_open(process.pid)
        self._ends.register(self._pidfd, select.EPOLLIN)
        self._run = TerminalRun(key, process, ours)
        return self._run

    def fileno(self) -> int:
        return self._ends.fileno()

    def ended(self) -> list[Ended]:
        if self._run is None or self._told or self._run.process.poll() is None:
            return []
        self._told = True
        self._ends.unregister(self._pidfd)  # it stays readable for ever
        os.close(self._pidfd)
        return [Ended(self._run.key, self._run.process.returncode, 0, 0)]

    def beat(self, at: float | None = None) -> None:
        """Nobody ends a run that is being debugged but the person who debugs it."""

    def close(self) -> None:
        if self._run is not None and self._run.process.poll() is None:
            self._run.process.kill()
            self._run.process.wait()
        self._ends.close()
