"""A whole installation, killed at random moments while messages flow: consumers, warm parents, broker, database.

Two `consume ingest` and three `consume execute` run beside a control that has the order of 2017 (`control.py`). What
dies is started again at once. At the end all is left in peace until everything has ended or a patience is over; then
`ledger.judge` compares, for the installation and for the control in the same way.

Executors write scripts that are missing, and find rows that nobody announced. So in the first fifth of the strikes
there is none, and before the first one starts, all that was filed is judged.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kafka import TopicPartition  # noqa: TID253 a client of the installation

from tests import topics
from tests.conftest import Peach
from tests.road import control, ledger
from tests.servers import databases, kafka
from tests.topics import Topics

DRAIN = 1.0
PARTITIONS = 2

ALONE = 5
"""In the first of so many parts there is no executor."""

BAG = (
    *(("execute", signal.SIGKILL),) * 6,
    *(("ingest", signal.SIGKILL),) * 6,
    *(("parent", signal.SIGKILL),) * 3,
    *(("database", signal.SIGKILL),) * 4,
    ("broker", signal.SIGKILL),
    *(("execute", signal.SIGTERM),) * 2,
    *(("ingest", signal.SIGTERM),) * 2,
    ("database", signal.SIGTERM),
    ("broker", signal.SIGTERM),
)
"""Whom to strike and how: of twenty SIGKILLs, and the SIGTERMs beside them. A random order of it again and again."""

ENVIRONMENT = {
    "PYTHONFAULTHANDLER": "1",
    "PEACHCTL_KAFKA__SESSION_TIMEOUT": "3s",
    "PEACHCTL_SERVICES__PUBLISH_EVERY": "5s",
    "PEACHCTL_EXECUTE__DRAIN": f"{DRAIN:g}s",
    "PEACHCTL_EXECUTE__SLOTS": "2",
    "PEACHCTL_EXECUTE__MAX_ATTEMPTS": "100000",
}


@dataclass
class Installation:
    """Broker, database and topics of one campaign, and the `peachctl` that uses them."""

    peach: Peach
    at: Topics
    server: dict[str, int]
    database: str
    beats: Path
    unheard: int = 0
    """Rows that were begun without an event, at the last judgement."""

    def found(self) -> ledger.Found:
        """What became of the messages, by a look into the database, the topic of events and the folder."""
        with contextlib.closing(databases.connect(self.server, self.database)) as known:
            events = [record.value for record in self.at.records(self.at.processed)]
            return ledger.peach_found(known, self.at.execute, events, self.peach.queue)

    def rows(self) -> list[tuple[object, ...]]:
        """All that a client sees of the queue."""
        return databases.execute(self.server, "SELECT * FROM queue ORDER BY id", database=self.database)

    def offsets(self) -> dict[int, tuple[int, int]]:
        """Committed offset and end of each partition."""
        kept = self.at.admin.list_group_offsets({self.at.group_ingest: None})[self.at.group_ingest]
        found = {}
        for partition in range(PARTITIONS):
            tp = TopicPartition(self.at.execute, partition)
            found[partition] = (kept[tp].offset if tp in kept else 0, self.at.end(self.at.execute, partition))
        return found

    def filed(self, sent: list[ledger.Sent]) -> bool:
        """Whether ingest has nothing left to do. Cheap, and asked while a server may be away."""
        acknowledged = sum(one.origin is not None for one in sent)
        [(origins, owed)] = databases.execute(
            self.server,
            "SELECT (SELECT count(*) FROM peach_origins), (SELECT count(*) FROM peach_outbox)",
            database=self.database,
        )
        return bool(origins >= acknowledged and not owed)

    def done(self, sent: list[ledger.Sent]) -> bool:
        """Whether nobody has anything left to do."""
        unfinished = "SELECT count(*) FROM queue WHERE status IN (0, 1)"
        return self.filed(sent) and databases.execute(self.server, unfinished, database=self.database) == [(0,)]

    def judge(self, sent: list[ledger.Sent], *, all_heard: bool = False) -> ledger.Verdict:
        """All that can be said of it while nothing runs any more. all_heard: as for `ledger.judge`."""
        found = self.found()
        verdict = ledger.judge(sent, found, all_heard=all_heard)
        self.unheard = len(ledger.unheard(found))
        verdict.two_at_once, _ = ledger.two_at_once(self.beats)
        for partition, (committed, end) in self.offsets().items():
            if committed != end:
                verdict.not_committed.add(f"partition {partition}: {committed} of {end}")
            verdict.no_outcome |= {
                f"partition {partition}: offset {offset}"
                for offset in range(committed)
                if (partition, offset) not in (found.origins or {})
            }
        ledger.within(15, lambda: not self.peach.marked())
        verdict.processes = {str(pid) for pid in self.peach.marked()}
        return verdict

    def redeliver(self) -> None:
        """All messages once more, to one that files them: the offsets set back to the beginning."""
        beginnings = {TopicPartition(self.at.execute, one): 0 for one in range(PARTITIONS)}
        assert ledger.within(30, lambda: self.at.try_to_set(self.at.group_ingest, beginnings)), "the group has members"
        self.peach("consume", "ingest", "--once", timeout=120)


@contextlib.contextmanager
def installation(peach: Peach, broker: kafka.Broker, server: dict[str, int], name: str) -> Iterator[Installation]:
    """One in a database that is there, with its schema made and its topics created."""
    with topics.on(broker) as at:
        at.create(at.execute, partitions=PARTITIONS)
        at.create(at.processed, at.services, at.dead)
        peach.env |= at.environment() | ENVIRONMENT
        peach.env["PEACHCTL_DATABASE__URL"] = f"mysql://root@127.0.0.1:{server['port']}/{name}"
        peach.inside("-q", "init-db")
        yield Installation(peach, at, server, name, peach.home / "beats")


@dataclass
class Consumer:
    """A consumer and how it is started again; at most one process of it that was not told to end."""

    kind: str
    begin: Callable[[], "subprocess.Popen[str]"]
    process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = self.begin()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        close(self.process)
        self.start()


def close(process: "subprocess.Popen[str]") -> None:
    if process.stdout:
        process.stdout.close()


def listens(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM: before that it is a Python that starts, not a consumer."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return [int(one) for tid in threads for one in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()]
    except OSError:
        return []


def warm_parents(pid: int) -> list[int]:
    """Of an executor: the process that it has started, and the one that forks runs, where that is another one, the
    first of a PID namespace."""
    outer = children(pid)[:1]
    return outer + [one for above in outer for one in children(above) if _is_first(one)]


def _is_first(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = status.partition("NSpid:")[2].split("\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


class Leaving:
    """Processes that were told to end: each must exit 0 within its drain and 15 seconds. ended_at: when (monotonic) the
    drain of each is over."""

    def __init__(self, drain: float = DRAIN) -> None:
        self._most = drain + 15
        self._drain = drain
        self._waiting: list[threading.Thread] = []
        self.wrong: set[str] = set()
        self.longest = 0.0
        self.ended_at: list[float] = []

    def terminate(self, name: str, process: "subprocess.Popen[str]") -> None:
        ledger.within(30, lambda: listens(process.pid) or process.poll() is not None)
        process.terminate()
        self.ended_at.append(time.monotonic() + self._drain)
        waiting = threading.Thread(target=self._wait, args=(name, process), daemon=True)
        waiting.start()
        self._waiting.append(waiting)

    def _wait(self, name: str, process: "subprocess.Popen[str]") -> None:
        began = time.monotonic()
        try:
            code = process.wait(self._most)
        except subprocess.TimeoutExpired:
            ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            talk = Path(f"/proc/{process.pid}/fd/2").readlink()
            process.send_signal(signal.SIGABRT)  # its stacks, by faulthandler
            code = 0
            process.wait()
            self.wrong.add(
                f"{name} ({process.pid}) did not end within {self._most:g} s after SIGTERM,"
                f" {ticks / os.sysconf('SC_CLK_TCK'):.1f} s used: {talk.read_text()[-6000:]}"
            )
        if code:
            self.wrong.add(f"{name} ({process.pid}) exited {code} after SIGTERM")
        self.longest = max(self.longest, time.monotonic() - began)
        close(process)

    def wait(self) -> None:
        for one in self._waiting:
            one.join()


class Drains:
    """SIGTERM to executors at random moments; each is replaced at once, and never more than that is struck."""

    def __init__(self, place: Installation, chance: random.Random) -> None:
        self._place = place
        self._chance = chance
        self.leaving = Leaving()

    def run(self, *, ends: int, messages: int, patience: float = 120.0) -> list[ledger.Sent]:
        """Ends that many executors while as many messages flow; what was sent, when all of it is done."""
        place, start = self._place, self._place.peach.start
        sender = ledger.Sender(place.at.broker.address(), place.at.execute, place.beats, self._chance)
        ingests = [Consumer("ingest", lambda: start("consume", "ingest")) for _ in range(2)]
        executes = [Consumer("execute", lambda: start("consume", "execute")) for _ in range(3)]
        sender.start()
        try:
            for number in range(ends):
                sender.allow(messages * (number + 1) // ends - messages * number // ends)
                time.sleep(self._chance.uniform(0, 0.6))
                one = self._chance.choice(executes)
                self.leaving.terminate(f"execute {number}", one.process)
                one.start()
            sent = sender.finish()
            ledger.within(patience, lambda: place.done(sent))
        finally:
            for one in (*ingests, *executes):
                self.leaving.terminate(one.kind, one.process)
            self.leaving.wait()
        return sent

    def judge(self, sent: list[ledger.Sent]) -> ledger.Verdict:
        """As of any installation; as nobody was killed, all rows are announced, and none runs to its end twice."""
        verdict = self._place.judge(sent, all_heard=True)
        verdict.ended_twice = ledger.ended_twice(self._place.beats, self.leaving.ended_at)
        verdict.exits = self.leaving.wrong
        return verdict


@dataclass(slots=True)
class Outcome:
    """verdict, control: of the installation and of the order of 2017. sent: messages, those acknowledged. alone: rows
    that were judged before the first executor. unheard: see `ledger.unheard`. Seconds."""

    verdict: ledger.Verdict
    control: ledger.Verdict
    sent: int
    acknowledged: int
    kills: int
    terms: int
    runs: int
    rows: int
    alone: int
    unheard: int
    redelivered: int
    seconds: float
    longest_end: float

    def __str__(self) -> str:
        return (
            f"{self.kills} SIGKILLs and {self.terms} SIGTERMs, {self.acknowledged:,} messages acknowledged,"
            f" {self.runs:,} runs: lost {len(self.verdict.lost)}, doubled {len(self.verdict.doubled)},"
            f" without script {len(self.verdict.without_script)}, without event {len(self.verdict.without_event)}"
            f" (both also of {self.alone:,} rows before the first executor started; {self.unheard:,} were begun before"
            " their event could be sent),"
            f" two runs at once {len(self.verdict.two_at_once)}, processes left {len(self.verdict.processes)};"
            f" redelivered {self.redelivered:,}: no new row; the order of 2017: lost {len(self.control.lost)},"
            f" without script {len(self.control.without_script)}, without event {len(self.control.without_event)};"
            f" {self.seconds:.0f} s"
        )


class Campaign:
    """`run` it once. kills: SIGKILLs in all. messages: in all, spread over the kills. say: is told what is done."""

    def __init__(
        self,
        peach: Peach,
        *,
        kills: int,
        messages: int,
        seed: int,
        kind: str = "mariadb",
        most_pause: float = 1.5,
        patience: float = 180.0,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._peach = peach
        self._kills = kills
        self._messages = messages
        self._chance = random.Random(seed)
        self._kind = kind
        self._most_pause = most_pause
        self._patience = patience
        self._say = say
        self._leaving = Leaving()
        self._away: threading.Thread | None = None
        self._exits: set[str] = set()
        self._struck = self._terms = self._allowed = 0
        self._bag: list[tuple[str, int]] = []
        self._early = ledger.Verdict()
        self._alone = 0

    def run(self) -> Outcome:
        broker = kafka.private()
        try:
            with databases.private(self._kind) as server, databases.database(self._kind, server.known) as name:
                self._broker, self._server = broker, server
                with installation(self._peach, broker, server.known, name) as place:
                    sent, control = self._under_kills(place)
                # The clients of before are slower to find a broker again than ours.
                with topics.on(broker) as again:
                    again.prefix = place.at.prefix
                    place.at = again
                    return self._judged(place, sent, control)
        finally:
            broker.stop()

    def _under_kills(self, place: Installation) -> tuple[list[ledger.Sent], list[ledger.Sent]]:
        self._begun = time.monotonic()
        self._control_database = name = f"{place.database}_control"
        self._scripts = self._peach.home / "control"
        self._scripts.mkdir()
        databases.execute(place.server, f"CREATE DATABASE {name}", f"USE {name}", control.TABLE)
        place.at.create("control", "control-events")
        address, beats = place.at.broker.address(), place.beats
        senders = [
            ledger.Sender(address, place.at.execute, beats, self._chance),
            ledger.Sender(address, "control", beats, self._chance, (ledger.GOOD,), "c"),
        ]
        start = self._peach.start
        self._consumers = [Consumer("ingest", lambda: start("consume", "ingest")) for _ in range(2)]
        self._consumers.append(Consumer("control", self._start_control))
        try:
            for sender in senders:
                sender.start()
            self._strike(senders, max(1, self._kills // ALONE))
            self._judge_alone(place, senders)
            # One of them runs the nodes of a workflow in its own process, one after the other.
            self._consumers += [
                Consumer("execute", lambda how=how: start("consume", "execute", PEACHCTL_EXECUTE__SCHEDULER=how))
                for how in ("processes", "processes", "sync")
            ]
            self._bag = []
            self._strike(senders, self._kills)
            sent, control_sent = [sender.finish() for sender in senders]
            self._in_peace(place, sent)
        finally:
            self._end_all()
        return sent, control_sent

    def _judge_alone(self, place: Installation, senders: list[ledger.Sender]) -> None:
        """What ingest has made of all that was sent so far, before anybody could mend it."""
        self._back()
        ledger.within(60, lambda: all(len(sender.ledger) == self._allowed for sender in senders))
        sent = list(senders[0].ledger)
        ledger.within(self._patience, lambda: self._look_after() or place.filed(sent))
        with topics.on(self._broker) as at:
            at.prefix = place.at.prefix
            found = replace(replace(place, at=at).found(), runs=False)
        self._early = ledger.judge(sent, found, all_heard=True)
        self._alone = len(found.rows)
        self._say(f"{self._alone} rows before the first executor: {self._early.mistakes() or 'all well'}")

    def _strike(self, senders: list[ledger.Sender], until: int) -> None:
        """So many SIGKILLs in all, those before counted."""
        there = {one.kind for one in self._consumers}
        here = [(who, how) for who, how in BAG if who in ("broker", "database") or who in there or "execute" in there]
        quiet = flowed = 0
        while self._struck < until:
            if not self._bag:
                self._bag = list(here)
                self._chance.shuffle(self._bag)
            who, how = self._bag.pop()
            goal = max(self._allowed, self._messages * (self._struck + 1) // self._kills)
            for sender in senders:
                sender.allow(goal - self._allowed)
            self._allowed = goal
            time.sleep(self._chance.uniform(0, self._most_pause))
            self._look_after()
            self._hit(who, how)
            # Some strikes while the broker is away; but most of them while messages flow.
            quiet = quiet + 1 if senders[0].acknowledged == flowed else 0
            if quiet >= 3:
                for sender in senders:
                    sender.allow(1)
                self._allowed += 1
                ledger.within(60, lambda at=flowed: senders[0].acknowledged > at)
            flowed = senders[0].acknowledged
            if how == signal.SIGKILL:
                self._struck += 1
            else:
                self._terms += 1
            self._say(f"{self._struck} kills, {self._terms} ends; {who}; {senders[0].acknowledged} acknowledged")

    def _hit(self, who: str, how: int) -> None:
        if who in ("broker", "database"):
            self._back()
            self._away = threading.Thread(target=self._bounce, args=(who, how), daemon=True)
            self._away.start()
            return
        kind = "execute" if who == "parent" else who
        victim = self._chance.choice([one for one in self._consumers if one.kind == kind])
        if who == "parent":
            # Of one that starts there is none yet.
            ledger.within(30, lambda: listens(victim.process.pid) and children(victim.process.pid))
            for pid in self._chance.sample(warm_parents(victim.process.pid), 1):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif how == signal.SIGTERM:
            self._leaving.terminate(kind, victim.process)
            victim.start()
        else:
            victim.kill()
            if kind == "ingest":
                time.sleep(self._chance.uniform(0, 0.2))  # at a moment of its own
                next(one for one in self._consumers if one.kind == "control").kill()

    def _bounce(self, who: str, how: int) -> None:
        if who == "broker":
            (self._broker.kill if how == signal.SIGKILL else self._broker.stop)()
            self._broker.start()
        else:
            (self._server.kill if how == signal.SIGKILL else self._server.stop)()
            self._server.start()

    def _back(self) -> None:
        """Waits for the server that was struck last."""
        if self._away is not None:
            self._away.join()
            self._away = None

    def _look_after(self) -> None:
        """Nobody ends by himself; only the control may, and is started again."""
        for one in self._consumers:
            code = one.process.poll()
            if code is not None:
                if one.kind != "control":
                    self._exits.add(f"{one.kind} ({one.process.pid}) ended by itself with {code}")
                close(one.process)
                one.start()

    def _in_peace(self, place: Installation, sent: list[ledger.Sent]) -> None:
        self._back()

        with topics.on(self._broker) as at:

            def over() -> bool:
                self._look_after()
                read = at.committed("control", "control") == at.end("control")
                return read and place.done(sent)

            ledger.within(self._patience, over)
            time.sleep(1.0)  # what the control has in hand

    def _end_all(self) -> None:
        for one in self._consumers:
            if one.kind == "control":
                one.process.kill()
                one.process.wait()
                close(one.process)
            else:
                self._leaving.terminate(one.kind, one.process)
        self._leaving.wait()

    def _start_control(self) -> "subprocess.Popen[str]":
        arguments = [self._broker.address(), "control", "control-events", str(self._server.known["port"])]
        arguments += [self._control_database, str(self._scripts)]
        log = (self._peach.home / "control.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.road.control", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        log.close()
        return process

    def _judged(self, place: Installation, sent: list[ledger.Sent], control: list[ledger.Sent]) -> Outcome:
        verdict = place.judge(sent)
        verdict.add(self._early)
        before = place.rows()
        _, runs = ledger.two_at_once(place.beats)
        # What killed processes left half-written is removed by the next one that starts, when it is old enough.
        ledger.make_older(ledger.temporaries(self._peach.data), 3600)
        place.redeliver()
        verdict.doubled |= {f"redelivered: {row}" for row in set(place.rows()) ^ set(before)}
        verdict.temporaries = ledger.temporaries(self._peach.data)
        verdict.exits = self._exits | self._leaving.wrong
        with contextlib.closing(databases.connect(place.server, self._control_database)) as known:
            events = [record.value for record in place.at.records("control-events")]
            control_verdict = ledger.judge(control, ledger.control_found(known, events, self._scripts))
        return Outcome(
            verdict,
            control_verdict,
            sent=len(sent),
            acknowledged=sum(one.origin is not None for one in sent),
            kills=self._struck,
            terms=self._terms,
            runs=runs,
            rows=len(before),
            alone=self._alone,
            unheard=place.unheard,
            redelivered=sum(end for _, end in place.offsets().values()),
            seconds=time.monotonic() - self._begun,
            longest_end=self._leaving.longest,
        )
