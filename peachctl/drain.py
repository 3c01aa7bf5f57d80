"""The end of an executor that was asked for: how long its runs may go on, and how long what is left is waited for."""

import time

_LEAVES = 5.0  # seconds after a drain's end for which ends that cannot be written are tried again
_WRITES = 4.0  # seconds after the last run must have ended, for all that is still to be written


class Drain:
    """seconds: for which what runs goes on. term_grace: that a run has from SIGTERM to SIGKILL.

    until: by the monotonic clock, None where it has not begun. at_once: whether nothing is waited for.
    """

    def __init__(self, seconds: float, term_grace: float) -> None:
        self._seconds = seconds
        self._term_grace = term_grace
        self._worked = 0.0  # when an output was last seen being packed
        self.until: float | None = None
        self.at_once = False

    def begin(self, *, at_once: bool) -> None:
        if self.until is None or at_once:
            self.until = time.monotonic() + (0 if at_once else self._seconds)
        self.at_once = self.at_once or at_once

    @property
    def over(self) -> bool:
        """Whether what still runs is to be ended."""
        return self.until is not None and time.monotonic() >= self.until

    @property
    def leaves(self) -> bool:
        """Whether ends that cannot be written are left to the next executor."""
        if self.until is None:
            return False
        return time.monotonic() >= self.until + (0.0 if self.at_once else _LEAVES)

    def overdue(self, working: bool) -> bool:
        """Whether it takes longer than all that it may wait for. working: whether an output is being packed, which
        takes its time."""
        until, now = self.until, time.monotonic()
        if working:
            self._worked = now  # its end is still to be written
        if until is None or working:
            return False
        last = max(self._worked, until + (1.0 if self.at_once else self._term_grace))
        return now >= last + _WRITES
