"""A forked process that runs nodes for the workflow's process, one at a time, and how the two speak.

Between them travel frames (mark, length, pickle of plain values); values of nodes stay the bytes that their worker made
of them, so no class of a service is ever needed in the workflow's process. A service may write into any descriptor of
its process, this one too: what does not begin with the worker's mark, or does not read, ends that worker.

Each worker leads a process group: a service that signals its own group does not reach the workflow.

One worker may be forked ahead, before its process knows its workflow (`fork_ahead`): it is told the job when that is
known (`tell_ahead`), and given nodes once it was taken (`taken_ahead`). It has nothing of what a script did before its
graph runs, so it is for scripts that do nothing.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from peachctl import processes
from peachctl.runtime.entry import become_worker
from peachctl.runtime.failure import Failure
from peachctl.runtime.job import Job

WAITING = "peach:waiting"
"""Name of a process that has settled in and waits for its work."""

_PR_SET_PDEATHSIG = 1
_MARK = 8
_LENGTH = 8
HEAD = _MARK + _LENGTH


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker says of a node. error None: it succeeded, and `ports` are its pickled values by output port."""

    index: int
    error: Failure | None
    ports: dict[int, bytes]
    shown: list[Any]


@dataclass(slots=True, eq=False)
class Worker:
    """A worker as its parent sees it. node: the index of the one that it runs now."""

    pid: int
    socket: socket.socket
    pidfd: int
    last_words: int
    mark: bytes
    node: int | None = None
    buffer: bytearray = field(default_factory=bytearray)
    services: set[Any] = field(default_factory=set)

    def send(self, value: Any) -> None:
        """Raises OSError where it is dead."""
        raw = pickle.dumps(value, 5)
        self.socket.sendall(_head(self.mark, raw) + raw)

    def reply(self) -> Reply | None:
        """What is in its buffer: None if that is no reply to the node that it was given, or more came with it; raises
        Unfinished where something of it is still on the way."""
        if self.buffer[:_MARK] != self.mark[: len(self.buffer)]:
            return None
        if len(self.buffer) < HEAD:
            raise Unfinished
        size = HEAD + int.from_bytes(self.buffer[_MARK:HEAD], "big")
        if len(self.buffer) < size:
            raise Unfinished
        if len(self.buffer) > size:
            return None
        try:
            reply = pickle.loads(memoryview(self.buffer)[HEAD:])  # noqa: S301 - our own worker
        except Exception:  # noqa: BLE001 - something wrote in between
            return None
        return reply if isinstance(reply, Reply) and reply.index == self.node else None

    def close(self) -> None:
        self.socket.close()
        os.close(self.pidfd)
        os.close(self.last_words)


class Unfinished(Exception):
    """A frame that has not come to its end."""


def fork(live: Callable[[socket.socket, bytes], NoReturn], others: Iterable[Worker] = ()) -> Worker:
    """A new worker. live: its life, with its end of the connection and its mark. others: the workers there are, whose
    connections are none of its business. Raises OSError where no process can be made."""
    ours, theirs = socket.socketpair()
    last_words = os.memfd_create("last words")
    sys.stdout.flush()
    sys.stderr.flush()
    parent, mark = os.getpid(), os.urandom(_MARK)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            for other in others:
                other.socket.close()
            _become_worker(parent, last_words)
            live(theirs, mark)
        except BaseException:  # noqa: BLE001 - nothing may return into the parent's stack
            os._exit(70)
    theirs.close()
    return Worker(pid, ours, os.pidfd_open(pid), last_words, mark)


def serve(connection: socket.socket, mark: bytes, work: Callable[[Any], Reply]) -> NoReturn:
    """A worker's life: a node after the other, until the workflow's process closes the connection."""
    me = os.getpid()
    while (raw := _receive(connection, mark)) is not None:
        reply = work(pickle.loads(raw))  # noqa: S301 - from our parent
        if os.getpid() != me:
            os._exit(0)  # a service forked, and its child came back out of `start`
        sys.stdout.flush()
        sys.stderr.flush()
        answer = pickle.dumps(reply, 5)
        try:
            connection.sendall(_head(mark, answer))
            connection.sendall(answer)
        except OSError:
            break
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(0)


# The one that is forked ahead

_ahead: Worker | None = None


def fork_ahead(
    settle: Callable[[], None], work: Callable[[Job], Callable[[Any], Reply]], *others: socket.socket
) -> None:
    """Forks a worker that this process may want later. settle: what it does first. work: makes of a job what the worker
    does with a node. others: connections that are not the worker's."""
    global _ahead  # noqa: PLW0603 - a workflow has one process

    def live(connection: socket.socket, mark: bytes) -> NoReturn:
        for other in others:
            other.close()
        settle()
        processes.set_name(WAITING)
        first, descriptors, _, _ = socket.recv_fds(connection, 1, 2, socket.MSG_CMSG_CLOEXEC)
        raw = _receive(connection, mark) if first else None
        if raw is None:
            os._exit(0)  # it was not wanted
        reports, output = descriptors
        begin_output(output)
        job = replace(Job.from_json(pickle.loads(raw)), report_fd=reports)  # noqa: S301 - from our parent
        become_worker(job)
        serve(connection, mark, work(job))

    _ahead = fork(live)


def tell_ahead(job: Job) -> None:
    """Tells the worker that was forked ahead its job, so that it settles in while this process reads the script. Its
    output is ours."""
    if _ahead is None or job.report_fd is None:
        return
    try:
        socket.send_fds(_ahead.socket, [b"!"], [job.report_fd, 1])
        _ahead.send(job.to_json())
    except OSError:
        end_ahead()


def taken_ahead() -> Worker | None:
    """The worker that was forked ahead and told its job; None where there is none."""
    global _ahead
    worker, _ahead = _ahead, None
    return worker


def end_ahead() -> None:
    """Ends the worker that was forked ahead and is not wanted."""
    global _ahead
    worker, _ahead = _ahead, None
    if worker is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)
    os.waitpid(worker.pid, 0)
    worker.close()


def begin_output(output: int) -> None:
    """From now on this process prints into that descriptor, which is closed."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _become_worker(parent: int, last_words: int) -> None:
    """The state of a process that runs services: it dies with its parent, and by the signals that are meant for it."""
    import faulthandler

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.enable(file=last_words, all_threads=False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # several processes can't share a terminal's input
    os.close(nothing)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("1000")  # when memory runs out this process goes, not the workflow's


def _head(mark: bytes, raw: bytes) -> bytes:
    return mark + len(raw).to_bytes(_LENGTH, "big")


def _receive(connection: socket.socket, mark: bytes) -> bytearray | None:
    head = _exactly(connection, HEAD)
    if head is None or head[:_MARK] != mark:
        return None
    return _exactly(connection, int.from_bytes(head[_MARK:], "big"))


def _exactly(connection: socket.socket, size: int) -> bytearray | None:
    raw = bytearray(size)
    view = memoryview(raw)
    while view:
        count = connection.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return raw
