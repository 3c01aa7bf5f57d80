"""The `processes` scheduler: nodes in forked worker processes, driven by dask, one node at a time in each.

A worker that dies takes only its node along, which `concurrent.futures.ProcessPoolExecutor` can't do: one death breaks
the whole pool. Workers are forked when a node is ready and none is idle, so there are never more than the graph can
use. The workflow's process has no threads at all, so a fork is safe at any time:

`dask.local.get_async` puts what `submit` returns into a queue and takes results with `.result()` from the queue's next
item, in its own thread. So `submit` returns tokens that are "done" at once, and `.result()` of any of them waits for
the next node that ends, whichever it is. There are as many tokens as running nodes.
"""

import contextlib
import gc
import os
import select
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from peachctl.runtime.failure import failure, fatal_trace, of_death
from peachctl.runtime.worker import Reply, Unfinished, Worker, fork, serve

# After the last node: time for idle workers to end by themselves.
_GOODBYE = 5.0

Work: TypeAlias = tuple[Any, tuple[bytes | None, ...]]
"""What a worker has to know of a node and, per upstream value that it reads, the pickled value."""


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
    """Forked workers, as many as nodes run at once: dask says how many that are. work: runs in a worker, what `prepare`
    made of a node -> Reply, and never raises. first: a worker that is there already. count: of the nodes that will be
    submitted, each once.

    settle: turns a Reply into what dask passes on, in the workflow's process. prepare: (index, upstream outcomes) ->
    what a node needs, or ("settled", outcome) for one that must not run. affinity: index -> what a worker may have
    imported already. name: index -> node id.
    """

    def __init__(
        self,
        work: Callable[[Work], Reply],
        *,
        first: Worker | None = None,
        count: int,
        prepare: Callable[[int, Mapping[int, Any]], tuple[str, Any]],
        settle: Callable[[Reply], Any],
        affinity: Callable[[int], Any],
        name: Callable[[int], str],
    ) -> None:
        self._left = count
        self._work = work
        self._prepare = prepare
        self._settle = settle
        self._affinity = affinity
        self._name = name
        self._workers: dict[int, Worker] = {}
        self._idle: list[Worker] = []
        self._done: deque[tuple[int, Any]] = deque()
        self._selector = selectors.DefaultSelector()
        if first is not None:
            self._idle.append(self._hired(first))

    def submit(self, _: Callable[..., Any], batch: list[tuple[Any, ...]]) -> _Token:
        """For `dask.local.get_async` with chunksize 1 and the identity as `dumps`."""
        key, (_task, data), *_rest = batch[0]
        self._left -= 1
        kind, what = self._prepare(key, data)
        if kind == "settled":
            self._done.append((key, what))
        else:
            self._send(key, what)
        if not self._left and len(self._workers) == 1:
            self._dismiss()
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
        while True:
            worker = self._pick(self._affinity(index))
            if _has_said(worker.socket):
                # it died idle, or what an earlier node has left in it writes: this node shall not pay for that
                os.kill(worker.pid, signal.SIGKILL)
                self._bury(worker, drained=True)
                continue
            worker.node = index
            try:
                worker.send(work)
            except OSError:
                # it died idle, or while it was given the node: the node has not begun
                worker.node = None
                self._bury(worker)
                continue
            return

    def _pick(self, wanted: Any) -> Worker:
        for position in range(len(self._idle) - 1, -1, -1):
            if wanted in self._idle[position].services:
                return self._idle.pop(position)
        worker = self._idle.pop() if self._idle else self._fork()
        worker.services.add(wanted)
        return worker

    def _read(self, worker: Worker) -> None:
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
        try:
            reply = worker.reply()
        except Unfinished:
            return
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

    def _give_up(self, worker: Worker, why: str) -> None:
        """Nothing more is expected of a worker. why: what it had done, '' where it has just died."""
        if why:
            os.kill(worker.pid, signal.SIGKILL)
        self._bury(worker, drained=True, why=why)

    def _bury(self, worker: Worker, *, drained: bool = False, why: str = "") -> None:
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

    def _forget(self, worker: Worker) -> None:
        del self._workers[worker.pid]
        self._selector.unregister(worker.socket)
        self._selector.unregister(worker.pidfd)
        worker.close()

    def _fork(self) -> Worker:
        if not self._workers:
            gc.freeze()  # pages of what is there now stay shared
        return self._hired(fork(lambda connection, mark: serve(connection, mark, self._work), self._workers.values()))

    def _hired(self, worker: Worker) -> Worker:
        self._workers[worker.pid] = worker
        self._selector.register(worker.socket, selectors.EVENT_READ, (worker, "socket"))
        self._selector.register(worker.pidfd, selectors.EVENT_READ, (worker, "pidfd"))
        return worker

    def _dismiss(self) -> None:
        """The only worker has the last node: it ends with that, while this process does what is left to do. Where there
        are more, what a service has left in one (a thread, a server) may be of use to a node in another."""
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                worker.socket.shutdown(socket.SHUT_WR)

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
