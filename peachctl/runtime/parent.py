"""`python -m peachctl.runtime.parent`: the supervisor, which starts a process per workflow and ends all of it.

Started by `peachctl.runner.supervised`, which describes the messages. Two processes where the host allows a PID
namespace: the outer one, which only waits, and the namespace's process 1, which is the supervisor. Where it does not,
the outer one is the supervisor itself.

Who notices whose death:

- The executor dies: its end of the control socket closes, and the supervisor ends all runs and itself. The outer
  process gets a signal by the kernel and kills process 1, should that be stopped or busy. It outlives process 1, so
  the executor's lock is free only when nothing of it is left.
- The outer process dies: the kernel kills process 1.
- Process 1 dies: the kernel kills all that is in the namespace. Without one, runs are killed by the kernel, and their
  descendants come to the executor, which ends them (it is a subreaper).
- The executor is stopped: no beat comes, and after a while the supervisor ends all runs by itself.
- A run's main process ends: it was the subreaper of all below it, so what is left of it comes to the supervisor as a
  child that it did not start. Such children are ended until none of that run's is left (`custody` knows whose they
  are); only then the run has ended.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any, NoReturn

from peachctl import processes, runtime
from peachctl.runtime import namespace
from peachctl.runtime.custody import Custody
from peachctl.runtime.waiting import MESSAGE_SIZE, QUIET, Waiting, fork

_WARM = ("dask", "dask.local", "dask.threaded", "dask.multiprocessing", "peachctl.hub", "peachctl.wire")
_NOT_WARM = {"__main__", "parent", "namespace"}
_RETRY = 0.05
_SOON, _LATER = 0.01, 0.1
"""Seconds after a run's end, and after its start, until the next process is forked: what is at work goes first."""
_TAKES = 1.0
"""Seconds for a process that waits to take its order."""
_ROUNDS = 20


@dataclass(slots=True)
class _Run:
    """A run that was started. code: how its main process ended, None while it lives. kill_at: when (monotonic) all of
    it is killed; None: nobody asked for its end. silent: it is killed because no beat came."""

    key: str
    pid: int
    code: int | None = None
    memory: int = 0
    strays: int = 0
    kill_at: float | None = None
    silent: bool = False


class Supervisor:
    """Orders come over `control`; `guard` becomes readable when the outer process is dead (None without one)."""

    def __init__(
        self, control: socket.socket, lock: int, *, isolation: str, orders_after: float, guard: int | None
    ) -> None:
        self._control = control
        self._lock = lock
        self._fresh = isolation == "fresh"
        self._orders_after = orders_after
        self._guard = guard
        self._depth = processes.own_depth()
        self._pid = os.getpid()
        self._runs: dict[int, _Run] = {}
        self._ended: list[_Run] = []
        self._custody = Custody()
        self._counted: set[int] = set()
        # Strays that were killed while no run had ended: a main process that is about to end takes no orphans any more.
        self._early = 0
        self._look_due = False
        self._outbox: deque[bytes] = deque()
        self._beat = time.monotonic()
        self._silent = False
        self._closing = False
        self._waiting: Waiting | None = None
        self._with_worker = True
        self._fork_at = 0.0
        self._children, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A death during a fork or a scan must not be missed: the signal leaves a byte to be polled for.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        control.setblocking(False)

    def serve(self) -> None:
        """Until the executor is gone or says so, and nothing is left of its runs."""
        poll = select.poll()
        poll.register(self._children, select.POLLIN)
        if self._guard is not None:
            poll.register(self._guard, select.POLLIN)
        while True:
            self._reap()
            self._enforce()
            self._settle()
            self._fork_ahead()
            if self._closing and not self._ours and not self._ended:
                return
            if not self._closing:
                poll.register(self._control, select.POLLIN | (select.POLLOUT if self._outbox else 0))
            for fd, _ in poll.poll(self._patience()):
                if fd == self._children:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                elif fd == self._guard:
                    os._exit(1)  # all in the namespace goes with process 1
                else:
                    self._flush()
                    if not self._hear():
                        poll.unregister(self._control)

    def _patience(self) -> int:
        """Milliseconds until something is due."""
        now = time.monotonic()
        due = [60.0]
        if not self._fresh and not self._closing and self._waiting is None:
            due.append(self._fork_at - now)
        due += [run.kill_at - now for run in self._runs.values() if run.kill_at is not None]
        if self._runs and not self._silent:
            due.append(self._beat + self._orders_after - now)
        if self._ended or any(run.kill_at is not None and run.kill_at <= now for run in self._runs.values()):
            due.append(_RETRY)
            return int(_RETRY * 1000)
        return max(0, int(min(due) * 1000) + 1)

    # What the executor says

    def _hear(self) -> bool:
        """Takes and obeys what the executor has said; False when that was the last of it."""
        orders: list[tuple[bytes, list[int]]] = []
        while not self._closing:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_SIZE, 2, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._closing = True
            elif data.startswith(b"."):
                # The time in it counts, not when it was read: both of us may have been stopped in between.
                self._beat = max(self._beat, float(data[1:]))
                self._silent = self._silent and time.monotonic() - self._beat > self._orders_after
            else:
                orders.append((data, descriptors))
        for data, descriptors in orders:
            try:
                if not self._closing:
                    self._obey(json.loads(data), descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        if self._closing:
            self._end_all()
        return not self._closing

    def _obey(self, order: dict[str, Any], descriptors: list[int]) -> None:
        if "start" in order:
            key = str(order["start"])
            if time.monotonic() - self._beat > self._orders_after:
                # Whoever gave this order may have been stopped between its claim and the order.
                self._say_ended(_Run(key, 0, -signal.SIGKILL, silent=True))
                return
            self._start(key, order["job"], *descriptors)
        elif "end" in order:
            for run in self._runs.values():
                if run.key == order["end"]:
                    self._end(run, float(order["grace"]))

    def _say_ended(self, run: _Run) -> None:
        # A main process that was quicker with an end of its own has one.
        silent = run.silent and run.code == -signal.SIGKILL
        message = {"ended": run.key, "code": run.code, "strays": run.strays, "memory": run.memory, "silent": silent}
        self._say(message)

    def _say(self, message: dict[str, Any]) -> None:
        self._outbox.append(json.dumps(message).encode())
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                self._control.send(self._outbox[0])
            except BlockingIOError:
                return
            except OSError:
                self._outbox.clear()
                return
            self._outbox.popleft()

    # Ends

    def _end(self, run: _Run, grace: float) -> None:
        kill_at = time.monotonic() + grace
        if run.kill_at is None and grace > 0:
            self._terminate(run)
        run.kill_at = kill_at if run.kill_at is None else min(run.kill_at, kill_at)
        self._enforce()

    def _terminate(self, run: _Run) -> None:
        """SIGTERM to all groups of its session: a worker of the run's pool has one of its own."""
        session = {one.group for one in processes.all_processes(self._depth) if one.session == run.pid}
        for group in {run.pid, *session}:
            try:
                os.killpg(group, signal.SIGTERM)
            except ProcessLookupError:
                if group == run.pid:
                    # It has not come to its setsid yet; it takes signals up after that.
                    os.kill(run.pid, signal.SIGTERM)
            except PermissionError:  # it has become another user's; its time runs nevertheless
                pass

    def _end_all(self) -> None:
        if self._waiting is not None:
            _kill(self._waiting.pid)
        for run in [*self._runs.values(), *self._ended]:
            run.kill_at = time.monotonic()
        self._enforce()

    def _enforce(self) -> None:
        """Kills what has had its time."""
        now = time.monotonic()
        if self._runs and not self._silent and now - self._beat > self._orders_after:
            self._silent = True
            for run in self._runs.values():
                run.kill_at, run.silent = now, True
            self._say({"silence": now - self._beat})
        for run in self._runs.values():
            if run.kill_at is not None and run.kill_at <= now:
                _kill(run.pid)
                with contextlib.suppress(OSError):
                    os.killpg(run.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Takes the ends of children, ours and adopted ones."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._look_due = True
            self._counted.discard(pid)
            run = self._runs.pop(pid, None)
            if self._waiting is not None and self._waiting.pid == pid:
                self._waiting.socket.close()
                self._waiting = None
                continue
            self._custody.reaped(pid, None if run is None else run.key)
            if run is not None:
                run.code = os.waitstatus_to_exitcode(status)
                run.memory = usage.ru_maxrss << 10
                run.strays, self._early = self._early, 0
                self._ended.append(run)
                self._fork_at = min(self._fork_at, time.monotonic() + _SOON)

    def _settle(self) -> None:
        """Ends what runs have left, and says of each that it has ended as soon as nothing of it is left.

        Whatever a main process leaves becomes our child before that process can be reaped, and so do the children of
        such a stray. So when none is there after everything was reaped, nothing is.
        """
        for rounds in range(_ROUNDS if self._ended or self._look_due else 0):
            self._look_due = False
            strays = [child for child in processes.own_children(self._depth) if child.pid not in self._ours]
            waiting = [child for child in strays if not child.zombie]
            now = time.monotonic()
            sessions = {run.pid: run.key for run in [*self._runs.values(), *self._ended]}
            self._custody.look(strays, sessions, now)
            for run in [one for one in self._ended if not self._custody.holds_back(one.key, now)]:
                self._ended.remove(run)
                self._say_ended(run)
            if not strays:
                return
            # At once what we see; what it has made in the meantime, or hides behind it, in the rounds that follow.
            self._kill_strays(waiting)
            if waiting and rounds:
                everything = [one for one in processes.all_processes(self._depth) if not one.zombie]
                self._kill_strays(processes.descendants({child.number for child in waiting}, everything))
            self._reap()
            if len(waiting) == len(strays):
                return

    @property
    def _ours(self) -> set[int]:
        """Children that we started."""
        return {*self._runs} if self._waiting is None else {*self._runs, self._waiting.pid}

    def _kill_strays(self, strays: list[processes.Process]) -> None:
        now = time.monotonic()
        # Those have had their SIGTERM, and may use the time that they were given.
        patient = {run.pid for run in self._ended if run.kill_at is not None and run.kill_at > now}
        groups = {os.getpgrp(), *self._ours, *patient}
        for stray in strays:
            if stray.session in patient:
                continue
            _kill(stray.pid)
            if stray.pid not in self._counted:
                self._counted.add(stray.pid)
                owners = self._custody.owners(stray.pid)
                owner = next((run for run in self._ended if run.key in owners), next(iter(self._ended), None))
                if owner is None:
                    self._early += 1
                else:
                    owner.strays += 1
            if stray.group not in groups:
                # A group is killed as one, with what it forks at this moment.
                groups.add(stray.group)
                with contextlib.suppress(OSError):
                    os.killpg(stray.group, signal.SIGKILL)

    # Starts

    def _start(self, key: str, job: dict[str, Any], reports: int, output: int) -> None:
        self._with_worker = job["scheduler"] == "processes" and job["plain"]
        waiting, self._waiting = self._waiting, None
        self._fork_at = time.monotonic() + _LATER
        if waiting is None or not waiting.order(key, job, reports, output, patience=_TAKES):
            try:
                waiting = self._fork()
            except OSError as error:
                os.write(output, f"no process could be started: {error}\n".encode())
                self._say_ended(_Run(key, 0, 1))
                return
            if not waiting.order(key, job, reports, output):
                _kill(waiting.pid)
        self._runs[waiting.pid] = _Run(key, waiting.pid)

    def _fork(self) -> Waiting:
        return fork(self._control, self._lock, warm=not self._fresh, worker=self._with_worker)

    def _fork_ahead(self) -> None:
        """So that the next run finds its process."""
        if self._fresh or self._closing or self._waiting is not None or time.monotonic() < self._fork_at:
            return
        self._fork_at = time.monotonic() + _LATER
        with contextlib.suppress(OSError):
            self._waiting = self._fork()


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _warm_up() -> None:
    """Imports what runs need, so that forks have it. What can't be imported fails where it is used."""
    names = [*_WARM]
    names += [f"peachctl.runtime.{module.name}" for module in pkgutil.iter_modules(runtime.__path__)]
    for name in names:
        if name.rpartition(".")[2] in _NOT_WARM:
            continue
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - a broken import must not end the supervisor at each start anew
            traceback.print_exc()
    gc.collect()
    gc.freeze()


def main() -> None:
    """Arguments: descriptor of the control socket, of the lock (-1: none), isolation, seconds without a beat, the
    executor's process number; `--no-namespace`."""
    control = socket.socket(fileno=int(sys.argv[1]))
    lock, isolation, orders_after, executor = int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
    control.set_inheritable(False)
    if lock >= 0:
        os.set_inheritable(lock, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, QUIET)
    # Whoever started the executor may have ignored it, and then there would be nothing to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    way = namespace.Way.NONE if "--no-namespace" in sys.argv else namespace.possible()
    guard = None
    if way is namespace.Way.NONE:
        processes.become_subreaper()
        control.send(json.dumps({"hello": os.getpid(), "namespace": False}).encode())
    else:
        guard = _enter_namespace(control, way, executor)
    if isolation == "warm":
        _warm_up()
    Supervisor(control, lock, isolation=isolation, orders_after=orders_after, guard=guard).serve()


def _enter_namespace(control: socket.socket, way: namespace.Way, executor: int) -> int:
    """Returns in process 1 only, with a descriptor that ends when the outer process does."""
    namespace.unshare(way)
    read, write = os.pipe2(os.O_CLOEXEC)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.close(write)
        processes.die_with_parent(signal.SIGKILL)
        # Nothing is started before the executor has what it kills us by. No byte: the outer process is dead.
        if not os.read(read, 1):
            os._exit(1)
        namespace.settle(way)
        return read
    os.close(read)
    descriptor = os.pidfd_open(child)
    hello = json.dumps({"hello": child, "namespace": True}).encode()
    with contextlib.suppress(OSError):
        socket.send_fds(control, [hello], [descriptor])
        control.close()
        os.write(write, b"!")
    return _wait_for(child, executor)


def _wait_for(child: int, executor: int) -> NoReturn:
    """The outer process: ends when process 1 has ended, and ends that when the executor has died."""
    ctypes.CDLL(None).malloc_trim(0)
    processes.die_with_parent(signal.SIGTERM)
    orphaned = os.getppid() != executor
    while not orphaned:
        # SIGTERM may also mean that just a thread of the executor has ended, or come from somebody else.
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGCHLD and os.waitpid(child, os.WNOHANG)[0]:
            os._exit(0)
        orphaned = os.getppid() != executor
    _kill(child)
    os.waitpid(child, 0)
    os._exit(0)


if __name__ == "__main__":
    main()
