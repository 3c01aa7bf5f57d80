"""Every error code of Kafka in the answers to each request that we send: for `make proof`, and some for the tests.

A real broker answers, and what stands between (tests/servers/between) changes the answer: once, or for some seconds. A
subject is one part of peachctl that goes on through all the codes of one request. Of each message that it was given
meanwhile there must be one row, an event, and an offset behind it, within `PATIENCE`; or it has stopped with an error
that `STOPS` allows, and what is started after it goes on.
"""

import contextlib
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol
from unittest import mock

from kafka import errors  # noqa: TID253 a test needs it

from peachctl import ingest as ingest_loop
from peachctl.bus import kafka as kafka_bus
from peachctl.bus import kafka_publish
from peachctl.bus.kafka_client import Settings, open_consumer, reach
from peachctl.bus.kafka_events import KafkaEvents
from peachctl.bus.kafka_send import KafkaSender
from peachctl.errors import ConfigError, PeachError, RefusedError
from peachctl.ingest import Ingest
from peachctl.store import Origin
from tests import topics
from tests.bus.test_kafka import Site
from tests.servers.between import BetweenKafka
from tests.servers.kafka import Broker
from tests.topics import Topics

UNHEARD = 32_000
"""What no broker says up to now."""

CODES = sorted({one.errno for one in vars(errors).values() if getattr(one, "errno", None)}) + [UNHEARD]

RETRIED = [one for one in CODES if issubclass(errors.for_code(one), errors.RetriableError)]
"""What kafka-python tries again by itself, for as long as it lasts."""

PATIENCE = 60.0
"""Seconds within which all must be well again, or have stopped."""

ANOTHER = 3.5
"""Seconds after which another message is sent, where all is well and the error was not met: the copy of a refused one
fell into the rest after the one before; or kafka-python's heart stands still (after 82), and the next commit tells it
that its session is over."""

LASTING = 1.0
"""Seconds for which all answers are errors, where that is not once."""

_RIGHTS = "a right that is missing is given by a person"

STOPS: dict[int, tuple[type[PeachError], str]] = {
    17: (ConfigError, "the name of the topic is none"),
    24: (ConfigError, "the name of the group is none"),
    26: (ConfigError, "the broker takes no such kafka.session_timeout"),
    29: (RefusedError, _RIGHTS),
    30: (RefusedError, _RIGHTS),
    31: (RefusedError, _RIGHTS),
    33: (RefusedError, "who we are is not accepted"),
    53: (RefusedError, _RIGHTS),
    58: (RefusedError, "who we are is not accepted"),
    65: (RefusedError, _RIGHTS),
}
"""Where waiting mends nothing: the error that a consumer may end with, and why."""

LASTS = sorted({*RETRIED, *STOPS, UNHEARD})
"""What is tried for some seconds as well: of the others each makes another client at once."""


@dataclass(frozen=True)
class Request:
    """depth: as in `BetweenKafka`, None for the innermost code."""

    name: str
    key: int
    depth: int | None = None


PRODUCE = Request("Produce", BetweenKafka.PRODUCE)
INIT_PRODUCER_ID = Request("InitProducerId", BetweenKafka.INIT_PRODUCER_ID)
FETCH = Request("Fetch", BetweenKafka.FETCH, 0)
FETCH_PARTITION = Request("Fetch, partition", BetweenKafka.FETCH, 2)
LIST_OFFSETS = Request("ListOffsets", BetweenKafka.LIST_OFFSETS)
METADATA = Request("Metadata, topic", BetweenKafka.METADATA, 1)
METADATA_PARTITION = Request("Metadata, partition", BetweenKafka.METADATA, 2)
OFFSET_COMMIT = Request("OffsetCommit", BetweenKafka.OFFSET_COMMIT)
OFFSET_FETCH = Request("OffsetFetch", BetweenKafka.OFFSET_FETCH, 1)
OFFSET_FETCH_PARTITION = Request("OffsetFetch, partition", BetweenKafka.OFFSET_FETCH, 3)
FIND_COORDINATOR = Request("FindCoordinator", BetweenKafka.FIND_COORDINATOR)
JOIN_GROUP = Request("JoinGroup", BetweenKafka.JOIN_GROUP)
SYNC_GROUP = Request("SyncGroup", BetweenKafka.SYNC_GROUP)
HEARTBEAT = Request("Heartbeat", BetweenKafka.HEARTBEAT)

_REBALANCE = (BetweenKafka.HEARTBEAT, 27)
_MOVED = (BetweenKafka.OFFSET_COMMIT, 16)
_NOT_LEADER = (BetweenKafka.FETCH, 6)
# What makes a consumer that goes on send a request that it would not send by itself.
_CAUSES = {
    JOIN_GROUP: _REBALANCE,
    SYNC_GROUP: _REBALANCE,
    OFFSET_FETCH: _REBALANCE,
    OFFSET_FETCH_PARTITION: _REBALANCE,
    LIST_OFFSETS: _REBALANCE,
    FIND_COORDINATOR: _MOVED,
    METADATA: _NOT_LEADER,
    METADATA_PARTITION: _NOT_LEADER,
}


class Subject(Protocol):
    """One part of peachctl on topics of its own. name: for people."""

    name: ClassVar[str]
    between: BetweenKafka

    def provoke(self, request: Request) -> None:
        """Lets it send that request, at once or with the next message."""
        ...

    def carry(self, met: Callable[[], bool]) -> PeachError | None:
        """Gives it one more message, and returns when `met` says that the error was met and all is well again; what it
        stopped with, after another was started. Raises Mistake."""
        ...

    def judge(self) -> list[str]:
        """What is wrong with what is there at the end."""
        ...

    def close(self) -> None: ...


class Mistake(Exception):
    """What must not be."""


class _Installation:
    """The part of a subject that is an ingest loop between a broker and a database."""

    name: ClassVar[str] = "ingest"
    bad = False  # whether its messages are none that can be read

    def __init__(self, home: Path, hub: Path, at: Topics) -> None:
        at.create_all()
        self.between = BetweenKafka(at.broker.ports["plaintext"])
        self.site = Site(home, hub, at, {"PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": self.between.address})
        self.group = at.group_ingest
        self.sent: list[str] = []
        self.loop = self._open()

    def _open(self) -> Ingest:
        return self.site.loop()

    def _restart(self) -> None:
        self.site.buses.pop().close()
        self.loop = self._open()

    def provoke(self, request: Request) -> None:
        if request in _CAUSES:
            key, code = _CAUSES[request]
            self.between.wrong[key] = [code]

    def carry(self, met: Callable[[], bool]) -> PeachError | None:
        self._send()
        stopped: PeachError | None = None
        end = time.monotonic() + PATIENCE
        another = time.monotonic() + ANOTHER
        while not (met() and self._filed()):
            if time.monotonic() > end:
                what = "not met" if self._filed() else "not filed"
                raise Mistake(f"{what} within {PATIENCE:g} s: {self.loop.paused or 'and nothing is said'}")
            if time.monotonic() > another and self._filed():
                self._send()
                another = time.monotonic() + ANOTHER
            try:
                self.loop.step(0.1)
            except PeachError as error:
                stopped = error
                self._restart()
        return stopped

    def _send(self) -> None:
        self.sent.append(f"m{len(self.sent):04d}")
        if self.bad:
            self.site.topics.send(self.site.topics.execute, self.sent[-1].encode())
        else:
            self.site.send(self.sent[-1])

    def _filed(self) -> bool:
        return self._committed() == len(self.sent) and not self.site.store.unannounced(1)

    def _committed(self) -> int | None:
        return self.site.topics.committed(self.group, self.site.topics.execute)

    def judge(self) -> list[str]:
        found = []
        names = Counter(row.name for row in self.site.store.rows())
        letters = Counter(one.body.decode() for one in self.site.store.letters())
        if (filed := letters if self.bad else names) != Counter(self.sent):
            found.append(f"sent and filed differ: {Counter(self.sent) - filed}, {filed - Counter(self.sent)}")
        heard = {one.value for one in self.site.topics.records(self.site.topics.processed)}
        ids = {b"%d" % row.id for row in self.site.store.rows()}
        if heard != ids:
            found.append(f"announced and filed differ: {heard ^ ids}")
        if self._committed() != self.site.topics.end(self.site.topics.execute):
            found.append(f"{self._committed()} is committed, and the end is another offset")
        return found

    def close(self) -> None:
        for bus in self.site.buses:
            bus.close()
        self.site.store.close()
        self.between.close()


class Consumer(_Installation):
    """Ingest that goes on."""


class Publisher(_Installation):
    """The events of ingest."""

    name = "events sent"

    def provoke(self, request: Request) -> None:
        if request == INIT_PRODUCER_ID:
            self.site.buses[-1]._publisher.close(0.0)


class Dead(Publisher):
    """The copies of what ingest refuses."""

    name = "dead letters"
    bad = True


class Start(_Installation):
    """Ingest that begins, each time in a group that has no offsets."""

    name = "start of ingest"
    opened = 0

    def _open(self) -> Ingest:
        self.opened += 1
        self.group = f"{self.site.topics.group_ingest}-{self.opened}"
        self.site.variables["PEACHCTL_KAFKA__GROUP_INGEST"] = self.group
        return super()._open()

    def provoke(self, request: Request) -> None:
        self._restart()


class Sender:
    """What `submit` sends with."""

    name: ClassVar[str] = "submit"

    def __init__(self, home: Path, hub: Path, at: Topics) -> None:
        at.create(at.execute)
        self.at = at
        self.between = BetweenKafka(at.broker.ports["plaintext"])
        self.sender = KafkaSender(Settings((self.between.address,), "PLAINTEXT"), 1 << 20, 5.0)
        self.sent: dict[bytes, Origin | None] = {}

    def provoke(self, request: Request) -> None:
        if request != PRODUCE:
            self.sender.close()

    def carry(self, met: Callable[[], bool]) -> PeachError | None:
        """What it cannot send is told, and the next one is sent: that is no end."""
        told = ""
        end = time.monotonic() + PATIENCE
        while True:
            body = b"m%04d" % len(self.sent)
            self.sent[body] = None
            try:
                self.sent[body] = self.sender.send(self.at.execute, body)
            except PeachError as error:
                told = error.message
            if met() and self.sent[body] is not None:
                return None
            if time.monotonic() > end:
                raise Mistake(f"nothing can be sent after {PATIENCE:g} s: {told}")

    def judge(self) -> list[str]:
        found = []
        stands = Counter(one.value for one in self.at.records(self.at.execute))
        places = {one.value: one.offset for one in self.at.records(self.at.execute)}
        for body, origin in self.sent.items():
            if stands[body] > 1 or (origin is not None and origin.offset != places.get(body)):
                found.append(f"{body!r} stands there {stands[body]} times, at {places.get(body)} and not at {origin}")
        return found

    def close(self) -> None:
        self.sender.close()
        self.between.close()


class Listener:
    """What wakes an executor."""

    name: ClassVar[str] = "events heard"

    def __init__(self, home: Path, hub: Path, at: Topics) -> None:
        at.create(at.processed)
        self.at = at
        self.between = BetweenKafka(at.broker.ports["plaintext"])
        self.to = Settings((self.between.address,), "PLAINTEXT")
        self.woken = self.number = 0
        self.events = self._listen()

    def _listen(self) -> KafkaEvents:
        def open_(commits: bool) -> Any:
            reach(self.to, 1.0)
            return open_consumer(self.to, self.at.group_execute if commits else None)

        made = KafkaEvents(open_, self.at.processed, self._wake, poll=0.1, probe=0.2, reply=2.0, patience=0.3)
        made.start()
        return made

    def _wake(self) -> None:
        self.woken += 1

    def provoke(self, request: Request) -> None:
        if request in _CAUSES:
            key, code = _CAUSES[request]
            self.between.wrong[key] = [code]

    def carry(self, met: Callable[[], bool]) -> PeachError | None:
        stopped = None
        end = time.monotonic() + PATIENCE
        before, self.number = self.woken, self.number + 1
        self.at.send(self.at.processed, b"%d" % self.number)
        while not (met() and self.woken > before and self.events.hears):
            if time.monotonic() > end:
                raise Mistake(f"not heard within {PATIENCE:g} s: {self.events._said or 'and nothing is said'}")
            stopped = self.events.refused or stopped
            if self.events.refused is not None or not self.events._commits:  # it must not, and asks no coordinator
                self.events.stop()
                self.events = self._listen()
            time.sleep(0.02)
        return stopped

    def judge(self) -> list[str]:
        end = time.monotonic() + 10
        while self.events.lag != 0 or self.events._said is not None:
            if time.monotonic() > end:
                return [f"it is {self.events.lag} events behind, and says {self.events._said}"]
            time.sleep(0.1)
        return []

    def close(self) -> None:
        self.events.stop()
        self.between.close()


class Beginner(Listener):
    """What wakes an executor that begins."""

    name = "start of execute"

    def provoke(self, request: Request) -> None:
        self.events.stop()
        self.events = self._listen()


PLAN: list[tuple[type[Subject], Request]] = [
    *(
        (Consumer, one)
        for one in (OFFSET_COMMIT, HEARTBEAT, JOIN_GROUP, SYNC_GROUP, FETCH, FETCH_PARTITION, FIND_COORDINATOR)
    ),
    *((Consumer, one) for one in (OFFSET_FETCH, OFFSET_FETCH_PARTITION, LIST_OFFSETS, METADATA, METADATA_PARTITION)),
    *((Start, one) for one in (METADATA, LIST_OFFSETS, OFFSET_FETCH, OFFSET_COMMIT, FIND_COORDINATOR)),
    (Publisher, PRODUCE),
    (Publisher, INIT_PRODUCER_ID),
    (Dead, PRODUCE),
    *((Sender, one) for one in (PRODUCE, INIT_PRODUCER_ID, METADATA)),
    *((Listener, one) for one in (FETCH, FETCH_PARTITION, LIST_OFFSETS, OFFSET_COMMIT, FIND_COORDINATOR, METADATA)),
    *((Beginner, one) for one in (METADATA, LIST_OFFSETS)),
]


@dataclass
class Outcome:
    """pairs: of a code and a request, once and lasting each. stopped: how often, by code."""

    pairs: int = 0
    stopped: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_what: str = ""
    mistakes: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Outcome") -> "Outcome":
        if other.slowest > self.slowest:
            self.slowest, self.slowest_what = other.slowest, other.slowest_what
        self.pairs += other.pairs
        self.stopped += other.stopped
        self.mistakes += other.mistakes
        return self

    def __str__(self) -> str:
        return (
            f"{self.pairs} pairs, {self.stopped.total()} of them stopped, the slowest {self.slowest:.1f} s"
            f" ({self.slowest_what}), {len(self.mistakes)} mistakes"
        )


class Trial(threading.Thread):
    """One subject with one request: these codes once, and those for some seconds."""

    def __init__(
        self,
        broker: Broker,
        subject: Callable[[Topics], Subject],
        request: Request,
        codes: Sequence[int],
        lasts: Sequence[int],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._make = subject
        self._request = request
        self._plan = [*((code, 0.0) for code in codes), *((code, LASTING) for code in lasts)]
        self._say = say
        self.outcome = Outcome()
        self.now = "the beginning"
        self.since = time.monotonic()

    def run(self) -> None:
        try:
            with topics.on(self._broker) as at, contextlib.closing(self._make(at)) as subject:
                self._play(subject)
        except Exception as error:  # noqa: BLE001 - it is told with the outcome
            last = traceback.format_exception(error)[-6:]
            self.mistake(f"{self.now}: {''.join(last)}")

    def mistake(self, text: str) -> None:
        self.outcome.mistakes.append(text)
        self._say(text)

    def _play(self, subject: Subject) -> None:
        what = f"{subject.name}, {self._request.name}"
        subject.carry(lambda: True)
        for code, lasting in self._plan:
            self.now, self.since = f"{what}: {code}{' for some seconds' if lasting else ''}", time.monotonic()
            try:
                stopped = self._pair(subject, code, lasting)
            except Mistake as mistake:
                self.mistake(f"{self.now}: {mistake}")
            else:
                self._note(code, stopped)
        self.now, self.since = f"{what}: the end", time.monotonic()
        subject.between.right()
        with contextlib.suppress(Mistake):
            subject.carry(lambda: True)
        for one in subject.judge():
            self.mistake(f"{what}: {one}")

    def _pair(self, subject: Subject, code: int, lasting: float) -> PeachError | None:
        between, request = subject.between, self._request
        if request.depth is not None:
            between.depth[request.key] = request.depth
        given = between.given.get(request.key, 0)
        subject.provoke(request)
        if lasting:
            between.lasting[request.key] = (code, lasting)
        else:
            # Behind what provokes it, where that is an answer to the same request.
            between.wrong.setdefault(request.key, []).append(code)
        try:
            return subject.carry(lambda: between.given.get(request.key, 0) > given and not between.lasts(request.key))
        finally:
            between.right()

    def _note(self, code: int, stopped: PeachError | None) -> None:
        took = time.monotonic() - self.since
        self.outcome.pairs += 1
        if took > self.outcome.slowest:
            self.outcome.slowest, self.outcome.slowest_what = took, self.now
        if stopped is None:
            return
        self.outcome.stopped[code] += 1
        allowed = STOPS.get(code)
        if allowed is None or not isinstance(stopped, allowed[0]):
            self.mistake(f"{self.now}: it stopped with {type(stopped).__name__}: {stopped}")


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """The rests of ingest are short, and its heartbeats are many."""

    def open_(*given: Any, **more: Any) -> Any:
        return open_consumer(*given, **more | {"heartbeat_interval_ms": 100})

    with (
        mock.patch.object(kafka_bus, "_LOOK", 0.5),
        mock.patch.object(kafka_bus, "_AGAIN", 0.3),
        mock.patch.object(kafka_bus, "open_consumer", open_),
        mock.patch.object(kafka_publish, "_REST", 0.1),
        mock.patch.object(ingest_loop, "_OWED_EVERY", 0.2),
    ):
        yield


def run(
    broker: Broker,
    home: Path,
    hub: Path,
    plan: Sequence[tuple[type[Any], Request]] = PLAN,
    codes: Sequence[int] = CODES,
    *,
    lasts: Sequence[int] = LASTS,
    at_once: int = 16,
    say: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """All of the plan, so many trials at once; what hangs is left behind, and told."""
    total = Outcome()
    with quick():
        waiting, playing = list(enumerate(plan)), list[Trial]()
        while waiting or playing:
            while waiting and len(playing) < at_once:
                number, (kind, request) = waiting.pop(0)
                folder = home / f"trial{number}"
                folder.mkdir()
                trial = Trial(broker, partial(kind, folder, hub), request, codes, lasts, say)
                trial.start()
                playing.append(trial)
            time.sleep(0.05)
            for trial in list(playing):
                hangs = time.monotonic() - trial.since > 2 * PATIENCE
                if hangs:
                    stack = traceback.format_stack(sys._current_frames()[trial.ident or 0])
                    trial.mistake(f"{trial.now}: it hangs\n{''.join(stack)}")
                if hangs or not trial.is_alive():
                    playing.remove(trial)
                    total += trial.outcome
                    say(f"{trial.now}: {trial.outcome}")
    return total
