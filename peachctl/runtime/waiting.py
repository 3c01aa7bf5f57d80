"""The main process of a run, forked before the run is known: it waits for its order, and becomes the run.

What a fork costs is paid while nobody waits for it. The order is one message over a SOCK_SEQPACKET pair,
`{"key", "job"}` with the descriptors of the run's reports and of its output; the end of file says that none will come.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from peachctl import processes
from peachctl.runtime.job import Job
from peachctl.runtime.worker import begin_output

MESSAGE_SIZE = 256 << 10
QUIET = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that the supervisor has blocked."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A process that waits for its order."""

    pid: int
    socket: socket.socket

    def order(self, key: str, job: dict[str, Any], reports: int, output: int) -> None:
        """Makes it that run, once. Raises OSError where it is dead."""
        with self.socket:
            socket.send_fds(self.socket, [json.dumps({"key": key, "job": job}).encode()], [reports, output])


def fork(control: socket.socket, lock: int, *, warm: bool, worker: bool) -> Waiting:
    """Forks one. control: is the supervisor's alone. lock: a descriptor that it keeps (-1: none). warm: whether it runs
    the script itself or starts a new interpreter. worker: whether it forks a worker for nodes ahead. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        parent, pid = os.getpid(), os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        control.detach()
        ours.detach()
        _live(theirs, parent, lock, warm=warm, worker=worker)
    theirs.close()
    return Waiting(pid, ours)


def _live(orders: socket.socket, parent: int, lock: int, *, warm: bool, worker: bool) -> NoReturn:
    status = 1
    try:
        os.setsid()
        processes.become_subreaper()
        processes.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _detach(orders.fileno(), lock)
        _restore_signals()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        processes.set_name("peach:waiting")
        if warm:
            _warm_up(orders, worker=worker)
        raw, descriptors, _, _ = socket.recv_fds(orders, MESSAGE_SIZE, 2)
        orders.close()
        if not raw:
            os._exit(0)
        status = _run(json.loads(raw), descriptors[0], descriptors[1], lock, warm=warm)
    except BaseException:  # noqa: BLE001 - this process must not come back as a second supervisor
        traceback.print_exc()
    finally:
        _leave(status)


def _warm_up(orders: socket.socket, *, worker: bool) -> None:
    import faulthandler

    # New ones: the executor's may have been closed, and nobody else's encoding or buffering counts here.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - open as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable()
    if worker:
        from peachctl.runtime.graph import work_ahead
        from peachctl.runtime.worker import fork_ahead

        fork_ahead(work_ahead, orders)


def _run(order: dict[str, Any], reports: int, output: int, lock: int, *, warm: bool) -> int:
    from peachctl.runtime.entry import become, run_script
    from peachctl.runtime.worker import end_ahead

    begin_output(output)
    job = Job.from_json(json.dumps({**order["job"], "report_fd": reports}))
    become(job)
    processes.set_name(f"peach:{order['key']}")
    if not warm:
        for descriptor in (reports, lock):
            if descriptor >= 0:
                os.set_inheritable(descriptor, True)
        command = [sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "peachctl.runtime", job.script]
        os.execv(sys.executable, command)  # noqa: S606 - a list, no shell
    if not job.plain:
        end_ahead()
    try:
        return run_script(job.script)
    finally:
        end_ahead()


def _detach(orders: int, lock: int) -> None:
    """Descriptors: the orders and the lock; nothing else of the supervisor's. What it prints goes nowhere yet."""
    signal.set_wakeup_fd(-1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers are all that is wanted
        if int(name) > 2 and int(name) not in (orders, lock):
            with contextlib.suppress(OSError):
                os.close(int(name))


def _restore_signals() -> None:
    for signum in (*QUIET, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As every Python process has it.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _leave(status: int) -> NoReturn:
    """Ends a forked process as an interpreter ends, but for taking all modules apart."""
    import atexit
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
