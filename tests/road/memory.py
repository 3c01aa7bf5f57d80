"""What `consume ingest` and `consume execute` hold in memory, by the kernel's own count, while messages flow.

When idle, PSS: what a process has for itself, and its share of what it has with others. PSS says little about growth:
it falls while a fork shares the pages, and rises when somebody who shared the interpreter's file ends. So the slope
is that of the anonymous pages, which are the process's own, shared for the moment or not.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Peach, node, workflow
from tests.road import ledger
from tests.road.campaign import children, installation
from tests.runner.rig import waits
from tests.servers import databases, kafka

IDLE = 60.0
"""MB of one consumer that has nothing to do, its warm parent apart."""

TOGETHER = 100.0
"""MB of an executor with its warm parent."""

STEEPEST = 100.0
"""kB for each 1,000 messages, by a fit over the second half, that still count as flat: 5 MB in 50,000."""

SLOTS = 4
"""Workflows at once: so many that the processors never wait for one."""

WAITING = 1000
"""Messages that are sent and not done, at most."""

STALLED = 120.0
"""Seconds without an end after which it is given up."""


def mapped(pids: list[int]) -> dict[str, float]:
    """Megabytes of these processes together: `Pss`, `Rss`, `Anonymous`, and what else `smaps_rollup` has."""
    found: dict[str, float] = defaultdict(float)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, _ = line.split()
            found[name.removesuffix(":")] += int(size) / 1000
    return found


def descriptors(pids: list[int]) -> int:
    """Open files and sockets of these processes."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def family(pid: int) -> list[int]:
    """All processes below this one, but for those that wait for a run: each becomes one."""
    return [one for child in children(pid) if not waits(child) for one in (child, *family(child))]


@dataclass
class Idle:
    """A consumer with nothing to do. rss: what PSS would be if nobody else on the machine ran Python, at most."""

    pss: float
    rss: float
    open: int


@dataclass
class Series:
    """A consumer's messages handled and megabytes (anonymous) then; and what it is before and after."""

    name: str
    pids: list[int]
    most_idle: float
    points: list[tuple[int, float]] = field(default_factory=list)
    before: Idle = field(init=False)
    after: Idle = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.idle()

    def idle(self) -> Idle:
        held = mapped(self.pids)
        return Idle(held["Pss"], held["Rss"], descriptors(self.pids))

    def look(self, done: int) -> float:
        self.points.append((done, mapped(self.pids)["Anonymous"]))
        return self.points[-1][1]

    @property
    def settled(self) -> list[tuple[int, float]]:
        """The second half. In the first 3,000 runs an executor grows by 2 MB, and no more: CPython's lists of free
        tuples fill, its cache of looked-up names does, and its table of interned strings is made anew, of twice the
        size."""
        return self.points[len(self.points) // 2 :]

    @property
    def slope(self) -> float:
        """kB for each 1,000 messages, by least squares."""
        x = [at for at, _ in self.settled]
        y = [held for _, held in self.settled]
        middle, level = sum(x) / len(x), sum(y) / len(y)
        spread = sum((one - middle) ** 2 for one in x)
        return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / spread * 1e6

    def __str__(self) -> str:
        held = [one for _, one in self.points]
        return (
            f"{self.name} {self.points[-1][0]:,} messages: {self.slope:+.1f} kB per 1,000 ({held[0]:.1f}, half-way"
            f" {self.settled[0][1]:.1f}, at the end {held[-1]:.1f} MB anonymous), idle {self.before.pss:.1f} MB before"
            f" and {self.after.pss:.1f} MB after (RSS {self.after.rss:.1f}), descriptors {self.before.open} and"
            f" {self.after.open}"
        )

    def mistakes(self) -> list[str]:
        """What is not as it must be."""
        found = []
        most = max(self.before.pss, self.after.pss)
        if most > self.most_idle:
            found.append(f"{self.name}: {most:.1f} MB when idle, at most {self.most_idle:g}")
        if self.slope > STEEPEST:
            found.append(f"{self.name}: {self.slope:.1f} kB more per 1,000 messages")
        # A connection or a pool's thread that was not there at first is no leak.
        if self.after.open > self.before.open + 10:
            found.append(f"{self.name}: {self.after.open} descriptors, {self.before.open} before")
        return found


@dataclass
class Memory:
    ingest: Series
    execute: Series
    parent: Series
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        each = "; ".join(map(str, (self.ingest, self.execute, self.parent)))
        return f"PSS when idle, growth of anonymous pages: {each}; {self.seconds:.0f} s"

    def mistakes(self) -> list[str]:
        """What is not as it must be."""
        found = [what for one in (self.ingest, self.execute, self.parent) for what in one.mistakes()]
        together = self.execute.after.pss + self.parent.after.pss
        if together > TOGETHER:
            found.append(f"execute and its warm parent: {together:.1f} MB when idle, at most {TOGETHER:g}")
        if self.failed:
            found.append(f"{self.failed} runs ended in error")
        return found


def measure(peach: Peach, messages: int, runs: int, say: Callable[[str], None]) -> Memory:
    """Both consumers at work: execute on the first `runs` of them, ingest on all."""
    body = ledger.encode(workflow(node("a", "Text", ["x"])))
    begun = time.monotonic()
    with databases.database("mariadb") as name:
        server = databases.server("mariadb")
        with installation(peach, kafka.shared(), server, name) as place, databases.connect(server, name) as known:
            peach.env |= {
                "PEACHCTL_EXECUTE__SCHEDULER": "sync",
                "PEACHCTL_EXECUTE__SLOTS": str(SLOTS),
                "PEACHCTL_SERVICES__PUBLISH_EVERY": "60s",
            }

            def count(sql: str) -> int:
                with known.cursor() as cursor:
                    cursor.execute(sql)
                    return int(cursor.fetchone()[0])

            def filed() -> int:
                return count("SELECT count(*) FROM peach_origins")

            def ended() -> int:
                return count("SELECT count(*) FROM queue WHERE status IN (3, 4)")

            ingest = peach.start("consume", "ingest")
            execute = peach.start("consume", "execute")
            peach.until(lambda: children(execute.pid), 60)
            place.at.send(place.at.execute, body)
            peach.until(ended, 60)
            time.sleep(3)
            found = Memory(
                Series("ingest", [ingest.pid], IDLE),
                Series("execute", [execute.pid], IDLE),
                Series("its warm parent", family(execute.pid), TOGETHER),
            )

            def work(first: int, last: int, done: Callable[[], int], *watched: Series) -> None:
                """Keeps messages waiting, until `last` are done."""
                sent, step, at = first, max(1, (last - first) // 40), first
                before, moved = first, time.monotonic()
                while (now := done()) < last:
                    for _ in range(sent, min(last, now + WAITING)):
                        place.at.producer.send(place.at.execute, body)
                        sent += 1
                    if now >= at:
                        held = ", ".join(f"{one.name} {one.look(now):.1f}" for one in watched)
                        say(f"{now} after {time.monotonic() - begun:.0f} s: {held} MB anonymous")
                        at = now + step
                    if now > before:
                        before, moved = now, time.monotonic()
                    if time.monotonic() - moved > STALLED:
                        raise RuntimeError(f"nothing has ended for {STALLED:g} s: {now} of {last} are done")
                    time.sleep(0.2)  # each look counts all rows
                for one in watched:
                    one.look(last)

            work(1, runs, ended, found.ingest, found.execute, found.parent)
            time.sleep(5)
            found.execute.after, found.parent.after = found.execute.idle(), found.parent.idle()
            found.failed = count("SELECT count(*) FROM queue WHERE status = 4")
            execute.terminate()
            execute.wait(60)
            if messages > runs:
                work(filed(), messages, filed, found.ingest)
            time.sleep(5)
            found.ingest.after = found.ingest.idle()
            ingest.terminate()
            ingest.wait(60)
    found.seconds = time.monotonic() - begun
    return found
