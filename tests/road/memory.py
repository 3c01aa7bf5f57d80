"""What `consume ingest` and `consume execute` hold in memory, by the kernel's own count, while messages flow."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Peach, node, workflow
from tests.road import ledger
from tests.road.campaign import children, installation
from tests.servers import databases, kafka

IDLE = 60.0
"""MB of one consumer that has nothing to do, its warm parent apart."""

TOGETHER = 100.0
"""MB of an executor with its warm parent."""

STEEPEST = 100.0
"""kB for each 1,000 messages, by a fit over the second half, that still count as flat: 5 MB in 50,000."""


def pss(pid: int) -> float:
    """Megabytes that a process has for itself, and its share of what it has with others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"process {pid} has no Pss")


@dataclass
class Series:
    """Messages handled and megabytes then; of a consumer. idle: megabytes when nothing more was to do."""

    name: str
    most_idle: float
    points: list[tuple[int, float]] = field(default_factory=list)
    begin: float = 0.0
    idle: float = 0.0

    @property
    def settled(self) -> list[tuple[int, float]]:
        """The second half: caches and pools are filled by then."""
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
        count = self.points[-1][0]
        held = [one for _, one in self.points]
        return (
            f"{self.name} {count:,} messages: {self.slope:+.1f} kB per 1,000, {held[0]:.1f} to {held[-1]:.1f} MB,"
            f" idle {self.begin:.1f} before and {self.idle:.1f} after"
        )


@dataclass
class Memory:
    ingest: Series
    execute: Series
    parent: Series

    def __str__(self) -> str:
        return "PSS: " + "; ".join(map(str, (self.ingest, self.execute, self.parent)))

    def mistakes(self) -> list[str]:
        """What is not as it must be."""
        found = []
        for one in (self.ingest, self.execute, self.parent):
            if max(one.begin, one.idle) > one.most_idle:
                found.append(f"{one.name}: {max(one.begin, one.idle):.1f} MB when idle, at most {one.most_idle:g}")
            if one.slope > STEEPEST:
                found.append(f"{one.name}: {one.slope:.1f} kB more per 1,000 messages")
        together = self.execute.idle + self.parent.idle
        if together > TOGETHER:
            found.append(f"execute and its warm parent: {together:.1f} MB when idle, at most {TOGETHER:g}")
        return found


def measure(peach: Peach, messages: int, runs: int, say: Callable[[str], None]) -> Memory:
    """Both consumers at work: execute on the first `runs` of them, ingest on all."""
    body = ledger.encode(workflow(node("a", "Text", ["x"])))
    with databases.database("mariadb") as name:
        server = databases.server("mariadb")
        with installation(peach, kafka.shared(), server, name) as place:
            peach.env |= {"PEACHCTL_EXECUTE__SCHEDULER": "sync", "PEACHCTL_SERVICES__PUBLISH_EVERY": "60s"}
            with databases.connect(server, name) as known:

                def count(sql: str) -> int:
                    with known.cursor() as cursor:
                        cursor.execute(sql)
                        return int(cursor.fetchone()[0])

                def filed() -> int:
                    return count("SELECT count(*) FROM peach_origins")

                def ended() -> int:
                    return count("SELECT count(*) FROM queue WHERE status = 3")

                ingest = peach.start("consume", "ingest")
                execute = peach.start("consume", "execute")
                peach.until(lambda: children(execute.pid), 60)
                place.at.send(place.at.execute, body)
                peach.until(ended, 60)
                parent = children(execute.pid)[0]
                time.sleep(3)
                of_ingest, of_execute = Series("ingest", IDLE), Series("execute", IDLE)
                found = Memory(of_ingest, of_execute, Series("its warm parent", TOGETHER))
                held = ((of_ingest, ingest.pid), (of_execute, execute.pid), (found.parent, parent))
                for series, pid in held:
                    series.begin = pss(pid)

                def work(first: int, last: int, done: Callable[[], int], *watched: tuple[Series, int]) -> None:
                    """Keeps some hundred messages waiting, until `last` are done."""
                    sent, step, at = first, max(1, (last - first) // 40), first
                    while (now := done()) < last:
                        while sent < min(last, now + 400):
                            place.at.producer.send(place.at.execute, body)
                            sent += 1
                        if now >= at:
                            for series, pid in watched:
                                series.points.append((now, pss(pid)))
                            say(f"{now}: " + ", ".join(f"{one.name} {one.points[-1][1]:.1f} MB" for one, _ in watched))
                            at = now + step
                        time.sleep(0.05)

                work(1, runs, ended, *held)
                peach.until(lambda: ended() >= runs, 60)
                time.sleep(5)
                for series, pid in held[1:]:
                    series.idle = pss(pid)
                execute.terminate()
                execute.wait(60)
                if messages > runs:
                    work(filed(), messages, filed, held[0])
                time.sleep(5)
                of_ingest.idle = pss(ingest.pid)
                ingest.terminate()
                ingest.wait(60)
    return found
