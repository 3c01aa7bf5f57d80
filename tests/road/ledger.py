"""What was sent to an installation, kept outside of it; and the judge, which compares it with what became of it.

A message is acknowledged or not. What is acknowledged must have exactly one row or one letter; what is not may have
one, never two: it is sent once, and nothing is sent again under its name.
"""

import json
import os
import queue
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kafka import KafkaProducer  # noqa: TID253 a client of the installation
from kafka.errors import KafkaError  # noqa: TID253

from peachctl import wire
from peachctl.files import _TEMPORARY
from tests.conftest import node, workflow

GOOD, SLOW, BAD, CYCLE = "good", "slow", "bad", "cycle"
"""Kinds of messages: done at once, asleep for up to two seconds, undecodable, and not to be run."""

MOMENT = 0.25
"""Seconds around the end of a drain in which runs are ended."""

MIX = (GOOD,) * 16 + (SLOW,) * 2 + (BAD, CYCLE)


@dataclass(frozen=True, slots=True)
class Sent:
    """origin: partition and offset, None where the broker did not acknowledge it."""

    name: str
    kind: str
    origin: tuple[int, int] | None


def message(name: str, kind: str, beats: Path, seconds: float = 0.0) -> bytes:
    """A message of that kind. beats: the file in which its service leaves its signs of life."""
    if kind == BAD:
        return f"bad {name}".encode()
    if kind == CYCLE:
        made = workflow(node("a", "Upper", [], "b"), node("b", "Upper", [], "a"), name=name)
    else:
        made = workflow(node("a", "Beats", [str(beats), f"{seconds:.2f}"]), node("b", "Upper", [], "a"), name=name)
    return encode(made)


def encode(made: dict[str, Any]) -> bytes:
    """A workflow as `workflow` of the tests makes it, on the wire."""
    return wire.encode_workflow(wire.decode_file(json.dumps(made).encode(), "x.json", wire.Limits()))


class Sender(threading.Thread):
    """Sends as many messages as it is allowed, at random moments, whether or not the broker is there."""

    def __init__(
        self, address: str, topic: str, beats: Path, chance: random.Random, mix: tuple[str, ...] = MIX, name: str = "m"
    ) -> None:
        super().__init__(name="sender", daemon=True)
        self._address = address
        self._topic = topic
        self._beats = beats
        self._chance = random.Random(chance.random())
        self._mix = mix
        self._prefix = name
        self._allowed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.ledger: list[Sent] = []

    def allow(self, count: int) -> None:
        for _ in range(count):
            self._allowed.put(True)

    @property
    def acknowledged(self) -> int:
        return sum(one.origin is not None for one in self.ledger)

    def finish(self) -> list[Sent]:
        """Waits for what is allowed; the ledger."""
        self._allowed.put(False)
        self.join()
        return self.ledger

    def run(self) -> None:
        # Never sends twice: a second copy would be a second message, and the installation would be blamed.
        producer = KafkaProducer(
            bootstrap_servers=self._address,
            acks="all",
            enable_idempotence=False,
            retries=0,
            reconnect_backoff_max_ms=500,
            request_timeout_ms=3000,
            delivery_timeout_ms=5000,
            max_block_ms=3000,
        )
        while self._allowed.get():
            name = f"{self._prefix}{len(self.ledger):06}"
            kind = self._chance.choice(self._mix)
            seconds = self._chance.uniform(0.2, 2.0) if kind == SLOW else 0.0
            origin = None
            with suppress(KafkaError):
                found = producer.send(self._topic, message(name, kind, self._beats, seconds)).get(10)
                origin = (found.partition, found.offset)
            self.ledger.append(Sent(name, kind, origin))
            time.sleep(self._chance.uniform(0, 0.04))
        with suppress(KafkaError):
            producer.close(timeout=2)


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    name: str
    status: int
    file: str
    reason: str | None = None


@dataclass(slots=True)
class Found:
    """What became of the messages. letters: names of those without a row. origins: rows by partition and offset (None:
    a letter alone), None as a whole where nothing of the kind is kept. announced: ids in the topic of events. owed:
    ids whose event is owed. scripts: files that are there and not empty. begun: ids of which a run was begun. runs:
    whether rows are run at all."""

    rows: list[Row]
    letters: list[str]
    origins: dict[tuple[int, int], int | None] | None
    announced: set[int]
    owed: set[int]
    scripts: set[str]
    begun: set[int] = field(default_factory=set)
    runs: bool = True


@dataclass(slots=True)
class Verdict:
    """Sets of what must not be; all of them are empty where all is well. without_row: events that name no row."""

    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    shared: set[int] = field(default_factory=set)
    without_script: set[str] = field(default_factory=set)
    without_event: set[str] = field(default_factory=set)
    without_row: set[int] = field(default_factory=set)
    without_origin: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    two_at_once: set[str] = field(default_factory=set)
    ended_twice: set[str] = field(default_factory=set)
    invented: set[str] = field(default_factory=set)
    not_committed: set[str] = field(default_factory=set)
    no_outcome: set[str] = field(default_factory=set)
    processes: set[str] = field(default_factory=set)
    temporaries: set[str] = field(default_factory=set)
    exits: set[str] = field(default_factory=set)

    def add(self, other: "Verdict") -> None:
        """What another judgement has found, of an earlier time."""
        for one in fields(self):
            getattr(self, one.name).update(getattr(other, one.name))

    def mistakes(self) -> dict[str, list[Any]]:
        """What is not empty, some of each."""
        found = {one.name: sorted(getattr(self, one.name), key=str) for one in fields(self)}
        return {name: [*some[:8], f"({len(some)} in all)"] for name, some in found.items() if some}


def unheard(found: Found) -> set[int]:
    """Rows that were begun and never announced. The road allows it: who filed such a row was struck, or could not reach
    the broker, before its event was sent, and an executor that looked into the queue was faster than the next ingest,
    which announces only what still waits."""
    return found.begun - found.announced - found.owed


def judge(ledger: Iterable[Sent], found: Found, *, all_heard: bool = False) -> Verdict:
    """Compares what was sent with what was found. all_heard: what `unheard` allows is a mistake too, for nobody was
    struck who files or carries events."""
    sent = {one.name: one for one in ledger}
    outcomes = Counter([row.name for row in found.rows] + found.letters)
    verdict = Verdict(
        lost={one.name for one in sent.values() if one.origin is not None and not outcomes[one.name]},
        doubled={name for name, count in outcomes.items() if count > 1},
        invented=set(outcomes) - set(sent),
        without_row=found.announced - {row.id for row in found.rows},
    )
    excused = set() if all_heard else unheard(found)
    for row in found.rows:
        kind = sent[row.name].kind if row.name in sent else GOOD
        if kind != CYCLE and row.file not in found.scripts:
            verdict.without_script.add(row.name)
        # A refused row ended as it was filed: there is nothing to run, and nothing to announce.
        if row.id in found.owed or (kind != CYCLE and row.id not in found.announced | excused):
            verdict.without_event.add(row.name)
        if not found.runs:
            continue
        if row.status in (0, 1):
            verdict.unfinished.add(row.name)
        elif row.status != (4 if kind == CYCLE else 3):
            verdict.failed.add(f"{row.name}: status {row.status}, {row.reason}")
    if found.origins is not None:
        of_rows = Counter(id for id in found.origins.values() if id is not None)
        verdict.shared = {id for id, count in of_rows.items() if count > 1}
        verdict.without_origin = {row.name for row in found.rows if row.id not in of_rows}
        names = {row.id: row.name for row in found.rows}
        for one in sent.values():  # not only somewhere, but where it was sent to
            id = None if one.origin is None else found.origins.get(one.origin)
            if id is not None and names.get(id) != one.name:
                verdict.lost.add(one.name)
    return verdict


def control_found(known: Any, events: Iterable[bytes], folder: Path) -> Found:
    """known: an open connection to the control's database."""
    cursor = known.cursor()
    cursor.execute("SELECT id, workflow_json, status, execution_file FROM queue")
    rows = [Row(id, json.loads(text)["name"], status, file) for id, text, status, file in cursor.fetchall()]
    announced = {int(one) for one in events}
    return Found(rows, [], None, announced, set(), _written(folder), runs=False)


def peach_found(known: Any, topic: str, events: Iterable[bytes], scripts: Path) -> Found:
    """known: an open connection to the database of an installation. topic: of workflows. scripts: the queue folder."""

    def ask(sql: str) -> list[Any]:
        with closing(known.cursor()) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    rows = [
        Row(id, json.loads(text)["name"], status, file, reason)
        for id, text, status, file, reason in ask(
            "SELECT id, workflow_json, status, execution_file, reason FROM queue LEFT JOIN peach_jobs ON queue_id = id"
        )
    ]
    letters = [
        bytes(body).decode(errors="replace").removeprefix("bad ")
        for (body,) in ask("SELECT body FROM peach_letters WHERE queue_id IS NULL")
    ]
    origins = {
        (part, off): id
        for name, part, off, id in ask("SELECT topic, part, off, queue_id FROM peach_origins")
        if bytes(name).decode() == topic
    }
    owed = {id for (id,) in ask("SELECT queue_id FROM peach_outbox")}
    begun = {id for (id,) in ask("SELECT DISTINCT queue_id FROM peach_runs")}
    return Found(rows, letters, origins, {int(one) for one in events}, owed, _written(scripts), begun)


def _written(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py") if path.stat().st_size}


def temporaries(*folders: Path) -> set[str]:
    """Half-written files below these folders."""
    return {str(path) for folder in folders for path in folder.rglob("*") if _TEMPORARY.fullmatch(path.name)}


def make_older(paths: Iterable[str], seconds: float) -> None:
    """As if they had been written that much earlier, so that they are too old to be somebody's."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.utime(path, (time.time() - seconds,) * 2)


def _signs(beats: Path) -> Iterable[tuple[str, str, str, int]]:
    """Workflow, run, what it says, and when (ns of the machine's clock, monotonic)."""
    if beats.exists():
        for line in beats.read_text().splitlines():
            id, run, what, at = line.split()
            yield id, run, what, int(at)


def two_at_once(beats: Path) -> tuple[set[str], int]:
    """Workflows of which two runs were alive at one time, by their own signs of life; and how many runs there were.

    A run that was killed says no end; it was alive until its last sign at least. The clock is the machine's own.
    """
    intervals: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for id, run, _what, at in _signs(beats):
        intervals[id][run].append(at)
    wrong = set()
    for id, runs in intervals.items():
        spans = sorted((min(times), max(times)) for times in runs.values())
        if any(later[0] <= earlier[1] for earlier, later in zip(spans, spans[1:], strict=False)):
            wrong.add(id)
    return wrong, sum(map(len, intervals.values()))


def ended_twice(beats: Path, ended_at: Iterable[float]) -> set[str]:
    """Workflows whose node said more than once that it was done. ended_at: monotonic seconds at which runs were ended
    from outside: a run that is ended between the last word of its node and the keeping of its result runs again."""
    moments = list(ended_at)
    ends: dict[str, list[int]] = defaultdict(list)
    for id, _run, what, at in _signs(beats):
        if what == "end":
            ends[id].append(at)
    return {
        id
        for id, times in ends.items()
        if any(not any(abs(at / 1e9 - moment) < MOMENT for moment in moments) for at in sorted(times)[:-1])
    }


def within(seconds: float, what: Callable[[], Any]) -> bool:
    """Whether it comes to be true."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
