"""The executor's side of a supervisor: orders and beats go to it, ends of runs come back, over one socket.

Messages are datagrams of a SOCK_SEQPACKET pair: JSON, but for the beat, a point and the monotonic time from which it
counts. To the supervisor: `{"start": key, "job": ...}` with the descriptors of the run's reports and of its output,
`{"end": key, "grace": seconds}`, the beat; the end of file says: end all, and yourself. From it: `{"hello": ...,
"namespace": bool}` first, with a pidfd of the namespace's process 1 if there is one; `{"ended": key, "code", "strays",
"memory", "silent": bool}`; `{"silence": seconds}` when it ended runs because no beat had come.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from peachctl import processes
from peachctl.runner import Ended, SupervisorLost
from peachctl.runner.alive import MARKER
from peachctl.runner.strays import end_orphans
from peachctl.runtime.job import Job

logger = logging.getLogger(__name__)

REPORT_SIZE = 64 << 10
_BUFFER = 4 << 20
_EVENTS_AT_ONCE = 500
_BURIAL = 1.0
_CLOSING = 5.0

_supervisors: set[int] = set()
"""Processes of all supervisors that this process has now."""


_SECRET = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "CREDENTIAL", "API_KEY", "APIKEY", "PRIVATE_KEY")
_DROPPED = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID"}
    | {"JOURNAL_STREAM", "MYSQL_PWD", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS"}
)
_KEPT = ("AWS_",)
"""What `from_uri` itself signs in with, in the run: s3fs reads it from the environment."""


def environment(variables: Mapping[str, str], token: str) -> dict[str, str]:
    """What supervisor and runs get of the executor's environment: all that programs of services may need, nothing that
    is the executor's own (`PEACHCTL_*`, systemd's sockets and credentials) or looks like a secret; and the marker."""
    kept = {
        name: value
        for name, value in variables.items()
        if name.startswith(_KEPT)
        or not (
            name.upper().startswith("PEACHCTL_") or name in _DROPPED or any(word in name.upper() for word in _SECRET)
        )
    }
    kept[MARKER] = token
    return kept


def open_runner(
    isolation: Literal["warm", "fresh"], lock_fd: int | None, token: str, orders_after: float
) -> "Supervised":
    """Starts a supervisor; does not wait for it.

    isolation: `warm`, runs are forks of a process that has dask imported; `fresh`, each is a new interpreter.
    lock_fd: what `alive.take` holds, for supervisor and runs to hold too. token: marks all processes.
    orders_after: seconds without a beat after which the supervisor ends all runs by itself. To be called in the
    main thread. Raises OSError where no process can be started.
    """
    return Supervised(isolation, lock_fd, token, orders_after)


class SupervisedRun:
    """A run of a supervisor; see `runner.Run`."""

    def __init__(self, key: str, supervisor: "Supervised", reports: socket.socket, far: socket.socket) -> None:
        self.key = key
        self.over = False
        self._supervisor = supervisor
        self._reports = reports
        # Ours of the run's end stays open: without it the descriptor would be readable for ever from the moment at
        # which the run closes its own, which is long before its last process has ended, or never.
        self._far = far

    def fileno(self) -> int:
        return self._reports.fileno()

    def events(self) -> list[Mapping[str, Any]]:
        events: list[Mapping[str, Any]] = []
        heard = 0
        while self.over or heard < _EVENTS_AT_ONCE:
            heard += 1
            try:
                data, _, flags, _ = self._reports.recvmsg(REPORT_SIZE)
            except (BlockingIOError, ConnectionResetError):
                break
            if flags & socket.MSG_TRUNC:
                continue
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(data)
                if isinstance(event, dict):
                    events.append(event)
        return events

    def end(self, grace: float) -> None:
        if not self.over:
            self._supervisor.order({"end": self.key, "grace": max(0.0, grace)})

    def close(self) -> None:
        self._reports.close()
        self._far.close()


class Supervised:
    """A supervisor and its runs; see `runner.Runner`.

    namespace: whether runs live in a PID namespace of their own, None as long as the supervisor has not said so.
    """

    def __init__(self, isolation: str, lock_fd: int | None, token: str, orders_after: float) -> None:
        self.namespace: bool | None = None
        self._token = token
        self._runs: dict[str, SupervisedRun] = {}
        self._ended: list[Ended] = []
        self._outbox: deque[tuple[bytes, Sequence[int]]] = deque()
        self._init: int | None = None
        self._lost = False
        self._buried = False
        self._closed = False
        # Where there is no namespace, what a killed supervisor leaves behind comes to us, and to nobody else.
        processes.become_subreaper()
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        command = [sys.executable, "-P", "-m", "peachctl.runtime.parent"]
        command += [str(far.fileno()), str(-1 if lock_fd is None else lock_fd), isolation, repr(orders_after)]
        command += [str(os.getpid())]
        # For tests: as on a host that allows no namespace.
        command += ["--no-namespace"] if os.environ.get("PEACHCTL_NO_NAMESPACE") else []
        with far:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=environment(os.environ, token),
                    pass_fds=[far.fileno(), *([] if lock_fd is None else [lock_fd])],
                    start_new_session=True,
                )
            except OSError:
                self._control.close()
                raise
        _supervisors.add(self._process.pid)

    @property
    def pid(self) -> int:
        """The process that was started; where there is a namespace, its process 1 is a child of it."""
        return self._process.pid

    def fileno(self) -> int:
        return self._control.fileno()

    def start(self, key: str, job: Job, output: Path) -> SupervisedRun:
        """See `Runner.start`; raises OSError besides, where `output` can't be opened (or is a link)."""
        self._hear()
        if self._lost and self._bury():
            raise SupervisorLost
        if key in self._runs:
            raise ValueError(f"run {key} is there already")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            near.setblocking(False)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            log = os.open(output, flags, 0o640)
            order = json.dumps({"start": key, "job": asdict(job)}).encode()
            # Copies: the order may have to wait, and what was sent is closed.
            self._post(order, [os.dup(far.fileno()), log])
        except BaseException:
            near.close()
            far.close()
            raise
        run = self._runs[key] = SupervisedRun(key, self, near, far)
        return run

    def ended(self) -> list[Ended]:
        self._flush()
        self._hear()
        ended, self._ended = self._ended, []
        if self._lost and not ended and self._bury():
            raise SupervisorLost
        return ended

    def beat(self, at: float | None = None) -> None:
        self._flush()
        if not self._outbox and not self._lost:
            # A beat that finds no room is not kept: late, it would be a lie.
            with contextlib.suppress(OSError):
                self._control.send(b".%r" % (time.monotonic() if at is None else at))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._lost:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            self._hear()
        # One that is still about to start, without a run, hears nothing for as long as its imports take.
        begun = self.namespace is not None or self._runs
        polite = time.monotonic() + (_CLOSING if begun else 0.0)
        while time.monotonic() < polite + _CLOSING and not self._bury(force=time.monotonic() >= polite):
            self._hear()
        if not self._buried:
            logger.error("process %d, which runs workflows, cannot be ended", self._process.pid)
        for _, descriptors in self._outbox:
            _close_all(descriptors)
        self._outbox.clear()
        for run in self._runs.values():
            run.over = True
        self._runs.clear()
        self._control.close()
        if self._init is not None:
            os.close(self._init)
            self._init = None

    def order(self, order: Mapping[str, Any]) -> None:
        """Sends an order to the supervisor, now or when there is room."""
        self._post(json.dumps(order).encode(), [])

    def _post(self, data: bytes, descriptors: Sequence[int]) -> None:
        self._outbox.append((data, descriptors))
        self._flush()

    def _flush(self) -> None:
        while self._outbox and not self._lost:
            data, descriptors = self._outbox[0]
            try:
                socket.send_fds(self._control, [data], list(descriptors))
            except BlockingIOError:
                return
            except OSError:
                # It is gone; what it has said before is still to be read.
                return
            self._outbox.popleft()
            _close_all(descriptors)

    def _hear(self) -> None:
        while not self._lost:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, REPORT_SIZE, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._lost = True
                return
            self._understand(json.loads(data), descriptors)

    def _understand(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        if "hello" in message:
            self.namespace = bool(message["namespace"])
            self._init = descriptors.pop() if descriptors else None
        elif "ended" in message:
            key = str(message["ended"])
            run = self._runs.pop(key, None)
            if run is not None:
                run.over = True
            code, strays, memory = (int(message[name]) for name in ("code", "strays", "memory"))
            self._ended.append(Ended(key, code, strays, memory, silent=bool(message["silent"])))
        elif "silence" in message:
            logger.warning("no beat for %.1f s: all runs were ended", message["silence"])
        _close_all(descriptors)

    def _bury(self, *, force: bool = False) -> bool:
        """Ends what is left of a supervisor that is gone or was told to go, and says whether nothing is; waits a
        second or two at most. force: do not wait for it to end its runs by itself."""
        if self._buried:
            return True
        if self._init is not None:
            # Process 1 of the namespace is not gone before all that was in it is gone.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
            if not select.select([self._init], [], [], _BURIAL)[0]:
                return False
        elif not self._lost and not force:
            select.select([self._control], [], [], _BURIAL)
            return False
        self._process.kill()
        try:
            self._process.wait(_BURIAL)
        except subprocess.TimeoutExpired:
            return False
        _supervisors.discard(self._process.pid)
        if self._init is not None:
            # Its parent may have died without having reaped it: it is ours then.
            with contextlib.suppress(OSError):
                os.waitid(os.P_PIDFD, self._init, os.WEXITED | os.WNOHANG)
        if self._init is None and not end_orphans(self._token, _supervisors, _BURIAL):
            return False
        self._buried = True
        return True


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
