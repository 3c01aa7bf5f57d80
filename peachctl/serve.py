"""The loops as long-lived commands: SIGTERM drains, a second one ends at once, `--once` ends when all is done."""

import hashlib
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peachctl import files, script, wire
from peachctl.bus.folder import FolderBus, ScriptSeen
from peachctl.errors import PeachError, UnreachableError
from peachctl.execute import ExecuteLoop
from peachctl.failpoint import fail_point
from peachctl.ingest import Ingest
from peachctl.names import printable
from peachctl.notify import Notifier
from peachctl.store import Claim, Entry, ExecutionFileTaken, Status, Store
from peachctl.workflow import Workflow

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Stop:
    """Signals that asked for an end: the first drains, the second ends at once."""

    asked: int = 0
    interrupted: bool = False
    loop: ExecuteLoop | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: object) -> None:
        self.asked += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.loop is None:
            return
        if self.asked == 1 and self.loop.busy:
            logger.warning("draining %d running; again to end at once", self.loop.busy)
        self.loop.drain(at_once=self.asked > 1)


def queue_status(store: Store, running: int | None = None) -> str:
    """What systemd shows of a consumer, such as `3 running, 12 queued`."""
    try:
        queued = store.counts().get(Status.QUEUED, 0)
    except PeachError as error:
        return error.message
    return f"{queued} queued" if running is None else f"{running} running, {queued} queued"


def serve_ingest(ingest: Ingest, store: Store, *, once: bool) -> bool:
    """`consume ingest`: until SIGTERM, or until what was there is filed. Returns whether it was Ctrl-C."""
    stop = Stop()
    stop.install()
    notifier = Notifier()
    ingest.repair()
    while not stop.asked:
        handled = ingest.step(0.0 if once else min(0.5, notifier.patience))
        notifier.step(well=ingest.paused is None, status=lambda: ingest.paused or queue_status(store))
        if once and not handled:
            if ingest.paused is not None:
                raise PeachError(ingest.paused)
            return False
    notifier.stopping()
    return stop.interrupted


def serve(
    loop: ExecuteLoop,
    bus: FolderBus,
    store: Store,
    *,
    ingest: Ingest | None = None,
    scripts: "Scripts | None" = None,
    once: bool,
) -> bool:
    """`consume execute`, `consume all` and `watch`: steps of ingest, of the scripts folder and of execute, in turn.

    Returns whether Ctrl-C ended it."""
    stop = Stop(loop=loop)
    stop.install()
    notifier = Notifier()
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
        loop.step(0.0 if handled else min(1.0, notifier.patience))
        if stop.asked:
            notifier.stopping()
        notifier.step(
            well=loop.signed_on and (ingest is None or ingest.paused is None),
            status=lambda: loop.paused or (ingest and ingest.paused) or queue_status(store, loop.busy),
        )
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
