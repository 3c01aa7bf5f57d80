"""The loops as long-lived commands: SIGTERM drains, a second one ends at once, `--once` ends when all is done."""

import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peachctl import files, script, wire
from peachctl.bus.folder import FolderBus, ScriptSeen
from peachctl.errors import Exit, PeachError, UnreachableError
from peachctl.execute import ExecuteLoop
from peachctl.failpoint import fail_point
from peachctl.ingest import Ingest
from peachctl.names import printable
from peachctl.store import Claim, Entry, ExecutionFileTaken, Status, Store
from peachctl.workflow import Workflow

logger = logging.getLogger(__name__)

_ASKING = (signal.SIGTERM, signal.SIGINT)
_AT_ONCE = 3.0  # seconds that what was asked to end at once has to do so by itself


@dataclass(slots=True)
class Stop:
    """Signals that asked for an end: the first drains, the second ends at once.

    At once also where the main thread waits for a database that does not answer: a thread hears the second signal too,
    and some seconds later ends the process as a kill would. Nothing is lost by that: the supervisor ends what runs,
    and the next executor takes it up.
    """

    asked: int = 0
    interrupted: bool = False
    loop: ExecuteLoop | None = None

    def install(self) -> None:
        for number in _ASKING:
            signal.signal(number, self._hear)
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._see_to_it, args=(read,), name="stop", daemon=True).start()

    def _see_to_it(self, signals: int) -> None:
        """In a thread: the kernel's side of a handler writes the signal's number, whatever Python waits for."""
        heard: list[int] = []
        while len(heard) < 2:
            heard += [number for number in os.read(signals, 64) if number in _ASKING]
        if self.loop is not None:
            self.loop.drain(at_once=True)
        time.sleep(_AT_ONCE)
        logger.warning("ended without waiting any longer; the next executor takes up what ran")
        os._exit(Exit.INTERRUPTED if signal.SIGINT in heard else Exit.DONE)

    def _hear(self, number: int, _frame: object) -> None:
        self.asked += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.loop is None:
            return
        if self.asked == 1 and self.loop.busy:
            logger.warning("draining %d running; again to end at once", self.loop.busy)
        self.loop.drain(at_once=self.asked > 1)


def serve_ingest(ingest: Ingest, *, once: bool) -> bool:
    """`consume ingest`: until SIGTERM, or until what was there is filed. Returns whether it was Ctrl-C."""
    stop = Stop()
    stop.install()
    ingest.repair()
    while not stop.asked:
        handled = ingest.step(0.0 if once else 0.5)
        if once and not handled:
            if ingest.paused is not None:
                raise PeachError(ingest.paused)
            return False
    return stop.interrupted


def serve(
    loop: ExecuteLoop, bus: FolderBus, *, ingest: Ingest | None = None, scripts: "Scripts | None" = None, once: bool
) -> bool:
    """`consume execute`, `consume all` and `watch`: steps of ingest, of the scripts folder and of execute, in turn.

    Returns whether Ctrl-C ended it."""
    stop = Stop(loop=loop)
    stop.install()
    loop.watch_fd(bus.fileno(), loop.poke)
    if ingest is not None:
        ingest.repair()
    if scripts is not None:
        scripts.look_around()
    while True:
        bus.clear()
        handled = ingest.step(0.0) if ingest is not None and not stop.asked else 0
        if scripts is not None and not stop.asked:
            scripts.step()
        if handled:
            loop.poke()
        loop.step(0.0 if handled else 1.0)
        if stop.asked and not loop.busy:
            return stop.interrupted
        if once and not handled and not loop.busy:
            if loop.idle and not (scripts is not None and scripts.saved):
                return False
            if loop.paused is not None:
                raise PeachError(loop.paused)


@dataclass(slots=True)
class Scripts:
    """The queue folder as `watch` sees it: scripts that appear or are saved again run, one without a row gets one.

    ran: what was run last of each script (modification time in ns, inode), which tells a script that was saved again
    from the late notice of one that we placed ourselves.
    """

    store: Store
    bus: FolderBus
    queue: Path
    user: str
    existing: bool = False
    ran: dict[str, tuple[int, int]] = field(default_factory=dict)
    saved: dict[str, ScriptSeen] = field(default_factory=dict)
    first: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look_around(self) -> None:
        """At the start: our own scripts without a row get one; others only with `--existing`."""
        for seen in self.bus.scripts():
            self.first[seen.name] = (seen.mtime_ns, seen.inode)
            if self.store.find(seen.name) is None:
                self._file(seen, foreign=self.existing)

    def started(self, claim: Claim, event: Mapping[str, Any]) -> None:
        """Observer of the execute loop."""
        if event.get("event") != "started":
            return
        try:
            status = (self.queue / claim.row.execution_file).stat()
        except OSError:
            return
        self.ran[claim.row.execution_file] = (status.st_mtime_ns, status.st_ino)

    def step(self) -> None:
        """Takes in what appeared or was saved since the last call."""
        for seen in self.bus.changed():
            self.saved[seen.name] = seen
        for name, seen in list(self.saved.items()):
            try:
                if self._settle(seen):
                    del self.saved[name]
            except UnreachableError as error:
                logger.warning("%s: %s", printable(name), error.message)
                return  # looked at again with the next step
            except PeachError as error:
                logger.warning("%s: %s", printable(name), error.message)
                del self.saved[name]

    def _settle(self, seen: ScriptSeen) -> bool:
        """Does what a saved script asks for; False where that must wait."""
        row = self.store.find(seen.name)
        if row is None:
            self._file(seen, foreign=True)
        elif row.status is Status.PROCESSING:
            return False  # looked at again when it has ended
        elif row.status.ended and self._is_new(seen):
            logger.info("%s was saved: workflow %d runs again from the start", printable(seen.name), row.id)
            self.store.retry(row.id, from_start=True)
            fail_point("watch:retried")
        return True

    def _is_new(self, seen: ScriptSeen) -> bool:
        """Whether a person saved it. One that this process never ran, and that is as peachctl wrote it, was placed by
        another process (`run`, `submit`), which has seen to it."""
        if seen.name in self.ran:
            return self.ran[seen.name] != (seen.mtime_ns, seen.inode)
        text = files.read_script(seen.path)
        header = script.read_header(text) if text is not None else None
        written = self.first.setdefault(seen.name, (seen.mtime_ns, seen.inode))
        return header is None or header.state == "edited" or written != (seen.mtime_ns, seen.inode)

    def _file(self, seen: ScriptSeen, *, foreign: bool) -> None:
        try:
            text = files.read_script(seen.path)
        except files.FilesError as error:
            logger.warning("%s", error.message)
            return
        header = script.read_header(text) if text is not None else None
        if text is None or (header is None and not foreign):
            return
        if header is not None and header.state == "torn":
            logger.warning("%s is cut off and has no row; it is left alone", printable(seen.name))
            return
        if not seen.name.isprintable():
            logger.warning("%s: a script with such a name is not run", printable(seen.name))
            return
        if len(seen.name) > 255:
            logger.warning("%s: its name is too long for a row", printable(seen.name))
            return
        name = header.workflow if header is not None else seen.name
        user = header.user if header is not None else self.user
        entry = Entry(
            user=user,
            name=name,
            workflow_json=wire.workflow_json_text(Workflow(name, user, ())),
            execution_file=seen.name,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
        )
        try:
            self.store.file([entry])
            fail_point("watch:filed")
        except ExecutionFileTaken:
            return  # somebody else has just filed it
