"""Signals that ask a long-lived command for its end: SIGTERM drains, a second one ends at once.

Light, so that it is there before what the command imports: a signal in that time is heard too.
"""

import logging
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from peachctl.errors import Exit

logger = logging.getLogger(__name__)

_ASKING = (signal.SIGTERM, signal.SIGINT)
_AT_ONCE = 3.0  # seconds that what was asked to end at once has to do so by itself
_LOOK = 0.5  # seconds between two looks at how the end goes
_IN_HAND = 10.0  # seconds for a batch of ingest, or a start, when an end is asked for: a server may hold it up


class Drains(Protocol):
    """What hears of it: the loop of an executor."""

    @property
    def busy(self) -> int:
        """How many workflows run."""
        ...

    @property
    def overdue(self) -> bool:
        """Whether it should have ended by now, and nothing that is worth the wait goes on. Asked from a thread."""
        ...

    def drain(self, *, at_once: bool = False) -> None:
        """Takes no more; ends what runs when its time is over, or at once."""
        ...


class Stopped(Exception):
    """An end was asked for before there was anything to end."""


@dataclass(slots=True)
class Stop:
    """Signals that asked for an end: the first drains, the second ends at once.

    At once also where the main thread waits for a database that does not answer: a thread hears the second signal too,
    and some seconds later ends the process as a kill would. Nothing is lost by that: the supervisor ends what runs,
    and the next executor takes it up. The first signal does the same to an executor that is overdue, whatever it waits
    for, and after a while where there is no executor, or not yet: what is in hand comes again.
    """

    asked: int = 0
    interrupted: bool = False
    loop: Drains | None = None

    def install(self) -> None:
        # The thread first: what comes as soon as there is a handler is to be seen by both.
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._see_to_it, args=(read,), name="stop", daemon=True).start()
        for number in _ASKING:
            signal.signal(number, self._hear)

    def give(self, loop: Drains) -> bool:
        """The loop that is to hear of it. False where an end was asked for while it was made: then there is nothing to
        end yet, and to begin takes its time."""
        self.loop = loop
        if self.asked:
            loop.drain(at_once=self.asked > 1)
        return not self.asked

    def _see_to_it(self, signals: int) -> None:
        """In a thread: the kernel's side of a handler writes the signal's number, whatever Python waits for."""
        heard: list[int] = []
        since = 0.0
        while len(heard) < 2:
            if select.select([signals], [], [], _LOOK if heard else None)[0]:
                since = since or time.monotonic()
                heard += [number for number in os.read(signals, 64) if number in _ASKING]
            elif self.loop.overdue if self.loop is not None else time.monotonic() - since >= _IN_HAND:
                break
        if self.loop is not None:
            self.loop.drain(at_once=True)
        if len(heard) > 1:
            time.sleep(_AT_ONCE)
        what = "what it had in hand comes again" if self.loop is None else "the next executor takes up what ran"
        logger.warning("ended without waiting any longer; %s", what)
        os._exit(Exit.INTERRUPTED if signal.SIGINT in heard else Exit.DONE)

    def _hear(self, number: int, _frame: object) -> None:
        self.asked += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.loop is None:
            return
        # First, for it may be heard in the midst of a line that is written, and then none can be.
        self.loop.drain(at_once=self.asked > 1)
        if self.asked == 1 and self.loop.busy:
            logger.warning("draining %d running; again to end at once", self.loop.busy)
