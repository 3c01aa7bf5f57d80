"""What a loop waits for: descriptors, and a word from a signal handler or another thread."""

import os
import selectors
import threading
from collections.abc import Callable


class Waking:
    """For one thread that waits; `poke` and `work_done` are for all others, and for signal handlers.

    woken: called from `wait` after a `poke`.
    """

    def __init__(self, woken: Callable[[], None]) -> None:
        self._woken = woken
        self._selector = selectors.DefaultSelector()
        self._poked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._poked, self._hear)
        # For the loop's own threads: that they are done says nothing of the queue.
        self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._done, lambda: os.eventfd_read(self._done))
        # Reentrant: a signal's handler pokes while its thread does.
        self._lock = threading.RLock()

    def poke(self) -> None:
        """Says that there may be work."""
        with self._lock:
            if self._poked >= 0:  # else a signal came late
                os.eventfd_write(self._poked, 1)

    def work_done(self) -> None:
        """A thread of the loop's own has done its work; the loop sees to it."""
        with self._lock:
            if self._done >= 0:
                os.eventfd_write(self._done, 1)

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Has `callback` called from `wait` when `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def forget(self, fd: int) -> None:
        self._selector.unregister(fd)

    def wait(self, seconds: float) -> None:
        """Returns when something has happened and was told, or after these seconds."""
        for key, _ in self._selector.select(seconds):
            key.data()

    def _hear(self) -> None:
        os.eventfd_read(self._poked)
        self._woken()

    def close(self) -> None:
        self._selector.close()
        with self._lock:
            # Numbers are given out again: nobody may write to them any more.
            closed, self._poked, self._done = (self._poked, self._done), -1, -1
            for number in closed:
                os.close(number)
