"""Workflows as messages: what becomes of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from peachctl import submission
from peachctl.bus.kafka_client import Settings
from peachctl.bus.kafka_send import KafkaSender
from peachctl.errors import Exit, UnreachableError
from peachctl.store import Letter
from peachctl.store.sqlite import open_store
from tests import topics
from tests.servers import kafka
from tests.topics import Topics

MESSAGES = [("a", b"one"), ("b", b"two")]


@pytest.fixture
def at() -> Iterator[Topics]:
    with topics.on(kafka.shared()) as made:
        yield made


@pytest.fixture
def sender(at: Topics) -> Iterator[KafkaSender]:
    made = KafkaSender(Settings((at.broker.address(),), "PLAINTEXT"), 1 << 20, 5.0)
    yield made
    made.close()


def test_what_is_not_filed_yet_is_sent_and_has_no_id(at: Topics, sender: KafkaSender, tmp_path: Path) -> None:
    at.create(at.execute)
    sent = submission.send(sender, at.execute, MESSAGES, 1)
    store = open_store(tmp_path / "db.sqlite")
    submission.find(store, sent, 0.0)
    assert [(one.file, one.id, one.status) for one in sent] == [("a", None, "sent"), ("b", None, "sent")]
    assert [record.headers for record in at.records(at.execute)] == [[], []]
    assert sent[0].origin is not None
    store.file([], [Letter("malformed: no", "", 0, sent[0].origin, None, 3, b"one", 0.0)])
    submission.find(store, sent, 0.0)
    assert [(one.status, one.reason) for one in sent] == [("refused", "malformed: no"), ("sent", None)]
    store.close()


@pytest.mark.fault("B11")
def test_one_that_is_too_large_is_named_and_those_behind_it_are_not_sent(at: Topics, sender: KafkaSender) -> None:
    at.create(at.execute, max_message_bytes="1000")
    sent = submission.send(sender, at.execute, [("a", b"one"), ("b", b"x" * 5000), ("c", b"three")], 1)
    assert [one.status for one in sent] == ["sent", "unsent", "unsent"]
    assert "5000 bytes" in (sent[1].reason or "") and "max.message.bytes" in (sent[1].error.hint or "")  # type: ignore[union-attr]
    # The producer that was told no is not asked again.
    assert [one.status for one in submission.send(sender, at.execute, [("c", b"three")], 1)] == ["sent"]
    assert [record.value for record in at.records(at.execute)] == [b"one", b"three"]


def test_a_topic_that_is_not_there_is_named_and_nothing_was_sent(at: Topics, sender: KafkaSender) -> None:
    sender.connect()
    sender._producer.config["max_block_ms"] = 300
    sent = submission.send(sender, at.execute, MESSAGES, 1)
    assert [one.status for one in sent] == ["unsent", "unsent"]
    error = sent[0].error
    assert error is not None and f"has no topic {at.execute}" in error.message
    assert (error.hint, error.exit) == ("peachctl init-kafka", Exit.FAILED)


def test_where_kafka_is_away_nothing_was_sent() -> None:
    with pytest.raises(UnreachableError):
        submission.send(KafkaSender(Settings(("127.0.0.1:1",), "PLAINTEXT"), 1 << 20, 0.1), "t", MESSAGES, 1)
