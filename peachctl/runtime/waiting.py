"""The main process of a run, forked before the run is known: it waits for its order, and becomes the run.

What a fork costs is paid while nobody waits for it. The order is one message over a SOCK_SEQPACKET pair,
`{"key", "job"}` with the descriptors of the run's reports and of its output, and is answered with one byte before
anything of it is done: one that was killed meanwhile costs no run. The end of file says that no order will come.
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
from peachctl.runtime.worker import WAITING, begin_output

MESSAGE_SIZE = 256 << 10
_TAKEN = b"!"
QUIET = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that the supervisor has blocked."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A process that waits for its order."""

    pid: int
    socket: socket.socket

    def order(self, key: str, job: dict[str, Any], reports: int, output: int, *, patience: float = 0.0) -> bool:
        """Makes it that run, once. Returns False where it will not be: it died before it took the order. patience:
        seconds after which one that does not take it is killed; with 0 nobody waits for that, and a death shows as
        the run's."""
        with self.socket:
            try:
                self.socket.settimeout(patience or None)
                socket.send_fds(self.socket, [json.dumps({"key": key, "job": job}).encode()], [reports, output])
                return not patience or self._took()
            except OSError:
                return False

    def _took(self) -> bool:
        try:
            return self.socket.recv(1) == _TAKEN
        except TimeoutError:  # it was stopped, perhaps
            os.kill(self.pid, signal.SIGKILL)
        try:
            return self.socket.recv(1) == _TAKEN
        except TimeoutError:
            return True  # its end will be told as the run's


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
        if warm:
            _warm_up(orders, worker=worker)
        processes.set_name(WAITING)
        raw, descriptors, _, _ = socket.recv_fds(orders, MESSAGE_SIZE, 2, socket.MSG_CMSG_CLOEXEC)
        if not raw:
            os._exit(0)
        with contextlib.suppress(OSError):  # nobody waits for it
            orders.send(_TAKEN)
        orders.close()
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
    from peachctl.runtime.rehearsal import rehearse_node, rehearse_run

    if worker:
        from peachctl.runtime.graph import work_ahead
        from peachctl.runtime.worker import fork_ahead

        with contextlib.suppress(OSError):  # then it is forked when it is wanted, and that says why it can't be
            fork_ahead(rehearse_node, work_ahead, orders)
    rehearse_run()


def _run(order: dict[str, Any], reports: int, output: int, lock: int, *, warm: bool) -> int:
    from peachctl.runtime.entry import become, run_script
    from peachctl.runtime.worker import end_ahead, tell_ahead

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
    if job.plain and job.scheduler == "processes" and not job.debug:
        tell_ahead(job)
    else:
        end_ahead()
    try:
        return run_script(job.script)
    finally:
        end_ahead()


def _detach(orders: int, lock: int) -> None:
    """Descriptors: the orders and the lock; nothing else of the supervisor's. What it prints goes nowhere yet."""
    signal.set_wakeup_fd(-1)
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, mode), number)
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
