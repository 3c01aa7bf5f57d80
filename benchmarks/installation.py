"""A whole installation for the benchmarks: a Kafka broker, a MariaDB that keeps what it acknowledged, a service hub."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP))

from tests import servers, topics  # noqa: E402 - the path comes first
from tests.servers import databases, kafka  # noqa: E402
from tests.topics import Topics  # noqa: E402


@dataclass
class Installation:
    """Folders, topics and a database of their own; `start` runs `peachctl` in it."""

    home: Path
    hub: Path
    topics: Topics
    server: dict[str, Any]
    database: str
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PEACHCTL_")}
        return {
            **kept,
            "HOME": str(self.home),
            "PEACHCTL_FOLDERS__DATA": str(self.home / "data"),
            "PEACHCTL_FOLDERS__HUB": str(self.hub),
            "PEACHCTL_DATABASE__URL": f"mysql://root@127.0.0.1:{self.server['port']}/{self.database}",
            "PEACHCTL_LIMITS__FREE_SPACE": "0",
            **self.topics.environment(),
            **more,
        }

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[bytes]":
        log = (self.home / f"{'-'.join(arguments)}.{len(self.running)}.log").open("wb")
        command = [sys.executable, "-m", "peachctl", *arguments]
        process = subprocess.Popen(
            command, env=self.environment(**more), cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        self.running.append(process)
        return process

    def end(self, *processes: "subprocess.Popen[bytes]") -> None:
        for process in processes or self.running:
            process.terminate()
        for process in processes or self.running:
            process.wait(60)

    def connect(self) -> Any:
        return databases.connect(self.server, self.database)


@contextlib.contextmanager
def installation(hub: Path) -> Iterator[Installation]:
    """One with its schema made and its topics created; all of it is gone at the end."""
    with servers.session(), tempfile.TemporaryDirectory() as folder, databases.private("mariadb") as server:
        home = Path(folder)
        with topics.on(kafka.shared()) as made, databases.database("mariadb", server.known) as name:
            made.create_all()
            one = Installation(home, hub, made, server.known, name)
            subprocess.run(
                [sys.executable, "-m", "peachctl", "-q", "init-db"], env=one.environment(), cwd=home, check=True
            )
            try:
                yield one
            except BaseException:
                for log in sorted(home.glob("*.log")):
                    print(f"== {log.name}\n{log.read_text()}", file=sys.stderr)
                raise
            finally:
                one.end()


def say_file_cost(place: Installation) -> None:
    """Prints what a new file takes. ext4 reuses the number of a removed file after minutes only, and steps over
    those of the last ones for each new file: after a test run that can be 400 us in place of 20, in all loops alike."""
    folder = place.home / "cost"
    folder.mkdir()
    began = time.perf_counter()
    for number in range(100):
        (folder / str(number)).touch()
    cost = (time.perf_counter() - began) / 100
    print(f"a new file takes {cost * 1e6:.0f} us here" + ("; wait some minutes, or set TMPDIR" if cost > 1e-4 else ""))


def until(what: Any, seconds: float, why: str) -> Any:
    """Waits, looking every two milliseconds."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise SystemExit(f"{why} within {seconds:g} s")
        time.sleep(0.002)
    return found
