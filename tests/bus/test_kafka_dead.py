"""Copies of refused messages in the dead topic, beside the letters in the database."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from peachctl.bus import Message, kafka_publish
from peachctl.bus.kafka_client import Settings
from peachctl.bus.kafka_dead import DeadLetters
from peachctl.bus.kafka_publish import Publisher
from peachctl.store import Origin
from tests.bus.test_kafka import Site, ingested, message
from tests.topics import Topics

DEFAULT = "1048588"
"""`max.message.bytes` where nobody has set it."""


def headers(record: object) -> dict[str, str]:
    return {name.removeprefix("peachctl-"): value.decode() for name, value in record.headers}  # type: ignore[attr-defined]


@pytest.fixture
def dead(topics: Topics) -> Iterator[DeadLetters]:
    publisher = Publisher(Settings((topics.broker.address(),), "PLAINTEXT"), 1 << 20)
    yield DeadLetters(publisher, topics.dead)
    publisher.close()


@pytest.mark.fault("B11", "E1")
def test_table_and_topic_say_origin_reason_byte_offset_and_field_also_of_what_is_too_large_for_the_topic(
    tmp_path: Path, hub: Path, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_publish, "_REST", 600.0)  # no copy may wait for a rest
    topics.create(topics.execute, topics.processed)
    topics.create(topics.dead, max_message_bytes=DEFAULT)
    site = Site(tmp_path, hub, topics)
    good = message("w")
    large = b"x" * ((1 << 20) + 5000)
    bodies = [large, good[:-3], good + b"more", large]
    for body in bodies:
        topics.send(topics.execute, body)
    ingested(site, site.loop())
    letters = sorted(site.store.letters(), key=lambda one: one.number)
    copies = topics.records(topics.dead)
    assert [copy.value for copy in copies] == [large[:1_000_000], bodies[1], bodies[2], large[:1_000_000]]
    for body, letter, copy in zip(bodies, letters, copies, strict=True):
        told = headers(copy)
        assert letter.origin is not None
        place = {
            "topic": letter.origin.topic,
            "partition": str(letter.origin.partition),
            "offset": str(letter.origin.offset),
        }
        where = {"field": letter.field, "byte-offset": "" if letter.byte_offset is None else str(letter.byte_offset)}
        whole = {"size": str(len(body)), "sha256": hashlib.sha256(body).hexdigest()}
        cut = {"cut": "1000000"} if body is large else {}
        assert told == {"reason": letter.reason} | place | {k: v for k, v in where.items() if v} | whole | cut
        outcome = site.store.outcome(letter.origin)
        assert outcome is not None and (letter.size, outcome.sha256) == (len(body), whole["sha256"])
    assert headers(copies[1])["field"] and headers(copies[1])["byte-offset"]
    site.buses.pop().close()
    site.store.close()


def test_what_the_topic_takes_is_learned_once_and_what_it_never_takes_blocks_no_other(
    topics: Topics, dead: DeadLetters, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(topics.dead, max_message_bytes="50000")
    caplog.set_level(logging.WARNING)
    tried: list[int] = []
    send = dead._publisher.send

    def counted(topic: str, values: Sequence[bytes], *more: Any, **named: Any) -> Any:
        tried.append(len(values[0]))
        return send(topic, values, *more, **named)

    monkeypatch.setattr(dead._publisher, "send", counted)
    for number in range(3):
        dead.copy(Message(b"x" * 800_000, Origin("t", 0, number)), "malformed: no workflow")
    dead.copy(Message(b"small", Origin("t", 0, 3)), "malformed: no workflow")
    copies = topics.records(topics.dead)
    assert [len(copy.value) for copy in copies] == [10_000] * 3 + [5]
    assert tried == [800_000, 100_000, 10_000, 10_000, 10_000, 5]
    assert "cut" not in headers(copies[3])
    assert [one for one in caplog.records if one.name.startswith("peachctl")] == []


def test_texts_of_a_sender_do_not_make_a_copy_too_large(topics: Topics, dead: DeadLetters) -> None:
    topics.create(topics.dead, max_message_bytes=DEFAULT)
    dead.copy(Message(b"x", Origin("t", 0, 0)), "unknown-service: " + "\ud800💥\n" * 1_000_000, "nodes[0]" * 1_000_000)
    [copy] = topics.records(topics.dead)
    assert len(headers(copy)["reason"]) <= 2000 and headers(copy)["reason"].startswith("unknown-service: \\ud800💥\\n")
