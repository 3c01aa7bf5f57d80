"""The loops as long-lived commands: SIGTERM drains, a second one ends at once, `--once` ends when all is done."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peachctl import files, names, processes, script, script_files, wire
from peachctl.announce import Announcer
from peachctl.bus.folder import FolderBus, ScriptSeen
from peachctl.errors import PeachError, RefusedError, StateError, UnreachableError
from peachctl.execute import ExecuteLoop
from peachctl.failpoint import fail_point
from peachctl.ingest import Ingest
from peachctl.names import printable
from peachctl.notify import Notifier
from peachctl.stop import Stop, Stopped
from peachctl.store import Claim, Entry, ExecutionFileTaken, Origin, Status, Store
from peachctl.stuck import Watch
from peachctl.workflow import Workflow

if TYPE_CHECKING:
    from peachctl.bus.kafka_events import KafkaEvents

logger = logging.getLogger(__name__)

_HEARING = 20.0  # seconds

ONCE_PATIENCE = 30.0
"""Seconds for which `--once` waits for a server that is away."""

STUCK = 300.0
"""Seconds without the end of a step of ingest after which it is stuck: each call in it has a shorter time-out."""

T = TypeVar("T")


@dataclass(slots=True)
class Patience:
    """How long servers may be away: for ever, with `--once` some seconds."""

    once: bool
    since: float | None = None

    def hear(self, away: UnreachableError | None) -> None:
        """After each try. Raises `away` when it is enough."""
        if away is None:
            self.since = None
            return
        self.since = self.since or time.monotonic()
        if self.once and time.monotonic() - self.since >= ONCE_PATIENCE:
            raise away


def waited_for(make: Callable[[], T], stop: Stop, *, once: bool) -> T:
    """What `make` returns, tried again while a server is away. Raises its error when it is enough, RefusedError at
    once, and Stopped."""
    patience = Patience(once)
    said = None
    while not stop.asked:
        try:
            return make()
        except RefusedError:
            raise
        except UnreachableError as error:
            patience.hear(error)
            if said != error.message:
                logger.warning("%s; it is waited for", printable(error.message, 500))
            said = error.message
        time.sleep(0.5)
    raise Stopped


def queue_status(store: Store, running: int | None = None) -> str:
    """What systemd shows of a consumer, such as `3 running, 12 queued`."""
    try:
        queued = store.counts().get(Status.QUEUED, 0)
    except PeachError as error:
        return error.message
    return f"{queued} queued" if running is None else f"{running} running, {queued} queued"


def serve_ingest(
    ingest: Ingest,
    store: Store,
    stop: Stop,
    *,
    once: bool,
    stuck: float = STUCK,
    began: Callable[[], None] = lambda: None,
) -> None:
    """`consume ingest`: until SIGTERM, or until what was there is filed. stuck: seconds after which a step that does
    not return ends the process. began: is called once all that it needs has been reached."""
    processes.give_memory_back()
    notifier = Notifier()
    patience = Patience(once)
    well = False
    wait = 0.0 if once else min(0.5, notifier.patience)
    with Watch(stuck) as watch:
        ingest.repair()
        while not stop.asked:
            watch.beat()
            handled = ingest.step(wait)
            if not well and ingest.paused is None:
                well = True
                began()
            drained = once and not handled and ingest.drained()
            patience.hear(ingest.away)
            notifier.step(well=well, status=lambda: ingest.paused or _lagging(queue_status(store), ingest.lag()))
            if drained:
                return
            if once and not handled and ingest.away is None and ingest.paused is not None:
                raise PeachError(ingest.paused)
            wait = wait or (0.0 if handled else 0.1)
    notifier.stopping()


def _lagging(said: str, lag: int | None) -> str:
    return said if lag is None else f"{said}, lag {lag}"


class IngestThread:
    """`consume ingest` beside an executor: a thread of its own, for Kafka's polls go on while the executor is busy.

    open_ingest: opens the loop with a store and a bus of its own, in the thread, and closes them. said: is called there
    once all that it needs has been reached.
    """

    stuck = STUCK
    """Seconds after which a step that does not return ends the process."""

    def __init__(
        self,
        open_ingest: Callable[[Stop], AbstractContextManager[tuple[Ingest, Store]]],
        wake: Callable[[], None],
        said: Callable[[], None] = lambda: None,
    ) -> None:
        self._open = open_ingest
        self._said = said
        self._wake = wake
        self._stop = Stop()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self.error: BaseException | None = None
        """What ended it, other than `stop`."""
        self._watch = Watch(self.stuck)
        self._stepped = False
        self.wait = 0.5
        """Seconds for which a step waits for messages."""
        self.began = False
        self.paused: str | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        """No new batch is taken."""
        self._stop.asked += 1

    def join(self) -> None:
        """Waits for the batch in hand, but not for ever: what is not acknowledged comes again."""
        self.stop()
        self._thread.join(15.0)

    def hurry(self, patience: float) -> None:
        """Before `start`: `quiet` is to be known well within so many seconds."""
        self.wait = min(self.wait, patience / 2)
        self._watch.tick = min(self._watch.tick, patience / 4)

    @property
    def quiet(self) -> float:
        """Seconds for which it has made no step, after its first."""
        return self._watch.quiet if self._stepped and not self.over else 0.0

    def _run(self) -> None:
        try:
            with self._open(self._stop) as (ingest, _), self._watch as watch:
                ingest.repair()
                while not self._stop.asked:
                    watch.beat()
                    handled = ingest.step(self.wait)
                    self._stepped = True
                    self.paused = ingest.paused
                    if not self.began and ingest.paused is None:
                        self.began = True
                        self._said()
                    if handled:
                        self._wake()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.error = error
        self._wake()


def has_heard(events: "KafkaEvents | None", began: float) -> bool:
    """Whether an executor that began then (monotonic seconds) has heard of its broker, or has waited long enough: it
    works without, and systemd must not end it for that."""
    return events is None or events.heard_once or time.monotonic() - began > _HEARING


def serve_events(
    loop: ExecuteLoop,
    store: Store,
    stop: Stop,
    events: "KafkaEvents | None",
    ingest: IngestThread | None,
    *,
    once: bool,
) -> None:
    """`consume execute` and `consume all` on Kafka: the executor in this thread, what wakes it in threads of their own.

    An ingest that ends by itself ends the command: what runs is drained, then its error is raised. Events are hints: a
    broker that is away, or a thread that hangs, does not stop the executor.
    """
    if not stop.give(loop):
        return
    processes.give_memory_back()
    notifier = Notifier()
    patience = Patience(once)
    failure: BaseException | None = None
    began = time.monotonic()
    if ingest is not None:
        ingest.hurry(notifier.patience)
    try:
        for part in (events, ingest):
            if part is not None:
                part.start()
        while True:
            loop.step(min(1.0, notifier.patience))
            if failure is None:
                failure = _failure(loop, events, ingest, patience)
            if failure is not None and not loop.draining:
                if loop.busy:  # else it is told at once, by whoever hears of it
                    logger.warning("draining %d running, then ending: %s", loop.busy, printable(str(failure), 500))
                loop.drain()
            if stop.asked or failure is not None:
                notifier.stopping()
                if ingest is not None:
                    ingest.stop()
                if not loop.busy:
                    break
            if events is not None:
                events.tend()
            notifier.step(
                well=loop.signed_on and has_heard(events, began) and (ingest is None or ingest.began),
                # Not while all ends in any case: a batch in hand may take its time.
                alive=ingest is None or loop.draining or ingest.quiet <= notifier.patience,
                status=lambda: _events_status(loop, store, events, ingest),
            )
            if once and not loop.busy and loop.away is None:
                if loop.idle:
                    break
                if loop.paused is not None:
                    raise PeachError(loop.paused)
    finally:
        if ingest is not None:
            ingest.join()
        if events is not None:
            events.stop()
    if failure is not None:
        raise failure


def _failure(
    loop: ExecuteLoop, events: "KafkaEvents | None", ingest: IngestThread | None, patience: Patience
) -> BaseException | None:
    """What ends the command by itself."""
    if ingest is not None and ingest.over and ingest.error is not None:
        return ingest.error
    if events is not None and events.refused is not None:
        return events.refused
    try:
        patience.hear(loop.away)
    except UnreachableError as error:
        return error
    return None


def _events_status(loop: ExecuteLoop, store: Store, events: "KafkaEvents | None", ingest: IngestThread | None) -> str:
    """Such as `3 running, 12 queued, lag 0`."""
    said = loop.paused or queue_status(store, loop.busy)
    if events is not None:
        said = _lagging(said, events.lag) if events.hears else f"{said}, no events are heard"
    return f"{said}; ingest: {ingest.paused}" if ingest is not None and ingest.paused else said


def serve_announcer(announcer: Announcer, stop: Stop) -> None:
    """`services publish`: the list again and again, until SIGTERM."""
    notifier = Notifier()
    while not stop.asked:
        announcer.step()
        if announcer.refused is not None and not announcer.published:
            raise announcer.refused
        next_time = time.monotonic() + announcer.every
        while not stop.asked and time.monotonic() < next_time:
            notifier.step(well=announcer.published > 0, status=lambda: f"{announcer.published} lists published")
            time.sleep(min(0.5, notifier.patience))
    notifier.stopping()


def serve(
    loop: ExecuteLoop,
    bus: FolderBus,
    store: Store,
    stop: Stop,
    *,
    ingest: Ingest | None = None,
    scripts: "Scripts | None" = None,
    once: bool,
) -> None:
    """`consume execute`, `consume all` and `watch` embedded: steps of ingest, of the scripts folder and of execute, in
    turn."""
    if not stop.give(loop):
        return
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
        loop.lingers = not once or bool(scripts is not None and scripts.saved)
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
            return
        if once and not handled and not loop.busy:
            if loop.idle and not (scripts is not None and scripts.saved):
                return
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
        """At the start: our own scripts without a row get one; others only with `--existing`.

        Not where there was a row that somebody deleted: such a script runs again when it is saved again. Who files a
        message has its row before its script, so a name that only messages get tells that as well (but with
        `--existing`: the script may be another installation's).
        """
        left = 0
        for seen in self.bus.scripts():
            self.first[seen.name] = (seen.mtime_ns, seen.inode)
            if self.store.find(seen.name) is not None:
                continue
            of_message = names.parse_script_name(seen.name) is not None and not self.existing
            if of_message or self.store.outcome(_origin(seen.name)) is not None:
                left += 1
            else:
                self._file(seen, foreign=self.existing)
        if left:
            logger.info("%d scripts have no row any more; each is left alone until it is saved again", left)

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
        text = script_files.read_script(seen.path)
        header = script.read_header(text) if text is not None else None
        written = self.first.setdefault(seen.name, (seen.mtime_ns, seen.inode))
        return header is None or header.state == "edited" or written != (seen.mtime_ns, seen.inode)

    def _file(self, seen: ScriptSeen, *, foreign: bool) -> None:
        try:
            text = script_files.read_script(seen.path)
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
        if self.store.outcome(_origin(seen.name)) is None:
            entry = replace(entry, origin=_origin(seen.name))  # by which it is known when its row is gone
        try:
            self.store.file([entry])
            fail_point("watch:filed")
        except (ExecutionFileTaken, StateError):
            return  # somebody else has just filed it


def _origin(name: str) -> Origin:
    """Of a script that came by itself: its name, as a number, in a topic that Kafka cannot have."""
    return Origin("@scripts", 0, int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:7]))
