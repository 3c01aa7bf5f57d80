"""Ends a process whose loop does not come round any more, with the stacks of its threads; systemd starts another one.

There is one known cause: after some errors a `poll` of kafka-python never returns. Where there is no systemd to hold
`WatchdogSec`, nobody else would notice.
"""

import faulthandler
import os
import threading
import time
from types import TracebackType

STATUS = 70
"""EX_SOFTWARE: a mistake inside, not one of the user's."""


class Watch:
    """seconds: without a `beat` for so long, the process ends with `STATUS`. A context manager."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.tick = min(1.0, seconds / 4)
        """Seconds between two looks."""
        self._over = threading.Event()
        self._beaten = True
        self.quiet = 0.0
        """Seconds for which the loop has not come round, as far as was last looked."""
        self._thread = threading.Thread(target=self._look, name="stuck", daemon=True)

    def beat(self) -> None:
        """The loop has come round."""
        self._beaten = True

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self.tick):
            now = time.monotonic()
            # A process that was stopped (SIGSTOP, a frozen machine) was not stuck in that time.
            self.quiet = 0.0 if self._beaten else self.quiet + min(now - before, 2 * self.tick)
            self._beaten, before = False, now
            if self.quiet > self._seconds:
                os.write(2, b"peachctl: nothing has moved for %d s; ending, these are the stacks:\n" % self._seconds)
                faulthandler.dump_traceback(2, all_threads=True)
                os._exit(STATUS)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
