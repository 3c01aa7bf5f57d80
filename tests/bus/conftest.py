"""One behaviour, every transport: a rig that puts messages in, and opens buses over the same transport."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from peachctl.bus import Bus, Message
from peachctl.bus.folder import FolderBus
from peachctl.bus.kafka import KafkaBus
from peachctl.config import Config, load
from peachctl.store import sqlite
from tests.servers import kafka
from tests.topics import Topics, on

LIMIT = 1024


class Rig(Protocol):
    """What the suite of the port needs of a transport."""

    def put(self, body: bytes) -> None: ...

    def open(self) -> Bus:
        """One more consumer."""
        ...

    def crash(self, bus: Bus) -> None:
        """The end of a consumer that is killed: nothing of what it has in hand is given back by itself."""
        ...

    def put_aside(self) -> dict[bytes, str]:
        """Refused bodies and their reasons, as people find them."""
        ...


@dataclass
class FolderRig:
    home: Path
    count: int = 0
    opened: list[FolderBus] = field(default_factory=list)

    def put(self, body: bytes) -> None:
        self.count += 1
        being_written = self.home / "being-written"
        being_written.write_bytes(body)
        being_written.rename(self.home / "inbox" / f"{self.count:04d}.bin")

    def open(self) -> FolderBus:
        bus = FolderBus(self.home / "inbox", self.home / "queue", "host", LIMIT, sweep=0.2, settle=0.1)
        self.opened.append(bus)
        return bus

    def crash(self, bus: Bus) -> None:
        # What the kernel does with a killed process: its descriptors are closed, and their locks are gone.
        assert isinstance(bus, FolderBus)
        self.opened.remove(bus)
        bus.close()

    def put_aside(self) -> dict[bytes, str]:
        folder = self.home / "inbox" / ".refused"
        found = [path for path in folder.iterdir() if not path.name.endswith(".reason.txt")]
        return {path.read_bytes(): (folder / f"{path.name}.reason.txt").read_text() for path in found}


@dataclass
class KafkaRig:
    """A topic of one partition, which the consumer that was opened first has."""

    home: Path
    topics: Topics
    opened: list[KafkaBus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topics.create(self.topics.execute, self.topics.processed, self.topics.dead)
        self.config = kafka_config(self.home, self.topics, PEACHCTL_LIMITS__MESSAGE_BYTES=str(LIMIT))
        self.store = sqlite.open_store(self.home / "store", "queue")

    def put(self, body: bytes) -> None:
        self.topics.send(self.topics.execute, body)

    def open(self) -> KafkaBus:
        bus = KafkaBus(self.config, self.store, client=f"peachctl-{len(self.opened)}")
        self.opened.append(bus)
        return bus

    def crash(self, bus: Bus) -> None:
        # What the broker sees of a killed consumer is its silence; leaving shortens the wait for that, no more.
        assert isinstance(bus, KafkaBus)
        self.opened.remove(bus)
        bus.close()

    def put_aside(self) -> dict[bytes, str]:
        found = self.topics.records(self.topics.dead)
        return {one.value: dict(one.headers)["peachctl-reason"].decode() + "\n" for one in found}


@pytest.fixture
def topics() -> Iterator[Topics]:
    with on(kafka.shared()) as made:
        yield made


@pytest.fixture(params=["folder", "kafka"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made: FolderRig | KafkaRig
    if request.param == "folder":
        made = FolderRig(tmp_path)
        (tmp_path / "inbox").mkdir()
    else:
        made = KafkaRig(tmp_path, request.getfixturevalue("topics"))
    yield made
    for bus in made.opened:
        bus.close()


def kafka_config(home: Path, topics: Topics, **variables: str) -> Config:
    """A configuration with a data folder of its own, on these topics."""
    quick = {"PEACHCTL_FOLDERS__DATA": str(home / "data"), "PEACHCTL_KAFKA__SESSION_TIMEOUT": "3s"}
    return load(None, topics.environment() | quick | variables)


def take(bus: Bus, count: int, seconds: float = 10) -> list[Message]:
    """Polls until `count` messages are there."""
    end = time.monotonic() + seconds
    messages: list[Message] = []
    while len(messages) < count:
        assert time.monotonic() < end, f"{len(messages)} of {count} messages came"
        messages += bus.poll(0.2, count - len(messages))
    return messages
