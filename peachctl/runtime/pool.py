"""The `processes` scheduler: nodes in forked worker processes, driven by dask, one node at a time in each.

A worker that dies takes only its node along, which `concurrent.futures.ProcessPoolExecutor` can't do: one death breaks
the whole pool. Workers are forked when a node is ready and none is idle, so there are never more than the graph can
use. The workflow's process has no threads at all, so a fork is safe at any time:

`dask.local.get_async` puts what `submit` returns into a queue and takes results with `.result()` from the queue's next
item, in its own thread. So `submit` returns tokens that are "done" at once, and `.result()` of any of them waits for
the next node that ends, whichever it is. There are as many tokens as running nodes.

Between the processes travel frames (mark, length, pickle of plain values); values of nodes stay the bytes that their
worker made of them, so no class of a service is ever needed in the workflow's process. A service may write into any
descriptor of its process, this one too: what does not begin with the worker's mark, or does not read, ends that worker.

Each worker leads a process group: a service that signals its own group does not reach the workflow.
"""

import contextlib
import ctypes
import gc
import os
import pickle
import select
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from peachctl.runtime.failure import Failure, failure, fatal_trace, of_death

_PR_SET_PDEATHSIG = 1
_MARK = 8
_LENGTH = 8
_HEAD = _MARK + _LENGTH
# After the last node: time for idle workers to end by themselves.
_GOODBYE = 5.0

Work: TypeAlias = tuple[int, tuple[bytes | None, ...]]
"""A node's index and, per upstream value that it reads, the pickled value."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker says of a node. error None: it succeeded, and `ports` are its pickled values by output port."""

    index: int
    error: Failure | None
    ports: dict[int, bytes]
    shown: list[Any]


@dataclass(slots=True, eq=False)
class _Worker:
    pid: int
    socket: socket.socket
    pidfd: int
    last_words: int
    mark: bytes
    node: int | None = None
    buffer: bytearray = field(default_factory=bytearray)
    services: set[Any] = field(default_factory=set)


class _Token:
    """Stands for a running node in dask's queue; its result is that of the next node that ends."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    def add_done_callback(self, callback: Callable[["_Token"], None]) -> None:
        callback(self)

    def result(self) -> list[tuple[Any, Any, bool]]:
        key, outcome = self._pool.next()
        return [(key, (outcome, None), False)]


class Pool:
    """At most `size` forked workers. work: runs in a worker, a node's index and inputs -> Reply, and never raises.

    settle: turns a Reply into what dask passes on, in the workflow's process. prepare: (index, upstream outcomes) ->
    what a node needs, or ("settled", outcome) for one that must not run. affinity: index -> what a worker may have
    imported already. name: index -> node id.
    """

    def __init__(
        self,
        size: int,
        work: Callable[[Work], Reply],
        *,
        prepare: Callable[[int, Mapping[int, Any]], tuple[str, Any]],
        settle: Callable[[Reply], Any],
        affinity: Callable[[int], Any],
        name: Callable[[int], str],
    ) -> None:
        self._size = size
        self._work = work
        self._prepare = prepare
        self._settle = settle
        self._affinity = affinity
        self._name = name
        self._workers: dict[int, _Worker] = {}
        self._idle: list[_Worker] = []
        self._done: deque[tuple[int, Any]] = deque()
        self._selector = selectors.DefaultSelector()

    def submit(self, _: Callable[..., Any], batch: list[tuple[Any, ...]]) -> _Token:
        """For `dask.local.get_async` with chunksize 1 and the identity as `dumps`."""
        key, (_task, data), *_rest = batch[0]
        kind, what = self._prepare(key, data)
        if kind == "settled":
            self._done.append((key, what))
        else:
            self._send(key, what)
        return _Token(self)

    def next(self) -> tuple[int, Any]:
        """Waits for the next node that ends."""
        while not self._done:
            for ready, _ in self._selector.select():
                worker, part = ready.data
                if worker.pid in self._workers:
                    self._read(worker) if part == "socket" else self._bury(worker)
        return self._done.popleft()

    def _send(self, index: int, work: Work) -> None:
        raw = pickle.dumps(work, 5)
        while True:
            worker = self._pick(self._affinity(index))
            if _has_said(worker.socket):
                # it died idle, or what an earlier node has left in it writes: this node shall not pay for that
                os.kill(worker.pid, signal.SIGKILL)
                self._bury(worker, drained=True)
                continue
            worker.node = index
            try:
                worker.socket.sendall(_head(worker.mark, raw) + raw)
            except OSError:
                # it died idle, or while it was given the node: the node has not begun
                worker.node = None
                self._bury(worker)
                continue
            return

    def _pick(self, wanted: Any) -> _Worker:
        for position in range(len(self._idle) - 1, -1, -1):
            if wanted in self._idle[position].services:
                return self._idle.pop(position)
        worker = self._idle.pop() if self._idle else self._fork()
        worker.services.add(wanted)
        return worker

    def _read(self, worker: _Worker) -> None:
        try:
            chunk = worker.socket.recv(1 << 20)
        except OSError:
            chunk = b""
        if not chunk:
            # it died, or a service closed descriptors that are not its own: then it can't say anything any more
            lost = "had lost its connection to the workflow (something in it closed descriptors that are not its own)"
            self._give_up(worker, "" if _gone_soon(worker.pidfd) else lost)
            return
        worker.buffer += chunk
        if worker.buffer[:_MARK] == worker.mark[: len(worker.buffer)]:
            if len(worker.buffer) < _HEAD:
                return
            size = _HEAD + int.from_bytes(worker.buffer[_MARK:_HEAD], "big")
            if len(worker.buffer) < size:
                return
            reply = _reply(worker, size)
        else:
            reply = None
        if reply is None:
            self._give_up(
                worker,
                "had written into its connection to the workflow (something in it writes to descriptors that are not"
                " its own)",
            )
            return
        worker.buffer = bytearray()
        worker.node = None
        self._idle.append(worker)
        self._done.append((reply.index, self._settle(reply)))

    def _give_up(self, worker: _Worker, why: str) -> None:
        """Nothing more is expected of a worker. why: what it had done, '' where it has just died."""
        if why:
            os.kill(worker.pid, signal.SIGKILL)
        self._bury(worker, drained=True, why=why)

    def _bury(self, worker: _Worker, *, drained: bool = False, why: str = "") -> None:
        """A worker is dead: its node gets the error, unless its reply was already on the way. why: what it was ended
        for."""
        if not drained:
            while worker.node is not None and worker.pid in self._workers:
                try:
                    worker.socket.setblocking(False)
                    more = worker.socket.recv(1 << 20, socket.MSG_PEEK)
                except OSError:
                    break
                if not more:
                    break
                worker.socket.setblocking(True)
                self._read(worker)
        if worker.pid not in self._workers:
            return
        _, status = os.waitpid(worker.pid, 0)
        words = _last_words(worker.last_words)
        self._forget(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.node is not None:
            error = of_death(self._name(worker.node), status, words)
            if why:
                error = failure("ProcessDied", f"the process of node {self._name(worker.node)!r} was ended: it {why}")
            self._done.append((worker.node, self._settle(Reply(worker.node, error, {}, []))))

    def _forget(self, worker: _Worker) -> None:
        del self._workers[worker.pid]
        self._selector.unregister(worker.socket)
        worker.socket.close()
        self._selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        os.close(worker.last_words)

    def _fork(self) -> _Worker:
        ours, theirs = socket.socketpair()
        last_words = os.memfd_create("last words")
        sys.stdout.flush()
        sys.stderr.flush()
        if not self._workers:
            gc.freeze()  # pages of what is there now stay shared
        parent, mark = os.getpid(), os.urandom(_MARK)
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                for other in self._workers.values():
                    other.socket.close()
                _become_worker(parent, last_words)
                _serve(theirs, mark, self._work)
            except BaseException:  # noqa: BLE001 - nothing may return into the parent's stack
                os._exit(70)
        theirs.close()
        pidfd = os.pidfd_open(pid)
        worker = _Worker(pid, ours, pidfd, last_words, mark)
        self._workers[pid] = worker
        self._selector.register(ours, selectors.EVENT_READ, (worker, "socket"))
        self._selector.register(pidfd, selectors.EVENT_READ, (worker, "pidfd"))
        return worker

    def close(self) -> None:
        """Ends all workers; those that still run a node at once."""
        deadline = time.monotonic() + _GOODBYE
        for worker in self._workers.values():
            if worker.node is not None:
                with contextlib.suppress(OSError):  # it may not have come to its setpgid
                    os.killpg(worker.pid, signal.SIGKILL)
                os.kill(worker.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                worker.socket.shutdown(socket.SHUT_RDWR)
        for worker in list(self._workers.values()):
            if not _gone_soon(worker.pidfd, max(0.0, deadline - time.monotonic())):
                os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            self._forget(worker)
        self._selector.close()


def _head(mark: bytes, raw: bytes) -> bytes:
    return mark + len(raw).to_bytes(_LENGTH, "big")


def _reply(worker: _Worker, size: int) -> Reply | None:
    """What the first `size` bytes say; None if they are no reply to the node that the worker was given, or more came
    with them."""
    if len(worker.buffer) > size:
        return None
    try:
        reply = pickle.loads(memoryview(worker.buffer)[_HEAD:])  # noqa: S301 - our own worker
    except Exception:  # noqa: BLE001 - something wrote in between
        return None
    return reply if isinstance(reply, Reply) and reply.index == worker.node else None


def _has_said(connection: socket.socket) -> bool:
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _gone_soon(pidfd: int, seconds: float = 1.0) -> bool:
    poll = select.poll()  # not `select`, whose descriptors end at 1024
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _last_words(descriptor: int) -> str:
    """What `faulthandler` could write when the process died, most recent call first."""
    return fatal_trace(os.pread(descriptor, 64 << 10, 0).decode(errors="replace"))


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


def _serve(connection: socket.socket, mark: bytes, work: Callable[[Work], Reply]) -> NoReturn:
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


def _receive(connection: socket.socket, mark: bytes) -> bytearray | None:
    head = _exactly(connection, _HEAD)
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
