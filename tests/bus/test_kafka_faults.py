"""A real broker that answers with errors, or not at all: what stands between makes it so (tests/servers/between)."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer  # noqa: TID253 a test needs it
from kafka.errors import KafkaError  # noqa: TID253

from peachctl import app, ingest, wire
from peachctl.announce import service_list
from peachctl.bus import kafka as kafka_bus
from peachctl.bus import kafka_publish
from peachctl.bus.kafka_client import Settings, reach
from peachctl.bus.kafka_publish import Publisher
from peachctl.bus.kafka_send import KafkaSender
from peachctl.errors import PeachError, UnreachableError
from peachctl.hub import find_services
from peachctl.store import sqlite
from tests import servers
from tests.bus.conftest import kafka_config
from tests.bus.test_kafka import Site, ingested, until
from tests.servers.between import BetweenKafka
from tests.topics import Topics

FINAL = {
    "corrupt message": 2,
    "message too large": 10,
    "invalid required acks": 21,
    "policy violation": 44,
    "out of order sequence": 45,
    "invalid record": 87,
    "unknown": -1,
}


@pytest.fixture
def between(topics: Topics) -> Iterator[BetweenKafka]:
    made = BetweenKafka(topics.broker.ports["plaintext"])
    yield made
    made.close()


@pytest.fixture
def to(between: BetweenKafka) -> Settings:
    return Settings((between.address,), "PLAINTEXT")


@pytest.fixture
def far(tmp_path: Path, hub: Path, topics: Topics, between: BetweenKafka) -> Iterator[Site]:
    """An installation whose way to the broker leads through what stands between."""
    topics.create(topics.execute, topics.processed, topics.dead)
    made = Site(tmp_path, hub, topics, {"PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": between.address})
    yield made
    for bus in made.buses:
        bus.close()
    made.store.close()


# Sending


def test_a_producer_of_kafka_python_stays_broken_after_an_error_that_is_final(
    topics: Topics, between: BetweenKafka
) -> None:
    """The control of what follows: were this not so, none of it would be needed."""
    topics.create(topics.processed)
    producer = KafkaProducer(bootstrap_servers=between.address, acks="all", delivery_timeout_ms=30_000)
    between.wrong[between.PRODUCE] = [FINAL["invalid record"]]
    for _ in range(2):
        with pytest.raises(KafkaError):
            producer.send(topics.processed, b"1").get(10)
    assert between.wrong[between.PRODUCE] == []
    producer.close(timeout=0)


@pytest.mark.fault("F2", "F3", "B9")
def test_after_any_error_of_the_broker_the_next_message_is_sent(
    topics: Topics, between: BetweenKafka, to: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_publish, "_REST", 0.0)
    topics.create(topics.processed)
    publisher, sender = Publisher(to), KafkaSender(to, 1 << 20, 5.0)
    for what, code in FINAL.items():
        between.wrong[between.PRODUCE] = [code]
        assert publisher.send(topics.processed, [b"1"]) == [None], what
        assert publisher.trouble, what
        [sent] = publisher.send(topics.processed, [b"2"])
        assert sent is not None and publisher.trouble is None, what
        between.wrong[between.PRODUCE] = [code]
        with pytest.raises(PeachError):
            sender.send(topics.processed, b"3")
        assert sender.send(topics.processed, b"4").topic == topics.processed, what
    sender.close()
    publisher.close()
    values = [one.value for one in topics.records(topics.processed)]
    assert (values.count(b"2"), values.count(b"4")) == (len(FINAL), len(FINAL))


@pytest.mark.fault("B9")
def test_what_ingest_cannot_announce_at_once_is_announced_and_the_offset_waits_for_nobody(
    far: Site, between: BetweenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_publish, "_REST", 0.1)
    loop = far.loop()
    between.wrong[between.PRODUCE] = [FINAL["unknown"]]
    far.send("one")
    until(lambda: far.committed() == 1, loop)
    until(lambda: not far.store.unannounced(10), loop)
    assert {one.value for one in far.topics.records(far.topics.processed)} == {b"1"}


@pytest.mark.fault("B9", "F3")
def test_topics_that_the_broker_forbids_stop_nothing_and_are_not_asked_for_each_message(
    far: Site, between: BetweenKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forbidden = 29
    loop = far.loop()
    loop.step(0.1)
    between.wrong[between.PRODUCE] = [forbidden] * 2
    for number in range(10):
        far.topics.send(far.topics.execute, b"bad%d" % number)
    far.send("one")
    until(lambda: far.committed() == 11, loop)
    assert far.names() == ["one"] and len(far.store.letters()) == 10
    assert between.wrong[between.PRODUCE] == []  # one try for each of the two topics
    assert [row.id for row in far.store.unannounced(10)] == [1]
    assert sum("does not allow this client this" in line for line in caplog.messages) == 2
    far.buses[-1]._publisher._rests.clear()
    monkeypatch.setattr(ingest, "_OWED_EVERY", 0.1)
    until(lambda: not far.store.unannounced(10), loop)
    assert {one.value for one in far.topics.records(far.topics.processed)} == {b"1"}


# The group


@pytest.mark.fault("B4", "A7")
@pytest.mark.parametrize(
    ("api", "codes"),
    [
        # not coordinator, loading, unknown member, illegal generation, rebalance in progress, unknown, timed out
        ("OFFSET_COMMIT", (16, 14, 25, 22, 27, -1, 7)),
        ("HEARTBEAT", (25, 27)),
        # offset out of range, leader not available, not leader, unknown topic, corrupt message, unknown leader epoch
        ("FETCH", (1, 5, 6, 3, 2, 75, -1)),
    ],
)
def test_whatever_the_broker_says_each_message_is_filed_once(
    far: Site, between: BetweenKafka, monkeypatch: pytest.MonkeyPatch, api: str, codes: tuple[int, ...]
) -> None:
    monkeypatch.setattr(kafka_bus, "_LOOK", 0.5)
    key = getattr(between, api)
    loop = far.loop()
    threads = 0
    for count, code in enumerate(codes):
        between.wrong[key] = [code]
        far.send(f"{api} {count}")
        until(lambda: not between.wrong[key] and far.committed() == count + 1, loop)  # noqa: B023
        threads = threads or threading.active_count()
    assert far.names() == [f"{api} {count}" for count in range(len(codes))]
    # Of the consumers that were given up meanwhile nothing is left.
    servers.until(lambda: threading.active_count() <= threads, 10, "threads of a consumer did not end")


@pytest.mark.fault("B4")
def test_a_group_that_lets_nobody_in_at_first_is_asked_again(far: Site, between: BetweenKafka) -> None:
    between.wrong[between.JOIN_GROUP] = [14, 15, 16, 25, 27]
    far.send("one")
    loop = far.loop()
    until(lambda: far.committed() == 1, loop)
    assert between.wrong[between.JOIN_GROUP] == [] and far.names() == ["one"]


# Packets that vanish


@pytest.mark.fault("B12", "B8")
def test_while_packets_vanish_no_step_hangs_and_afterwards_all_is_filed_once(
    far: Site, between: BetweenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_bus, "_LOOK", 0.3)
    loop = far.loop()
    far.send("one")
    until(lambda: far.committed() == 1, loop)
    longest = 0.0
    with between.swallowing():
        far.send("two")
        end = time.monotonic() + 30
        while loop.away is None:
            assert time.monotonic() < end
            began = time.monotonic()
            loop.step(0.2)
            longest = max(longest, time.monotonic() - began)
        assert "no answer" in loop.away.message
    assert longest < 12
    until(lambda: far.committed() == 2, loop)
    assert far.names() == ["one", "two"] and loop.away is None


@pytest.mark.fault("B12")
def test_who_sends_into_the_void_is_told_so(
    topics: Topics, between: BetweenKafka, to: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(topics.processed)
    publisher, sender = Publisher(to), KafkaSender(to, 1 << 20, 1.0)
    before = set(threading.enumerate())
    assert None not in publisher.send(topics.processed, [b"1"])
    began = time.monotonic()
    with between.swallowing():
        with pytest.raises(UnreachableError, match="no answer"):
            sender.send(topics.processed, b"2")
        assert publisher.send(topics.processed, [b"3"], patience=1.0) == [None]
    assert publisher.trouble and time.monotonic() - began < 15
    # The producer that was given up with a message under way leaves no thread behind, nor a connection.
    servers.until(lambda: set(threading.enumerate()) <= before, 10, "threads of a producer did not end")
    sender.close()
    publisher.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.fault("B12", "B8")
@pytest.mark.parametrize("patience", [0.4, 1.0])
def test_a_server_that_does_not_answer_hides_none_that_lives(topics: Topics, silent: str, patience: float) -> None:
    to = Settings((silent, "127.0.0.1:1", topics.broker.address()), "PLAINTEXT")
    for _ in range(2):
        reach(to, patience)
    began = time.monotonic()
    reach(to, patience)
    assert time.monotonic() - began < 0.2  # the one that answered last time is asked first
    with pytest.raises(UnreachableError, match=f"{silent}: no answer; 127.0.0.1:1: Connection refused"):
        reach(Settings((silent, "127.0.0.1:1"), "PLAINTEXT"), patience)


def test_ingest_works_while_the_first_of_its_servers_does_not_answer(
    tmp_path: Path, hub: Path, topics: Topics, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_bus, "_LOOK", 0.1)
    topics.create(topics.execute, topics.processed, topics.dead)
    site = Site(tmp_path, hub, topics)
    servers = json.dumps([silent, topics.broker.address()])
    site.variables["PEACHCTL_KAFKA__BOOTSTRAP_SERVERS"] = servers
    loop = site.loop()
    site.send("one")
    until(lambda: site.committed() == 1, loop)
    for _ in range(5):
        loop.step(0.1)
        assert loop.paused is None
    assert [one.value for one in topics.records(topics.processed)] == [b"1"]
    site.buses[0].close()
    site.store.close()


# The service list


def test_two_that_publish_the_list_of_services_at_once_do_no_harm(tmp_path: Path, hub: Path, topics: Topics) -> None:
    topics.create(topics.services)
    config = kafka_config(tmp_path, topics, PEACHCTL_FOLDERS__HUB=str(hub))
    with app.announcing(config) as one, app.announcing(config) as other:
        threads = [threading.Thread(target=lambda each=each: [each.step() for _ in range(3)]) for each in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (one.published, other.published) == (3, 3)
        one._close()
        other._close()
    lists = [record.value for record in topics.records(topics.services)]
    expected = service_list(find_services(hub))
    assert lists == [expected.body] * 6
    assert wire.decode_services(lists[-1]) == expected.services


# Secrets


@pytest.mark.fault("D9")
@pytest.mark.parametrize("client", [KafkaConsumer, KafkaProducer, KafkaAdminClient])
def test_no_client_is_given_a_setting_that_it_does_not_know_for_its_error_would_show_the_password(
    to: Settings, client: Any
) -> None:
    assert set(to.options()) <= set(client.DEFAULT_CONFIG)


# While a batch is filed


@pytest.mark.fault("B8")
def test_no_lock_of_the_database_is_held_for_a_broker_that_does_not_say_whether_its_topic_is_the_same(
    far: Site, between: BetweenKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = far.loop()
    far.send("one")
    ingested(far, loop)
    asking = kafka_bus.topic_id
    silent = contextlib.ExitStack()
    entered = threading.Event()

    def frozen(*given: Any) -> Any:
        if not entered.is_set():
            silent.enter_context(between.swallowing())
            entered.set()
        return asking(*given)

    monkeypatch.setattr(kafka_bus, "topic_id", frozen)
    far.send("two")
    waits: list[float] = []
    over = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite.open_store(far.home / "store")) as other:
            while not over.is_set():
                began = time.monotonic()
                other.announced([999_999])
                waits.append(time.monotonic() - began)
                over.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    until(entered.is_set, loop)
    end = time.monotonic() + 4
    until(lambda: time.monotonic() > end, loop)
    over.set()
    writer.join()
    assert max(waits) < 2.5
    assert far.names() == ["one"] and "does not say whether it is the same" in str(loop.paused) + caplog.text
    silent.close()
    until(lambda: far.names() == ["one", "two"], loop)
    assert not any(record.exc_info for record in caplog.records)


def test_what_was_acknowledged_is_committed_while_ingest_pauses(far: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = far.loop()
    far.send("one")
    until(lambda: far.names() == ["one"], loop)

    def gone() -> Any:
        raise PeachError("the hub is gone")

    monkeypatch.setattr(loop, "_load_hub", gone)
    monkeypatch.setattr(loop, "_loaded", -100.0)
    until(lambda: loop.paused and far.committed() == 1, loop)


def test_a_consumer_that_ends_waits_little_for_a_silent_broker(far: Site, between: BetweenKafka) -> None:
    loop = far.loop()
    far.send("one")
    until(lambda: far.names() == ["one"], loop)
    with between.swallowing():
        began = time.monotonic()
        far.buses[-1].close()
        assert time.monotonic() - began < 9
