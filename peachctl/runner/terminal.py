"""A runner for one debugged run: the script gets this terminal, so that a post-mortem debugger can ask and answer."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peachctl.runner import Ended
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
    """Starts a fresh interpreter in the foreground; its end is seen through a pidfd."""

    def __init__(self) -> None:
        self._run: TerminalRun | None = None
        self._told = False
        self._pid = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self, key: str, job: Job, output: Path) -> TerminalRun:
        output.touch(mode=0o640)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        job = replace(job, report_fd=theirs.fileno())
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "peachctl.runtime", job.script],
                env={**os.environ, "PEACHCTL_JOB": job.to_json()},
                pass_fds=[theirs.fileno()],
            )
        os.dup2(os.pidfd_open(process.pid), self._pid, inheritable=False)
        self._run = TerminalRun(key, process, ours)
        return self._run

    def fileno(self) -> int:
        return self._pid

    def ended(self) -> list[Ended]:
        if self._run is None or self._told or self._run.process.poll() is None:
            return []
        self._told = True
        # A pidfd stays readable for ever; the number is needed until close.
        os.dup2(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), self._pid, inheritable=False)
        return [Ended(self._run.key, self._run.process.returncode, 0, 0)]

    def beat(self) -> None:
        """Nobody ends a run that is being debugged but the person who debugs it."""

    def close(self) -> None:
        if self._run is not None and self._run.process.poll() is None:
            self._run.process.kill()
            self._run.process.wait()
