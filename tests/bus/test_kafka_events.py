"""The events that wake executors, over a real broker."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer  # noqa: TID253 a test needs it
from kafka.record.default_records import DefaultRecordBatch  # noqa: TID253

from peachctl.bus.kafka_client import Settings, reach
from peachctl.bus.kafka_events import KafkaEvents
from peachctl.serve import has_heard
from tests import topics
from tests.servers import kafka, until
from tests.topics import Topics


@pytest.fixture
def at() -> Iterator[Topics]:
    with topics.on(kafka.shared()) as made:
        yield made


class Ear:
    """An executor that does nothing but count how often it is woken."""

    def __init__(self, at: Topics, **settings: Any) -> None:
        self.at = at
        self.woken = 0
        self.consumers: list[KafkaConsumer] = []
        self.tried: list[bool] = []
        self.prepare: Callable[[KafkaConsumer], None] = lambda _consumer: None
        given = {"poll": 0.1, "probe": 0.3, **settings}
        self.events = KafkaEvents(self._open, at.processed, self._wake, **given)

    def _wake(self) -> None:
        self.woken += 1

    def _open(self, commits: bool) -> KafkaConsumer:
        self.tried.append(commits)
        reach(Settings((self.at.broker.address(),), "PLAINTEXT"), 0.1)
        consumer = KafkaConsumer(
            bootstrap_servers=self.at.broker.address(),
            group_id=self.at.group_execute if commits else None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            metadata_max_age_ms=300,
        )
        self.prepare(consumer)
        self.consumers.append(consumer)
        return consumer

    def start(self) -> "Ear":
        self.events.start()
        return self

    def listen(self) -> "Ear":
        """Starts, and waits until events are heard."""
        self.start()
        until(lambda: self.events.hears and self.woken, 20, "no events were heard")
        return self

    def hears(self, body: bytes, partition: int | None = None) -> None:
        before = self.woken
        self.at.send(self.at.processed, body, partition)
        until(lambda: self.woken > before, 20, "the event was not heard")


@pytest.fixture
def ear(at: Topics) -> Iterator[Callable[..., Ear]]:
    made: list[Ear] = []

    def make(**settings: Any) -> Ear:
        made.append(Ear(at, **settings))
        return made[-1]

    yield make
    for one in made:
        one.events.stop()


def test_every_executor_hears_every_event_of_one_partition(at: Topics, ear: Callable[..., Ear]) -> None:
    at.create(at.processed)
    one, two = ear().listen(), ear().listen()
    for id in (b"1", b"2"):
        before = two.woken
        one.hears(id)
        until(lambda: two.woken > before, 20, "the other did not hear it")  # noqa: B023


def test_it_begins_at_the_end_and_commits_where_it_is(at: Topics, ear: Callable[..., Ear]) -> None:
    at.create(at.processed)
    for id in range(1, 6):
        at.send(at.processed, b"%d" % id)
    listening = ear().listen()
    assert listening.woken == 1  # what was filed before is found by looking once
    until(lambda: at.committed(at.group_execute, at.processed) == 5, 20, "the position was not committed")
    listening.hears(b"6")
    until(lambda: at.committed(at.group_execute, at.processed) == 6, 20, "the position was not committed")
    assert listening.events.lag == 0


def test_what_is_no_event_wakes_nobody_and_harms_nothing(at: Topics, ear: Callable[..., Ear]) -> None:
    at.create(at.processed)
    listening = ear().listen()
    for body in (b"", b"0", b"-1", b"one", b"\xff\xfe", b"1" * 30, b"{'id': 1}"):
        at.send(at.processed, body)
    at.producer.send(at.processed, key=b"a tombstone", value=None).get(10)
    until(lambda: at.committed(at.group_execute, at.processed) == 8, 20, "they were not passed over")
    assert listening.woken == 1
    listening.hears(b"7")
    assert len(listening.consumers) == 1


def test_partitions_that_are_added_are_heard_from_their_beginning(at: Topics, ear: Callable[..., Ear]) -> None:
    at.create(at.processed)
    listening = ear().listen()
    at.widen(at.processed, 2)
    listening.hears(b"1", partition=1)
    listening.hears(b"2", partition=0)


def test_a_topic_that_is_missing_is_said_once_and_found_when_it_is_there(
    at: Topics, ear: Callable[..., Ear], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "peachctl")
    listening = ear(patience=0.2).start()
    until(lambda: len(listening.consumers) > 2, 20, "it was not tried again")
    assert [one.message for one in caplog.records if "peachctl" in one.name] == [
        "no events are heard, the queue is looked into instead:"
        f" there is no topic {at.processed} (peachctl init-kafka creates it)"
    ]
    assert not listening.events.hears and listening.events.lag is None
    at.create(at.processed)
    until(lambda: listening.events.hears, 20, "the topic was not found")
    listening.hears(b"1")
    assert caplog.records[-1].message == "events are heard again"


@pytest.mark.fault("F1")
def test_after_an_exception_out_of_poll_another_consumer_hears_on(
    at: Topics, ear: Callable[..., Ear], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next poll of the old one would never return, and burn a core."""
    at.create(at.processed)
    listening = ear().listen()
    damaged = threading.Event()

    def damage(_batch: Any) -> bool:
        monkeypatch.undo()
        damaged.set()
        return False

    monkeypatch.setattr(DefaultRecordBatch, "validate_crc", damage)
    at.send(at.processed, b"1")
    assert damaged.wait(20)
    until(lambda: len(listening.consumers) == 2 and listening.events.hears, 20, "there was no other consumer")
    assert listening.woken >= 2  # the damaged event is made up for by a look into the queue
    listening.hears(b"2")


@pytest.mark.fault("F1", "B10")
def test_a_thread_that_hangs_is_noticed_and_replaced(
    at: Topics, ear: Callable[..., Ear], caplog: pytest.LogCaptureFixture
) -> None:
    at.create(at.processed)
    listening = ear(hang=1.0)
    hung, over = threading.Event(), threading.Event()

    def hang(consumer: KafkaConsumer) -> None:
        listening.prepare = lambda _consumer: None
        consumer.poll = lambda **_: (hung.set(), over.wait(60), {})[2]  # type: ignore[method-assign]

    listening.prepare = hang
    listening.start()
    assert hung.wait(20)
    until(lambda: (listening.events.tend(), len(listening.consumers) == 2)[1], 20, "it was not replaced")
    until(lambda: listening.events.hears, 20, "the other one does not hear")
    listening.hears(b"1")
    assert [one.message for one in caplog.records if "takes over" in one.message] == [
        "the thread that hears events made no step for 1 s; another one takes over"
    ]
    over.set()


def test_where_it_is_at_its_end_is_committed(at: Topics, ear: Callable[..., Ear]) -> None:
    at.create(at.processed)
    listening = ear(probe=3600.0).listen()
    listening.hears(b"1")
    listening.events.stop()
    assert at.committed(at.group_execute, at.processed) == 1


def test_an_end_does_not_wait_for_the_next_event(at: Topics, ear: Callable[..., Ear]) -> None:
    at.create(at.processed)
    listening = ear().listen()
    began = time.monotonic()
    listening.events.stop()
    assert time.monotonic() - began < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "events"]


@pytest.mark.fault("B8")
def test_a_broker_that_goes_away_is_said_once_and_heard_again_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "peachctl")
    broker = kafka.private()
    try:
        with topics.on(broker) as at:
            at.create(at.processed)
            listening = Ear(at, reply=1.0, patience=0.3).listen()
        broker.stop()
        until(lambda: not listening.events.hears, 20, "it was not noticed")
        until(lambda: len(listening.tried) > 3, 20, "it was not tried again")
        broker.start()
        until(lambda: listening.events.hears, 40, "it did not come back by itself")
        with topics.on(broker) as at:
            listening.at.producer = at.producer
            listening.hears(b"1")
        listening.events.stop()
    finally:
        broker.stop()
    said = [one.message for one in caplog.records if one.name.startswith("peachctl")]
    assert said == [
        "no events are heard, the queue is looked into instead: Kafka does not answer",
        "events are heard again",
    ]


def test_an_executor_counts_as_up_when_the_broker_has_answered_and_without_it_after_20_seconds() -> None:
    events, now = KafkaEvents(lambda _: None, "t", lambda: None), time.monotonic()
    assert has_heard(None, now)
    assert not has_heard(events, now - 19)
    assert has_heard(events, now - 21)
    events.heard_once = True
    assert has_heard(events, now)
