"""The ingest loop: messages become queue rows, scripts and events.

    bus.poll -> wire.decode_file -> workflow.check -> store.file -> script.render -> script_files.place
             -> bus.publish -> bus.reject -> bus.ack -> store.announced

The protocol (the database is authoritative; the bus delivers at least once; events and dead letter copies are hints):

- One batch is filed in one transaction: its rows, the origin of each, the announcements that are owed, its letters.
  A message that was filed before is known by its origin and makes nothing new, so that every step may be repeated.
- A message that cannot be decoded becomes a letter. One that can but must not run (duplicate ids, a cycle, an unknown
  service, ...) becomes a row that ended in error at once, with a packed output that says why, and a letter.
- What is acknowledged is filed, whatever became of it: a bad message never blocks the ones behind it.
- A file of the inbox may have been written on after it was filed. What it holds then is another message: filed as well,
  under the next partition number of its origin. (In a topic of Kafka another message at a known origin is something
  else: the topic was made anew, and ingest stops.)

What a kill leaves behind, and who mends it:

- before the filing: nothing but the message, which comes again;
- after it, before the scripts: rows without a script whose announcement is owed: `repair` (or a later step) places
  what is missing; an executor that claims one before renders it by itself;
- after the scripts, before the events are acknowledged: owed announcements: published again, and an executor that
  hears of a row twice finds it claimed;
- after that, before the acknowledgement: the batch comes again, its origins are known, it is acknowledged;
- after the acknowledgement, before the events are noted: they are published once more;
- a refused row without its packed output: `repair`, or any executor's sweep, packs one.

The loop pauses, with the batch in hand and nothing lost, while the disk is full, the database is away, or the service
hub is missing, unreadable or empty: the last is no reason to refuse workflows.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from peachctl import drafts, files, names, wire
from peachctl.backoff import Backoff
from peachctl.bus import Bus, Message
from peachctl.errors import MadeAnewError, PeachError, RefusedError, StateError, UnreachableError, WireError
from peachctl.failpoint import fail_point
from peachctl.hub import Hub
from peachctl.masking import mask
from peachctl.names import printable
from peachctl.store import Entry, EntryTooLarge, ExecutionFileTaken, Filed, Letter, Origin, Row, Status, Store
from peachctl.workflow import Problem, Service, Workflow, check

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Judged: TypeAlias = tuple[Entry | None, Letter | None, Workflow | None]

_BODY_KEPT = 1 << 20  # of a letter
_TOLD = 20  # problems in a reason
_TRIES = 1000
_RELAYED = 100  # rows of one step: each holds a whole workflow, and systemd waits for the end of the step
_OWED_EVERY = 5.0
_HUB_AGE = 10.0
# Problems that another look at the hub may solve.
_OF_HUB = frozenset({"unknown-service", "unknown-version", "unknown-port", "extra-connection", "extra-parameter"})


class HubMissing(PeachError):
    """The service hub is missing, unreadable or empty: nothing can be said of any workflow now."""


def entry_of(workflow: Workflow, body: bytes, name: str, priority: int = 1, origin: Origin | None = None) -> Entry:
    """The row of a decoded workflow. body: the message as it came; name: as for `wire.decode_file`. The script's name
    carries the MD5 of the Avro message, for which JSON is encoded."""
    message = wire.encode_workflow(workflow) if wire.may_be_json(name) else body
    md5 = hashlib.md5(message, usedforsecurity=False).hexdigest()
    return Entry(
        user=workflow.user,
        name=workflow.name,
        workflow_json=wire.workflow_json_text(workflow),
        execution_file=names.script_name(workflow.user, md5, time.time_ns()),
        sha256=hashlib.sha256(body).hexdigest(),
        priority=priority,
        origin=origin,
    )


def prepare_entry(body: bytes, name: str, hub: Hub, limits: wire.Limits, *, priority: int = 1) -> Entry:
    """A workflow file as it would be filed, for commands that hold one in hand. name: says by its ending whether it
    is JSON (`wire.decode_file`). Raises PeachError with all that is wrong with it, a problem a line."""
    return entry_of(_checked(body, name, hub, limits), body, name, priority)


def prepare_message(body: bytes, name: str, hub: Hub, limits: wire.Limits) -> bytes:
    """A workflow file as the message that it becomes on Kafka; else as `prepare_entry`."""
    workflow = _checked(body, name, hub, limits)
    return wire.encode_workflow(workflow) if wire.may_be_json(name) else body


def _checked(body: bytes, name: str, hub: Hub, limits: wire.Limits) -> Workflow:
    known = known_services(hub)
    try:
        workflow = wire.decode_file(body, name, limits)
    except WireError as error:
        raise PeachError(mask(f"{printable(name)}: {error.message}"), error.hint) from error
    problems = check(workflow, known)
    if problems:
        lines = [f"{problem.where}: {problem.message}" for problem in problems]
        raise PeachError(mask("\n".join(f"{printable(name)}: {line}" for line in lines)))
    return workflow


def unique_names(entries: Sequence[Entry], act: Callable[[Sequence[Entry]], T]) -> T:
    """Does `act` with the entries; where a script name is taken (a clock set back, equal messages at once), again
    with names of later microseconds. `act` must be one transaction that raises ExecutionFileTaken."""
    differ = len({entry.execution_file for entry in entries}) == len(entries)
    for attempt in range(_TRIES):
        later = attempt * len(entries)
        try:
            if differ and not attempt:
                return act(entries)
            return act([_later(entry, later + index) for index, entry in enumerate(entries)])
        except ExecutionFileTaken:
            continue
    raise PeachError(f"no free script name was found in {_TRIES} tries")


def unique_name(entry: Entry, act: Callable[[Entry], T]) -> T:
    """`unique_names` for one entry."""
    return unique_names([entry], lambda entries: act(entries[0]))


def _later(entry: Entry, micros: int) -> Entry:
    if micros == 0:
        return entry
    stem, seconds, fraction = entry.execution_file.removesuffix(".py").rsplit("_", 2)
    micros += int(seconds) * 1_000_000 + int(fraction)
    return replace(entry, execution_file=f"{stem}_{micros // 1_000_000}_{micros % 1_000_000:06d}.py")


def file_entries(store: Store, entries: Sequence[Entry], queue_folder: Path) -> list[Filed]:
    """Files all entries or none, and places their scripts (for `submit` into an embedded installation, where the
    script is the event). Raises PeachError; rows whose script could not be placed are owed and repaired by `Ingest`."""
    filed = unique_names(entries, store.file)
    fail_point("ingest:submitted")
    place_scripts(store, filed, queue_folder)
    return filed


def place_scripts(store: Store, filed: Sequence[Filed], queue_folder: Path) -> None:
    """Places the scripts of rows that were filed just now: in an embedded installation they are the events. Raises
    PeachError; what could not be placed is owed, and repaired by `Ingest`."""
    for one in filed:
        row = store.get(one.id)
        if row is not None and row.status is Status.QUEUED:
            drafts.place(queue_folder, row.execution_file, row.workflow_json)
    store.announced([one.id for one in filed])
    fail_point("ingest:submitted-announced")


def known_services(hub: Hub) -> dict[str, dict[int, Service]]:
    """The services to check against. Raises HubMissing where there are none."""
    known = hub.by_name
    if not known:
        raise HubMissing(f"the service hub {hub.folder} holds no service", "set folders.hub")
    return known


def _place_of(origin: Origin | None) -> str:
    """As Kafka's own tools name a record's place, with its topic first."""
    return "a message" if origin is None else f"{origin.topic}-{origin.partition}@{origin.offset}"


class Ingest:
    """The loop over one store and one bus. `repair` once, then `step` again and again.

    queue_folder, workflow_temp, download_files: where scripts and the logs of refused workflows go. load_hub: finds
    the services; called again when it is older than some seconds, and once before a batch is refused for its services.
    free_space: bytes; with less nothing is taken. most: messages of one batch. on_step: is told when a batch is done
    (tests wait on it).
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        queue_folder: Path,
        workflow_temp: Path,
        download_files: Path,
        load_hub: Callable[[], Hub],
        limits: wire.Limits,
        free_space: int = 0,
        most: int = 500,
        on_step: Callable[[int], None] = lambda _handled: None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._queue_folder = queue_folder
        self._workflow_temp = workflow_temp
        self._download_files = download_files
        self._load_hub = load_hub
        self._limits = limits
        self._free_space = free_space
        self._most = most
        self._on_step = on_step
        self._services: dict[str, dict[int, Service]] = {}
        self._loaded = -_HUB_AGE
        self._polled = 0.0
        self._hand: list[Message] = []
        self._handled = 0  # messages that were acknowledged, of a step that did not come to its end
        self._owed = self._more = True
        self._look_at = 0.0
        self._room = Backoff()
        self._clean_at: float | None = None  # what a kill left just before the start is too young then
        self.paused: str | None = None
        """Why nothing is taken at the moment, None while all is well."""
        self.away: UnreachableError | None = None
        """The error of the database or the broker where that is the reason."""

    def repair(self) -> None:
        """Mends what a killed process left: temporary files, scripts and events that are owed, refusals not packed.

        What cannot be done now is done by later steps. Raises RefusedError.
        """
        self._clean()
        self._clean_at = time.monotonic() + files.STALE + 1
        try:
            for row in self._store.unpacked(_RELAYED):
                self._pack_refusal(row)
            self._relay()
        except RefusedError:
            raise
        except (UnreachableError, files.FilesError) as error:
            self._pause(error)

    def _clean(self) -> None:
        files.clean_temporaries(self._queue_folder)
        fail_point("ingest:cleaned")
        files.clean_temporaries(self._download_files)
        files.clean_put_aside(self._workflow_temp)
        fail_point("ingest:cleaned-downloads")

    def step(self, timeout: float) -> int:
        """Takes and handles one batch, waiting at most `timeout` seconds for it; returns how many messages it had.

        Returns 0 while paused, after some of that time. Raises MadeAnewError where a known origin holds another message
        (nothing of the batch is acknowledged), RefusedError, and ConfigError; never because of what a message holds.
        """
        if not self._room.due:
            time.sleep(min(timeout, 1.0, self._room.left))
            if not self._room.due:
                return 0
        if self._clean_at is not None and time.monotonic() >= self._clean_at:
            self._clean_at = None
            self._clean()
        try:
            self._look_out()
            if not self._hand:
                self._hand = self._bus.poll(0.0 if self._more else timeout, self._most)
                fail_point("ingest:polled")
                self._polled = time.monotonic()
            # Others owe events as well: `dlq retry` files a row and leaves the rest to us.
            if self._hand or self._owed or time.monotonic() >= self._look_at:
                self._handle()
        except RefusedError:
            raise
        except (UnreachableError, files.FilesError, HubMissing) as error:
            self._pause(error)
            self._bus.rest()
            if isinstance(error, files.DiskFull):
                self._room.later()
            time.sleep(min(timeout, 1.0))
            return 0
        if self.paused is not None:
            self._room.over()
            logger.info("going on")
            self.paused = self.away = None
        handled, self._handled = self._handled, 0
        if handled:
            self._on_step(handled)
        return handled

    def drained(self) -> bool:
        """Whether all that was there when the bus was opened is filed, and what was owed was relayed as far as that
        goes now; asked after a step that had no messages."""
        if self.paused is not None or self._hand or self._more:
            return False
        try:
            return self._bus.drained()
        except UnreachableError as error:
            self._pause(error)
            return False

    def lag(self) -> int | None:
        """Messages that wait in the transport; None where it does not say."""
        return self._bus.lag()

    def _look_out(self) -> None:
        """Raises what stands against taking messages now."""
        if time.monotonic() - self._loaded > _HUB_AGE:
            self._reload_hub()
        low = files.too_little_space(self._queue_folder, self._free_space)
        if low is not None:
            raise files.DiskFull(f"{low}: nothing is ingested")

    def _reload_hub(self) -> None:
        self._loaded = -_HUB_AGE
        try:
            hub = self._load_hub()
        except PeachError as error:
            raise HubMissing(f"{error.message}: nothing is ingested", error.hint) from error
        self._services = known_services(hub)
        self._loaded = time.monotonic()

    def _handle(self) -> None:
        """The batch in hand, then what else is owed."""
        others = self._owed or self._more or time.monotonic() >= self._look_at
        if self._hand:
            self._owed = True
            if self.paused is not None:
                self._bus.vouch()  # a moment ago the broker may have been silent: no transaction waits for it again
            messages = [message if message.file is None else self._as_it_is_now(message) for message in self._hand]
            judged = [self._judge(message) for message in messages]
            filed, waiting, settled, taken = self._file_all(messages, judged)
            told = self._publish(waiting)
            unheard = len(told) < len(waiting)
            again = not all(one.new for one in filed)
            if again and not unheard:
                # Most likely after a kill: scripts and events of it may be owed.
                self._announced([*told, *settled])
                self._relay()
                told = settled = []
            self._refuse(messages, judged, filed, taken)
            self._bus.ack(messages)
            fail_point("ingest:acked")
            # The executors have heard by now, and are faster while we ask nothing of the database.
            self._handled += len(self._hand)
            self._hand = []
            self._announced([*told, *settled])
            if again or unheard:
                return
            self._owed = others
        if others:
            self._relay()

    def _file_all(
        self, messages: Sequence[Message], judged: list[_Judged]
    ) -> tuple[list[Filed], list[int], list[int], set[Origin]]:
        """Files a batch and places its scripts. Returns what was filed, the new rows that wait for their event, those
        that get none, and the origins of `_taken`."""
        taken = self._taken(judged)
        # What was decoded a moment ago is not read again: that takes as long as all else.
        given = [
            (entry, workflow) if entry is not None and workflow is not None else None for entry, _, workflow in judged
        ]
        with drafts.Drafts(self._queue_folder, given) as scripts:
            filed = self._file(messages, judged)
            self._say(judged, filed, taken)
            waiting, settled = [], []
            ids = iter(filed)
            for index, (entry, _, _) in enumerate(judged):
                if entry is None or not (one := next(ids)).new:
                    continue
                if entry.refused is not None:
                    settled.append(one.id)
                    continue
                self._script(one.id, partial(scripts.place, index, one.execution_file))
                waiting.append(one.id)
        return filed, waiting, settled, taken

    def _refuse(
        self, messages: Sequence[Message], judged: Sequence[_Judged], filed: Sequence[Filed], taken: Collection[Origin]
    ) -> None:
        """What says to others why messages of a batch were refused."""
        entries = [entry for entry, _, _ in judged if entry is not None]
        for entry, one in zip(entries, filed, strict=True):
            refused = entry.refused is not None and entry.origin not in taken
            row = self._store.get(one.id) if refused else None
            if row is not None:
                self._pack_refusal(row)
        for message, (_, letter, _) in zip(messages, judged, strict=True):
            if letter is not None and message.origin not in taken:
                self._bus.reject(message, letter.reason, field=letter.field, byte_offset=letter.byte_offset)
                fail_point("ingest:rejected")

    def _taken(self, judged: Sequence[_Judged]) -> set[Origin]:
        """Of the messages that would be refused now, those that were taken before: they came again, and a service was
        removed since. Nothing is said against them; what is known at their place is compared as ever."""
        origins = [letter.origin for _, letter, _ in judged if letter is not None and letter.origin is not None]
        outcomes = [(origin, self._store.outcome(origin)) for origin in origins]
        return {origin for origin, known in outcomes if known is not None and known.word == "filed"}

    def _file(self, messages: Sequence[Message], judged: list[_Judged]) -> list[Filed]:
        """Files what was judged. What the database does not take becomes a letter, in `judged` as well."""
        while True:
            entries = [entry for entry, _, _ in judged if entry is not None]
            letters = [letter for _, letter, _ in judged if letter is not None]
            try:
                filed = unique_names(
                    entries,
                    lambda named: self._store.file(named, letters, sure=self._bus.vouch),  # noqa: B023
                )
                fail_point("ingest:filed")
                return filed
            except EntryTooLarge as error:
                index = next(index for index, message in enumerate(messages) if message.origin == error.entry.origin)
                letter = self._letter(messages[index], "too-large", error.message, "", None)
                judged[index] = (None, letter, None)
            except StateError as error:
                raise MadeAnewError(error.message, error.hint) from error

    def _as_it_is_now(self, message: Message) -> Message:
        """The message of a file, with an origin of its own where another content was filed from there."""
        origin, sha256 = message.origin, hashlib.sha256(message.body).hexdigest()
        while (known := self._store.outcome(origin)) is not None and known.sha256 not in (None, sha256):
            origin = replace(origin, partition=origin.partition + 1)
        return replace(message, origin=origin)

    def _judge(self, message: Message) -> _Judged:
        """What is filed of a message: an entry, a letter, or both (a refused workflow); and the workflow in it."""
        try:
            return self._judge_body(message)
        except PeachError:
            raise
        except Exception as error:  # a bug of ours that one message finds must not block the others
            logger.exception("a message could not be read; this is a mistake in peachctl")
            return None, self._letter(message, "internal", f"{type(error).__name__} while it was read", "", None), None

    def _judge_body(self, message: Message) -> _Judged:
        if message.size is not None:
            text = f"message of {message.size} bytes, the limit is {len(message.body) - 1}"
            return None, self._letter(message, "too-large", text, "", None), None
        try:
            workflow = wire.decode_file(message.body, message.file or "", self._limits)
        except WireError as error:
            return None, self._letter(message, "malformed", error.message, error.field, error.offset), None
        entry = entry_of(workflow, message.body, message.file or "", message.priority, message.origin)
        problems = self._problems(workflow)
        if not problems:
            return entry, None, workflow
        sentence = mask("; ".join(problem.message for problem in problems[:_TOLD]))
        if len(problems) > _TOLD:
            sentence += f"; and {len(problems) - _TOLD} more"
        letter = self._letter(message, problems[0].code, sentence, problems[0].where, None)
        return replace(entry, refused=sentence), letter, None

    def _problems(self, workflow: Workflow) -> list[Problem]:
        problems = check(workflow, self._services)
        if self._loaded < self._polled and any(problem.code in _OF_HUB for problem in problems):
            # Perhaps the service was installed a moment ago. Looked at once for a batch: a hub may be large.
            self._reload_hub()
            problems = check(workflow, self._services)
        return problems

    def _letter(self, message: Message, code: str, text: str, field: str, offset: int | None) -> Letter:
        return Letter(
            reason=mask(f"{code}: {text}"),
            field=field,
            byte_offset=offset,
            origin=message.origin,
            file=message.file,
            size=len(message.body) if message.size is None else message.size,
            body=message.body[:_BODY_KEPT],
            received=time.time(),
            sha256=message.sha256 if message.size is not None else hashlib.sha256(message.body).hexdigest(),
        )

    def _say(self, judged: Sequence[_Judged], filed: Sequence[Filed], taken: Collection[Origin]) -> None:
        ids = iter(filed)
        verbose = logger.isEnabledFor(logging.INFO)
        for entry, letter, _ in judged:
            one = next(ids) if entry is not None else None
            if letter is not None and letter.origin in taken:
                continue
            if letter is not None:
                where = letter.file if letter.file is not None else _place_of(letter.origin)
                logger.warning("refused %s: %s", printable(where), printable(letter.reason, 500))
            elif verbose and one is not None and one.new and entry is not None:
                logger.info("workflow %d: %s of %s", one.id, printable(entry.name), printable(entry.user))

    def _pack_refusal(self, row: Row) -> None:
        """The log that says why a row was refused. What can't be packed now is packed by an executor's sweep."""
        if row.output_file or row.status is not Status.ERROR:
            return
        try:
            reason = row.reason or "no reason is known"
            name = files.write_refusal(
                self._workflow_temp, self._download_files, row.id, row.attempt, reason, row.execution_file
            )
            fail_point("ingest:packed")
        except files.FilesError as error:
            logger.warning("%s", printable(error.message, 500))
            return
        self._store.attach(row.id, name)
        fail_point("ingest:attached")
        now = self._store.get(row.id)
        if now is None or now.output_file != name:
            # That sweep was faster, or the row was deleted.
            with suppress(OSError):
                (self._download_files / name).unlink()

    def _relay(self) -> None:
        """Scripts and events of rows for which they are owed, some at a time: of processes that died, and of letters
        that were tried again."""
        self._owed = True
        self._more = False
        rows = self._store.unannounced(_RELAYED)
        waiting, settled = [], []
        for row in rows:
            if row.status is not Status.QUEUED:
                settled.append(row.id)
                continue
            waiting.append(row.id)
            self._script(row.id, partial(drafts.place, self._queue_folder, row.execution_file, row.workflow_json))
        told = self._publish(waiting)
        self._announced([*settled, *told])
        if len(told) == len(waiting):
            self._owed = self._more = len(rows) == _RELAYED
            self._look_at = time.monotonic() + _OWED_EVERY

    def _script(self, id: int, place: Callable[[], None]) -> None:
        try:
            place()
        except WireError as error:
            logger.warning("workflow %d: no script can be made of its row: %s", id, mask(error.message))

    def _publish(self, waiting: Sequence[int]) -> list[int]:
        """Those whose events were acknowledged."""
        acknowledged = self._bus.publish(waiting) if waiting else []
        fail_point("ingest:published")
        return acknowledged

    def _announced(self, ids: Sequence[int]) -> None:
        """These rows owe no event any more."""
        if ids:
            self._store.announced(ids)
            fail_point("ingest:announced")

    def _pause(self, error: PeachError) -> None:
        """Says once why nothing is taken."""
        self.away = error if isinstance(error, UnreachableError) else None
        if self.paused != error.message:
            logger.warning("%s", printable(mask(error.message), 500))
            self.paused = error.message
