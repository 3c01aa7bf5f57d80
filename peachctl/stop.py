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
_IN_HAND = 10.0  # seconds for a batch of ingest, or a start, when an end is asked for: a server may hold it up


class Drains(Protocol):
    """What hears of it: the loop of an executor."""

    @property
    def busy(self) -> int:
        """How many workflows run."""
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
    and the next executor takes it up. Where there is no executor, or not yet, the first signal does the same after a
    while: what is in hand comes again.
    """

    asked: int = 0
    interrupted: bool = False
    loop: Drains | None = None

    def install(self) -> None:
        for number in _ASKING:
            signal.signal(number, self._hear)
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._see_to_it, args=(read,), name="stop", daemon=True).start()

    def give(self, loop: Drains) -> None:
        """The loop that is to hear of it, also of what was asked for while it was made."""
        self.loop = loop
        if self.asked:
            loop.drain(at_once=self.asked > 1)

    def _see_to_it(self, signals: int) -> None:
        """In a thread: the kernel's side of a handler writes the signal's number, whatever Python waits for."""
        heard: list[int] = []
        while len(heard) < 2:
            wait = _IN_HAND if heard and self.loop is None else None
            if select.select([signals], [], [], wait)[0]:
                heard += [number for number in os.read(signals, 64) if number in _ASKING]
            elif self.loop is None:
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
        if self.asked == 1 and self.loop.busy:
            logger.warning("draining %d running; again to end at once", self.loop.busy)
        self.loop.drain(at_once=self.asked > 1)
