"""The port of the database: its values and its verbs. Adapters: `sqlite` and `mysql`.

Every verb is one transaction: it happens whole or not at all. Driver errors do not pass: a database that cannot be
reached (or stays locked beyond the time-out) raises UnreachableError, one that needs `init-db` raises ConfigError.

Who may write a row: before a claim anybody, between claim and finish only the holder of the claim (row, attempt,
token), with the exception of `cancel`, `delete` and of clients of 2017 that write status 2 or delete the row; the
holder learns of it from `renew`. All times of leases are the database's, never the caller's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum, StrEnum
from typing import Any, Protocol

from peachctl.errors import PeachError


class Status(IntEnum):
    """`queue.status` (contract). JSON shows the lower-case name."""

    QUEUED = 0
    PROCESSING = 1
    CANCELLED = 2
    SUCCESS = 3
    ERROR = 4

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def ended(self) -> bool:
        return self >= Status.CANCELLED


class NodeStatus(StrEnum):
    """State of one node of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    REUSED = "reused"


class Wanted(Enum):
    """What is wanted of a run now, as `renew` says."""

    GO_ON = "go on"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: unique per message. The inbox is the topic `inbox@HOST`, partition 0; 1 and
    more where a file was written on after it had been filed."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A workflow to be filed.

    workflow_json: what the column holds. sha256: hex, of the message's bytes. hub, scheduler: what `run` was told,
    None for the configured ones. refused: a sentence; the row is then filed with status 4 at once and never runs.
    """

    user: str
    name: str
    workflow_json: str
    execution_file: str
    sha256: str
    origin: Origin | None = None
    priority: int = 1
    hub: str | None = None
    scheduler: str | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of an Entry: the row's id and script name, and whether this call made the row.

    execution_file is '' where a known row was deleted since; id is 0 as well where the message was a dead letter that
    was dropped: whoever dropped it wanted no row of it.
    """

    id: int
    execution_file: str
    new: bool


@dataclass(frozen=True, slots=True)
class Executor:
    """One start of one executor process. token: unique per start. alive: proof of life, JSON (runner.alive)."""

    token: str
    host: str
    alive: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `queue` in the order of its 11 columns, and what peachctl remembers beside it.

    name is taken from workflow_json where that still is JSON, else from original_workflow_file (unescaped).
    sending_date, finished_date: naive local time as the table has it; None where it holds the default.
    attempt: starts so far. reason: one sentence or None.
    """

    id: int
    user: str
    execution_file: str
    workflow_json: str
    status: Status
    progress: int
    original_workflow_file: str
    sending_date: datetime | None
    finished_date: datetime | None
    priority: int
    output_file: str
    name: str = ""
    attempt: int = 0
    host: str | None = None
    reason: str | None = None
    hub: str | None = None
    scheduler: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a row and to write it. resumed: an earlier attempt vanished; kept results may be used."""

    id: int
    attempt: int
    token: str
    row: Row = field(compare=False)
    resumed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class NodeState:
    """State of one node. started, finished: unix seconds or None. error: `{"type", "message", "traceback"}`."""

    id: str
    service: str
    version: int
    status: NodeStatus
    started: float | None = None
    finished: float | None = None
    error: dict[str, str] | None = None
    outputs: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """A refused message. number: 0 until filed. body: the bytes, cut at 1 MiB. received: unix seconds. sha256: hex, of
    all its bytes, where the body is cut; kept with the origin."""

    reason: str
    field: str
    byte_offset: int | None
    origin: Origin | None
    file: str | None
    size: int
    body: bytes
    received: float
    queue_id: int | None = None
    number: int = 0
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message. word: filed, refused (a row that says why) or dead (a letter and no row). queue_id: its
    row, None where there never was one. sha256: hex, of its bytes; None where not all of them are known."""

    word: str
    queue_id: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Released:
    """A row whose executor vanished: back in the queue, or ended in error (`ended`) after max_attempts."""

    id: int
    attempt: int
    ended: bool
    host: str


class Store(Protocol):
    """The verbs. See the module's docstring for what holds for all of them."""

    def file(
        self, entries: Sequence[Entry], letters: Sequence[Letter] = (), sure: Callable[[], None] = lambda: None
    ) -> list[Filed]:
        """Files all entries (status queued, or error where refused) with origin and announcement to be made, and the
        letters, in one transaction. An entry whose origin is known makes no row: the known one is returned with
        new=False. A letter whose origin is known is passed over. The sha256 of either must be the same then, else
        StateError: the topic was made anew. sure: is called when all is done but the COMMIT; what it raises undoes it.
        An execution_file that is taken by another row raises ExecutionFileTaken,
        an entry that is larger than the database takes EntryTooLarge."""
        ...

    def file_claimed(self, entry: Entry, executor: Executor, lease: float) -> Claim:
        """Files one entry and claims it in the same transaction, so that nobody else can take it in between."""
        ...

    def unannounced(self, most: int) -> list[Row]:
        """Rows whose event has not been acknowledged, oldest first. What is owed of rows that were deleted since is
        forgotten with them, so that none of them hides the ones behind it."""
        ...

    def announced(self, ids: Iterable[int]) -> None:
        """The events of these rows were acknowledged."""
        ...

    def outcome(self, origin: Origin) -> Outcome | None:
        """What became of the message of this origin (in its topic's present epoch), None where it is not known."""
        ...

    def last_offset(self, topic: str, partition: int) -> int | None:
        """The highest offset of the messages that are known of a partition (in its topic's present epoch)."""
        ...

    def began(self, topic: str) -> dict[int, int] | None:
        """Where reading of a topic began, by partition; None where that was never said. A topic that was made anew
        began at its beginnings: {}."""
        ...

    def begin(self, topic: str, at: Mapping[int, int]) -> dict[int, int]:
        """Remembers where reading of a topic begins, unless that was said before; returns what is remembered: of two
        that say it at once, both get the same."""
        ...

    def new_epoch(self, topic: str) -> int:
        """The topic was deleted and made anew: what its origins say counts no more, and its messages are new ones.
        Returns the number of the epoch (0 was the first)."""
        ...

    def adopted(self) -> bool:
        """Whether the queue table was one of 2017."""
        ...

    def join(self, executor: Executor) -> None:
        """Makes an executor known; before its first claim."""
        ...

    def leave(self, executor: Executor) -> None:
        """Forgets an executor that holds no claim."""
        ...

    def executors(self) -> list[Executor]:
        """All known ones."""
        ...

    def claim(
        self, executor: Executor, most: int, lease: float, *, only: int | None = None, per_user: int | None = None
    ) -> list[Claim]:
        """Takes up to `most` queued rows: priority (higher first), then the user with the least running, then id;
        no user beyond per_user running rows. Nothing while the queue is held. Each becomes status processing,
        progress 0, with a new attempt under a lease of `lease` seconds. A row filed by somebody else is taken too;
        rows that an adoption found unfinished are not."""
        ...

    def renew(self, executor: Executor, claims: Sequence[Claim], lease: float) -> dict[Claim, Wanted]:
        """Renews all claims and says of each what is wanted now. A lease that ran out is renewed while nobody else
        took the row."""
        ...

    def report(self, claim: Claim, progress: int | None, nodes: Sequence[NodeState]) -> bool:
        """Writes progress (0 to 100) and the given nodes (whole states; replaces each). False, and nothing written,
        when the claim no longer holds (not the lease but the row's current attempt and status decide)."""
        ...

    def finish(
        self,
        claim: Claim,
        status: Status,
        *,
        reason: str | None,
        output_file: str,
        nodes: Sequence[NodeState] = (),
        progress: int | None = None,
    ) -> bool:
        """Ends the row: status, finished_date, output_file, reason, nodes in one transaction; progress 100 on
        success, else as given (None: as it was). A row that was cancelled meanwhile stays cancelled but gets
        output_file and finished_date. False, and nothing written, when the claim no longer holds."""
        ...

    def give_back(self, claim: Claim, *, vanished: bool, max_attempts: int, reason: str) -> Released | None:
        """Ends an attempt without an end of the workflow. vanished: counts towards max_attempts (status error with
        that reason when they are used up); else (a drain) it does not count. None when the claim no longer holds."""
        ...

    def release(self, tokens: Sequence[str], max_attempts: int) -> list[Released]:
        """Gives back all claims of executors that are known to be dead, and forgets those executors."""
        ...

    def release_expired(self, max_attempts: int) -> list[Released]:
        """Gives back all claims whose lease ran out; rows in processing that have no run of ours are left alone
        unless peachctl filed or claimed them."""
        ...

    def get(self, id: int) -> Row | None: ...

    def find(self, execution_file: str) -> Row | None:
        """The row of a script."""
        ...

    def rows(self, *, user: str | None = None, status: Status | None = None, limit: int | None = None) -> list[Row]:
        """Newest first."""
        ...

    def nodes(self, id: int) -> list[NodeState]:
        """In the order in which they were first reported."""
        ...

    def cancel(self, id: int) -> Status:
        """Queued or processing becomes cancelled (finished_date is set; a run is ended by its executor). Returns
        the status before. StateError when it has ended or does not exist."""
        ...

    def retry(self, id: int, *, from_start: bool = False) -> None:
        """A row that ended in error or was cancelled (from_start: anything that ended) becomes queued; attempts
        that vanished before no longer count. from_start: the next claim is not `resumed`."""
        ...

    def delete(self, id: int) -> None:
        """Removes the row and what is remembered of it. StateError when there is none."""
        ...

    def prioritise(self, id: int, priority: int) -> None: ...

    def hold(self, held: bool) -> None:
        """Stops (or allows) new claims of all executors."""
        ...

    def held(self) -> bool: ...

    def unpacked(self, most: int) -> list[Row]:
        """Rows that ended in error without a packed output, filed or claimed by peachctl: refused by ingest, or out
        of attempts. Oldest first."""
        ...

    def attach(self, id: int, output_file: str) -> None:
        """Names the packed output of an ended row that has none; does nothing to any other."""
        ...

    def letters(self, *, bodies: bool = True) -> list[Letter]:
        """Oldest first. Without bodies each has an empty one, and none is read: together they may be gigabytes."""
        ...

    def letter(self, number: int) -> Letter | None: ...

    def drop_letters(self, numbers: Sequence[int]) -> int:
        """Their messages stay known by their origins, and are not filed when they come again."""
        ...

    def refile(self, number: int, entry: Entry) -> Filed:
        """A letter becomes the workflow that it should have been: the entry is filed (queued, announcement owed) and
        the letter is gone. The letter's origin stays, with the row; it keeps the sha256 of what the topic holds.
        Where the message has a row that was refused, that very row becomes the workflow, under its id; one that
        clients deleted is made anew under another. StateError when there is no such letter, or when its row is none
        that was refused any more. ExecutionFileTaken as in `file`."""
        ...

    def counts(self) -> dict[Status, int]:
        """Rows by status."""
        ...

    def close(self) -> None: ...


class ExecutionFileTaken(Exception):
    """The script name of an entry belongs to another row; choose another (the next microsecond)."""


class EntryTooLarge(PeachError):
    """An entry is larger than the database takes in one row. entry: which one of those that were to be filed."""

    def __init__(self, entry: Entry, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.entry = entry
