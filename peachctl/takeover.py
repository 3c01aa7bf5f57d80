"""What other executors leave: the rows of those that are dead, or whose leases ran out, go back to the queue."""

import logging
import threading
import time
from collections.abc import Callable

from peachctl.failpoint import fail_point
from peachctl.runner import alive
from peachctl.store import Executor, Released, Store

logger = logging.getLogger(__name__)


def boottime() -> float:
    """Seconds since the machine was started; unlike the monotonic clock it counts the time that the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class TakeOver:
    """Looks after the others on this database.

    margin: seconds by which a supervisor that hears no beat is done before the lease runs out. wake: called from
    another thread when `release_dead` has something to do.
    """

    def __init__(
        self, store: Store, executor: Executor, max_attempts: int, margin: float, wake: Callable[[], None]
    ) -> None:
        self._store = store
        self._executor = executor
        self._max_attempts = max_attempts
        self._margin = margin
        self._wake = wake
        self._stepped = boottime()
        self._expire_from = 0.0
        self._dead: list[str] | None = None
        self.searching = False
        """Whether it is being found out who is dead."""

    def notice_sleep(self) -> bool:
        """To be called with each step. True after a sleep (a suspended machine, a stopped process): all leases of this
        host may have run out then, though nobody is dead. Our own are to be renewed at once, and the neighbours get
        the time to renew theirs before any is called expired."""
        now = boottime()
        slept = now - self._stepped > self._margin
        if slept:
            self._expire_from = time.monotonic() + self._margin
        self._stepped = now
        return slept

    def search(self) -> None:
        """Starts to find out who is dead. Raises UnreachableError."""
        others = [other for other in self._store.executors() if other.token != self._executor.token]
        if others and not self.searching:
            # It takes seconds for each that left something behind.
            self.searching = True
            threading.Thread(target=self._find_dead, args=(others,), name="dead", daemon=True).start()

    def release_expired(self) -> None:
        """Gives back what has expired. Raises UnreachableError."""
        if time.monotonic() >= self._expire_from:
            released = self._store.release_expired(self._max_attempts)
            fail_point("execute:expired")
            _say(released)

    def release_dead(self) -> bool:
        """Gives back the rows of those that were found dead; whether a search had ended. Raises UnreachableError; one
        that could not be written is found again by the next sweep."""
        if self._dead is None:
            return False
        dead, self._dead, self.searching = self._dead, None, False
        if dead:
            released = self._store.release(dead, self._max_attempts)
            fail_point("execute:released")
            _say(released)
        return True

    def _find_dead(self, others: list[Executor]) -> None:
        """In a thread. Where there was no PID namespace, something of a dead executor's runs may still live: that is
        ended before its rows are given back."""
        dead = []
        try:
            for other in others:
                if alive.is_dead(other.alive):
                    alive.end_strays(other.token)
                    dead.append(other.token)
        finally:
            self._dead = dead
            self._wake()


def _say(released: list[Released]) -> None:
    for one in released:
        what = "ended in error, its attempts are used up" if one.ended else "back in the queue"
        logger.warning("workflow %d: its executor on %s vanished (attempt %d); %s", one.id, one.host, one.attempt, what)
