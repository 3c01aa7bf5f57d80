"""Ingest over a real broker: no message lost, none filed twice, whatever happens to the group, topic or broker."""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer  # noqa: TID253 a test needs it
from kafka.coordinator.assignors.range import RangePartitionAssignor  # noqa: TID253
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment  # noqa: TID253

from peachctl import wire
from peachctl.bus import kafka_publish, kafka_start
from peachctl.bus.kafka import KafkaBus
from peachctl.bus.kafka_client import settings
from peachctl.bus.kafka_start import OLD_GROUP
from peachctl.bus.kafka_topics import accept_new
from peachctl.errors import ConfigError, MadeAnewError, StateError, UnreachableError
from peachctl.ingest import Ingest
from peachctl.store import Origin, sqlite
from tests.bus.conftest import kafka_config, take
from tests.conftest import node, workflow
from tests.test_ingest import make_loop
from tests.topics import Topics

_number = itertools.count()


def message(name: str | None = None) -> bytes:
    """A workflow that differs from all others by its name."""
    made = workflow(node("a", "Text", ["x"]), name=name or f"w{next(_number)}")
    return wire.encode_workflow(wire.decode_file(json.dumps(made).encode(), "x.json", wire.Limits()))


@dataclass
class Site:
    """An installation on topics of its own: a database, and ingest loops as one opens them."""

    home: Path
    hub: Path
    topics: Topics
    variables: dict[str, str] = field(default_factory=dict)
    buses: list[KafkaBus] = field(default_factory=list)
    adopted: bool = False

    def __post_init__(self) -> None:
        for name in ("queue", "temp", "files"):
            (self.home / name).mkdir(exist_ok=True)
        self.store = sqlite.open_store(self.home / "store")
        if self.adopted:
            self.store.adopted = lambda: True  # type: ignore[method-assign]

    def bus(self) -> KafkaBus:
        config = kafka_config(self.home, self.topics, **self.variables)
        self.buses.append(KafkaBus(config, self.store, client=f"peachctl-{len(self.buses)}"))
        return self.buses[-1]

    def loop(self) -> Ingest:
        loop = make_loop(self.home, self.store, self.bus(), self.hub)  # type: ignore[arg-type]
        loop.repair()
        return loop

    def send(self, *names: str, partition: int = 0) -> None:
        for name in names:
            self.topics.send(self.topics.execute, message(name), partition=partition)

    def names(self) -> list[str]:
        return sorted(row.name for row in self.store.rows())

    def committed(self, partition: int = 0) -> int | None:
        return self.topics.committed(self.topics.group_ingest, self.topics.execute, partition)

    def recreate(self, *names: str) -> None:
        """Deletes the topic, as one does with a running cluster, and makes it anew with these in it."""
        self.topics.admin.delete_topics([self.topics.execute])
        until(lambda: self.topics.execute not in self.topics.admin.list_topics())
        self.topics.create(self.topics.execute)
        self.send(*names)


@pytest.fixture
def site(tmp_path: Path, hub: Path, topics: Topics) -> Iterator[Site]:
    topics.create(topics.execute, topics.processed, topics.dead)
    made = Site(tmp_path, hub, topics)
    yield made
    for bus in made.buses:
        bus.close()
    made.store.close()


def until(what: Callable[[], Any], *loops: Ingest, seconds: float = 30) -> None:
    """Steps the loops until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        for loop in loops:
            loop.step(0.2)
        if not loops:
            time.sleep(0.05)


def ingested(site: Site, loop: Ingest) -> None:
    """All that is there now, to its acknowledgement."""
    until(loop.drained, loop)


# The road


def test_a_message_becomes_a_row_an_event_and_a_committed_offset(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.send("one", "two")
    site.topics.send(site.topics.execute, b"no workflow")
    ingested(site, site.loop())
    assert site.names() == ["one", "two"]
    assert [one.value for one in site.topics.records(site.topics.processed)] == [b"1", b"2"]
    assert site.committed() == 3
    [dead] = site.topics.records(site.topics.dead)
    assert (dead.value, dict(dead.headers)["peachctl-offset"]) == (b"no workflow", b"2")
    assert dict(dead.headers)["peachctl-reason"].startswith(b"malformed: ")
    assert f"refused {site.topics.execute}-0@2: malformed: " in caplog.text
    assert len(site.store.letters()) == 1


def test_the_header_says_the_priority_and_a_bad_one_is_no_reason_to_refuse(site: Site) -> None:
    for value in (b"7", b"-3", b"many", b"99999999999", b"2147483648", b"2147483647", b""):
        site.topics.producer.send(site.topics.execute, message(), headers=[("peachctl-priority", value)]).get(10)
    ingested(site, site.loop())
    assert [row.priority for row in reversed(site.store.rows())] == [7, -3, 1, 1, 1, 2147483647, 1]


@pytest.mark.fault("B11")
def test_a_null_value_is_an_empty_message_and_one_beyond_the_limit_is_a_letter_that_says_its_size(site: Site) -> None:
    site.topics.producer.send(site.topics.execute, None, key=b"k").get(10)
    large = b"x" * (site.bus()._max_bytes + 5000)
    site.topics.send(site.topics.execute, large)
    site.send("good")
    ingested(site, site.loop())
    assert site.names() == ["good"]
    assert [letter.size for letter in site.store.letters()] == [0, len(large)]
    assert site.committed() == 3


@pytest.mark.fault("B1")
def test_offsets_set_back_to_the_beginning_make_no_new_row(site: Site) -> None:
    site.send("one", "two", "three")
    loop = site.loop()
    ingested(site, loop)
    site.buses.pop().close()
    consumer_group_at(site, 0)
    again = site.loop()
    until(lambda: site.committed() == 3, again)
    assert site.names() == ["one", "three", "two"]


def consumer_group_at(site: Site, offset: int, group: str | None = None, partition: int = 0) -> None:
    from kafka import OffsetAndMetadata, TopicPartition

    at = {TopicPartition(site.topics.execute, partition): OffsetAndMetadata(offset, "", -1)}
    until(
        lambda: all(
            e.errno == 0 for e in site.topics.admin.alter_group_offsets(group or site.topics.group_ingest, at).values()
        )
    )


# The group


@pytest.mark.fault("B2", "B5")
def test_a_partition_that_was_lost_in_mid_batch_is_not_committed_by_its_old_owner(site: Site, tmp_path: Path) -> None:
    site.topics.widen(site.topics.execute, 2)
    first = site.bus()
    site.send("a0", "a1", partition=0)
    site.send("b0", "b1", partition=1)
    hand = take(first, 4)
    second = site.loop()
    # The second joins; the first, polling with its hand full, has to give one partition away.
    until(lambda: first.poll(0.1, 100) == [] and len(first._consumer.assignment()) == 1, second)
    # Its new owner is further on: a commit of the old one would turn it back, and the broker would take it.
    site.send("b2", partition=1)
    until(lambda: first.poll(0.1, 100) == [] and len(site.names()) == 3 and site.committed(1) == 3, second)
    first.ack(hand)
    until(lambda: first.poll(0.1, 100) == [] and site.committed(0) == 2)
    assert site.committed(1) == 3
    assert sorted({m.origin.partition for m in hand}) == [0, 1]


@pytest.mark.fault("B2", "B5")
def test_a_batch_in_hand_is_acknowledged_after_a_rebalance_and_does_not_come_again(site: Site) -> None:
    site.send("one", "two")
    first, second = site.bus(), site.bus()
    hand = take(first, 2)
    until(lambda: first.poll(0.1, 10) + second.poll(0.1, 10) == [] and second._consumer.assignment() is not None)
    first.ack(hand)
    until(lambda: first.poll(0.1, 10) + second.poll(0.1, 10) == [] and site.committed() == 2)


def test_offsets_are_committed_within_a_moment_and_when_the_consumer_leaves(site: Site) -> None:
    site.send("one", "two", "three")
    bus = site.bus()
    hand = take(bus, 3)
    bus.ack(hand[:1])
    until(lambda: bus.poll(5, 10) == [] and site.committed() == 1, seconds=4)  # a poll ends early for it
    bus.ack(hand[1:])
    bus.close()
    assert site.committed() == 3


@pytest.mark.fault("B4", "B7")
def test_a_loop_that_stalls_beyond_its_membership_files_nothing_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peachctl.bus import kafka as module

    ordinary = module.open_consumer
    monkeypatch.setattr(module, "open_consumer", lambda *a, **k: ordinary(*a, **k, max_poll_interval_ms=1500))
    site.send("one", "two")
    bus = site.bus()
    hand = take(bus, 2)
    until(lambda: "Stable" not in state_of(site))
    bus.ack(hand)
    again = take(bus, 2)
    assert [m.origin for m in again] == [m.origin for m in hand]
    assert site.committed() == 0
    bus.ack(again)
    until(lambda: bus.poll(0.1, 10) == [] and site.committed() == 2)


def state_of(site: Site) -> str:
    [group] = site.topics.admin.describe_groups([site.topics.group_ingest]).values()
    return str(group["group_state"])


# Sending


@pytest.mark.fault("F3", "B9")
def test_what_cannot_be_announced_is_announced_when_it_can(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_publish, "_REST", 0.2)
    site.topics.admin.delete_topics([site.topics.processed])
    site.send("one")
    loop = site.loop()
    until(lambda: site.committed() == 1, loop)
    assert site.names() == ["one"]
    assert [row.id for row in site.store.unannounced(10)] == [1]
    assert sum("announcements wait" in line for line in caplog.messages) == 1
    site.topics.create(site.topics.processed)
    until(lambda: not site.store.unannounced(10), loop)
    assert [one.value for one in site.topics.records(site.topics.processed)] == [b"1"]


@pytest.mark.fault("B9")
def test_a_copy_of_a_refused_message_that_cannot_be_made_blocks_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.topics.admin.delete_topics([site.topics.dead])
    site.topics.send(site.topics.execute, b"bad")
    site.send("good")
    ingested(site, site.loop())
    assert (site.names(), len(site.store.letters()), site.committed()) == (["good"], 1, 2)
    assert any("kept in the database alone" in line for line in caplog.messages)


# Where it begins


def start(site: Site, chosen: str) -> None:
    site.variables["PEACHCTL_KAFKA__START"] = chosen
    ingested(site, site.loop())


def test_a_group_without_offsets_begins_at_the_beginning(site: Site) -> None:
    site.send("one")
    ingested(site, site.loop())
    assert site.names() == ["one"]


def test_latest_is_committed_before_anything_is_read(site: Site) -> None:
    site.send("old")
    start(site, "latest")
    assert (site.names(), site.committed()) == ([], 1)
    site.buses.pop().close()
    site.send("while it was away")
    ingested(site, site.loop())
    assert site.names() == ["while it was away"]


def test_a_time_is_where_the_group_begins(site: Site) -> None:
    at = int(time.time() * 1000) - 120_000
    for offset, name in ((0, "before"), (60_000, "after")):
        site.topics.producer.send(site.topics.execute, message(name), timestamp_ms=at + offset).get(10)
    start(site, datetime.fromtimestamp(at / 1000 + 30, UTC).isoformat())
    assert site.names() == ["after"]


def test_partitions_that_are_added_later_begin_at_their_beginning(site: Site) -> None:
    start(site, "latest")
    site.buses.pop().close()
    site.topics.widen(site.topics.execute, 2)
    site.send("new", partition=1)
    ingested(site, site.loop())
    assert site.names() == ["new"]
    assert site.committed(1) == 1


def test_two_first_starts_at_once_begin_where_the_first_of_them_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.variables["PEACHCTL_KAFKA__START"] = "latest"
    site.send("old")
    ordinary = kafka_start.offsets

    def meanwhile(admin: Any, at: dict[Any, int]) -> dict[Any, int]:
        """Has seen no offsets of the group, and looks for the end after another one has begun and a message came."""
        monkeypatch.setattr(kafka_start, "offsets", ordinary)
        ends = ordinary(admin, at)
        site.store.begin(site.topics.execute, {0: 1})
        site.send("new")
        return {tp: end + 1 for tp, end in ends.items()}

    monkeypatch.setattr(kafka_start, "offsets", meanwhile)
    until(lambda: site.names() == ["new"], site.loop())


@pytest.mark.parametrize("chosen", ["earliest", "latest", "2000-01-01T00:00:00+00:00", None])
def test_a_group_whose_offsets_the_broker_forgot_goes_on_behind_what_is_known(
    site: Site, caplog: pytest.LogCaptureFixture, chosen: str | None
) -> None:
    site.topics.widen(site.topics.execute, 3)
    site.send("known", "known too")
    site.topics.send(site.topics.execute, b"a letter", partition=1)
    if chosen is not None:
        site.variables["PEACHCTL_KAFKA__START"] = chosen
    ingested(site, site.loop())
    site.buses.pop().close()
    before = site.names()
    assert before == ([] if chosen == "latest" else ["known", "known too"])
    site.send("first")
    site.send("next", partition=2)
    if chosen == "latest":
        ingested(site, site.loop())
        site.buses.pop().close()
        before = site.names()
        site.send("sent while nobody was there", partition=1)
    else:
        site.send("sent while nobody was there", partition=1)
    site.topics.admin.delete_groups([site.topics.group_ingest])
    until(lambda: site.committed() is None)
    ingested(site, site.loop())
    assert site.names() == sorted({*before, "first", "next", "sent while nobody was there"})
    said = any("going on behind the last messages that are known" in line for line in caplog.messages)
    assert said == (chosen != "earliest")
    assert len(site.store.letters()) == (0 if chosen == "latest" else 1)


def test_an_adopted_installation_without_offsets_does_not_begin_before_that_is_chosen(site: Site) -> None:
    site.send("old")
    site.store.adopted = lambda: True  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="has no offsets in the topic") as raised:
        site.loop().step(0.1)
    assert 'kafka.start = "latest"' in str(raised.value.hint)
    assert site.committed() is None
    start(site, "earliest")
    assert site.names() == ["old"]


def test_an_adopted_installation_takes_over_the_offsets_of_2017(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.send("done in 2017", "waiting")
    consumer_group_at(site, 1, OLD_GROUP)
    site.store.adopted = lambda: True  # type: ignore[method-assign]
    ingested(site, site.loop())
    assert site.names() == ["waiting"]
    assert any(f"(group {OLD_GROUP}) ended: 0:1" in line for line in caplog.messages)


def test_what_the_brokers_retention_took_is_said_and_the_rest_is_read(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    from kafka import TopicPartition

    start(site, "earliest")
    site.buses.pop().close()
    site.send("lost", "lost too", "kept")
    site.topics.admin.delete_records({TopicPartition(site.topics.execute, 0): 2})
    ingested(site, site.loop())
    assert site.names() == ["kept"]
    [said] = [r for r in caplog.records if "LOST" in r.message]
    assert said.levelno == logging.ERROR
    assert "partition 0: 2 messages are LOST" in said.getMessage()


# A topic that was made anew


@pytest.mark.parametrize("names", [["new"], ["new", "newer", "newest", "and one"]], ids=["fewer", "more"])
def test_a_topic_that_was_made_anew_ends_the_loop_until_it_is_accepted(site: Site, names: list[str]) -> None:
    site.send("one", "two")
    ingested(site, site.loop())
    site.buses.pop().close()
    site.recreate(*names)
    consumer_group_at(site, 2)  # a broker that was set up from a copy of its offsets, or that keeps them
    loop = site.loop()
    with pytest.raises(MadeAnewError, match="made anew") as raised:
        until(lambda: False, loop)
    assert (raised.value.exit, raised.value.hint) == (1, f"peachctl init-kafka --accept-new {site.topics.execute}")
    assert site.committed() == 2
    site.buses.pop().close()
    config = kafka_config(site.home, site.topics)
    assert accept_new(config, site.store, site.topics.execute)
    assert site.committed() == 0
    assert not accept_new(config, site.store, site.topics.execute)
    ingested(site, site.loop())
    assert site.names() == sorted(["one", "two", *names])


def test_a_topic_that_was_made_anew_under_a_running_loop_is_noticed(site: Site) -> None:
    site.send("one", "two")
    loop = site.loop()
    ingested(site, loop)
    site.recreate("new", "newer", "newest")
    with pytest.raises(MadeAnewError, match="made anew"):
        until(lambda: False, loop, seconds=60)
    assert site.names() == ["one", "two"]


@pytest.mark.parametrize("names", [["new"], ["new", "newer", "newest", "and one"]], ids=["fewer", "more"])
def test_a_topic_that_was_made_anew_and_took_its_offsets_with_it_is_noticed_where_topics_have_no_ids(
    site: Site, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Brokers before 2.8."""
    from peachctl.bus import kafka as module

    ordinary = module.topic_id
    monkeypatch.setattr(module, "topic_id", lambda *given: None if ordinary(*given) is None else "")
    site.send("one", "two")
    loop = site.loop()
    ingested(site, loop)
    site.recreate(*names)
    with pytest.raises(MadeAnewError, match="made anew"):
        until(lambda: False, loop, seconds=60)
    assert site.names() == ["one", "two"]


@pytest.mark.parametrize("last", ["beyond the limit", "a letter"])
def test_a_message_that_was_refused_shows_a_topic_that_was_made_anew_as_well(site: Site, last: str) -> None:
    site.variables["PEACHCTL_LIMITS__MESSAGE_BYTES"] = "1024"
    bodies = [b"x" * (5000 if last == "beyond the limit" else 50), b"y" * (5000 if last == "beyond the limit" else 50)]
    site.topics.send(site.topics.execute, bodies[0])
    ingested(site, site.loop())
    site.buses.pop().close()
    ingested(site, site.loop())  # it comes again, and is the one that is known
    site.buses.pop().close()
    site.recreate()
    site.topics.send(site.topics.execute, bodies[1])
    site.send("new")
    consumer_group_at(site, 1)
    loop = site.loop()
    with pytest.raises(MadeAnewError, match="made anew"):
        until(lambda: False, loop)
    assert len(site.store.letters()) == 1 and site.names() == []


def test_a_topic_is_not_accepted_as_new_while_a_consumer_is_at_work_or_when_it_is_the_old_one(site: Site) -> None:
    site.send("one")
    loop = site.loop()
    ingested(site, loop)
    config = kafka_config(site.home, site.topics)
    assert not accept_new(config, site.store, site.topics.execute)
    assert site.store.outcome(Origin(site.topics.execute, 0, 0)) is not None
    site.store._db.change("UPDATE peach_origins SET sha256 = ?", ("0" * 64,))
    with pytest.raises(StateError, match="members that are at work"):
        accept_new(config, site.store, site.topics.execute)


# The consumer


@pytest.mark.fault("F1")
def test_an_error_out_of_poll_makes_another_consumer_and_nothing_is_skipped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kafka.record.default_records import DefaultRecordBatch

    site.send("one", "two")
    ordinary = DefaultRecordBatch.validate_crc
    wrong = iter([False, False])
    monkeypatch.setattr(DefaultRecordBatch, "validate_crc", lambda self: next(wrong, True) and ordinary(self))
    loop = site.loop()
    said = []
    until(lambda: said.append(loop.paused) or loop.drained(), loop)  # type: ignore[func-returns-value]
    assert site.names() == ["one", "two"]
    assert any("CorruptRecordError" in (text or "") for text in said)


@pytest.mark.fault("F1")
def test_a_consumer_that_delivers_nothing_although_there_is_something_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from kafka import KafkaConsumer

    from peachctl.bus import kafka as module

    monkeypatch.setattr(module, "_LOOK", 0.2)
    bus = site.bus()
    until(lambda: bus.poll(0.1, 10) == [] and bus.drained())
    stalled = bus._consumer
    ordinary = KafkaConsumer.poll
    monkeypatch.setattr(KafkaConsumer, "poll", lambda self, **k: {} if self is stalled else ordinary(self, **k))
    site.send("one")
    [got] = take(bus, 1)
    assert got.origin.offset == 0
    assert any("another consumer is made" in line for line in caplog.messages)


def test_a_consumer_that_was_given_nothing_is_replaced_while_partitions_are_nobodys_and_only_then(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from peachctl.bus import kafka as module

    monkeypatch.setattr(module, "_LOOK", 0.1)
    monkeypatch.setattr(module, "_AGAIN", 0.1)

    def replaced() -> bool:
        return any("are nobody's" in line for line in caplog.messages)

    # The first one, who shares out, gives no partition to anybody.
    miser = KafkaConsumer(
        site.topics.execute,
        bootstrap_servers=site.topics.broker.address(),
        group_id=site.topics.group_ingest,
        partition_assignment_strategy=(GivesNothing,),
        heartbeat_interval_ms=100,
    )
    until(lambda: miser.poll(timeout_ms=200) == {} and miser._coordinator.generation() is not None)
    bus = site.bus()
    until(lambda: miser.poll(timeout_ms=50) == {} and bus.poll(0.05, 10) == [] and replaced())
    miser.close()
    site.send("one")
    assert len(take(bus, 1)) == 1
    # Beside one who has the only partition another one waits, and is left in peace.
    caplog.clear()
    waits = site.bus()
    until(lambda: bus.poll(0.05, 10) == [] and waits.poll(0.05, 10) == [] and waits._consumer is not None)
    consumer, looks = waits._consumer, set[float]()
    while len(looks) < 8:
        assert bus.poll(0.05, 10) == waits.poll(0.05, 10) == []
        looks.add(waits._look_at)
    assert waits._consumer is consumer and not replaced()


class GivesNothing(RangePartitionAssignor):  # type: ignore[misc]
    """As it happens to one that was told an error in place of the topic."""

    @classmethod
    def assign(cls, cluster: Any, members: Any) -> Any:
        return {one.member_id: ConsumerProtocolAssignment(cls.version, [], b"") for one in members}


@pytest.mark.fault("B8")
def test_a_consumer_without_a_broker_raises_that_and_goes_on_by_itself(site: Site, tmp_path: Path) -> None:
    config = kafka_config(tmp_path, site.topics, PEACHCTL_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    bus = KafkaBus(config, site.store)
    for _ in range(3):
        with pytest.raises(UnreachableError, match="Kafka cannot be reached: 127.0.0.1:1: Connection refused"):
            bus.poll(0.1, 10)
    assert bus.publish([1]) == []
    assert not bus.drained()
    bus._to = site.bus()._to
    site.send("one")
    site.buses.append(bus)
    end = time.monotonic() + 10
    got: list[Any] = []
    while not got and time.monotonic() < end:
        try:
            got = bus.poll(0.2, 10)
        except UnreachableError:
            continue
    assert len(got) == 1


@pytest.mark.fault("D9")
def test_what_shows_a_connection_does_not_show_its_password(site: Site, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("canary\n")
    password.chmod(0o600)
    secured = {
        "PEACHCTL_KAFKA__SECURITY_PROTOCOL": "sasl_plaintext",
        "PEACHCTL_KAFKA__SASL_MECHANISM": "plain",
        "PEACHCTL_KAFKA__SASL_USERNAME": "ada",
        "PEACHCTL_KAFKA__SASL_PASSWORD_FILE": str(password),
    }
    to = settings(kafka_config(tmp_path, site.topics, **secured))
    assert to.options()["sasl_plain_password"] == "canary"
    assert "canary" not in repr(to) + str(to)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "needs kafka.sasl_mechanism as well"),
        ({"PEACHCTL_KAFKA__SASL_MECHANISM": "plain"}, "kafka.sasl_username is not set"),
        (
            {"PEACHCTL_KAFKA__SASL_MECHANISM": "plain", "PEACHCTL_KAFKA__SASL_USERNAME": "ada"},
            "there is no password for kafka.sasl_username ada",
        ),
    ],
)
def test_a_half_configured_login_is_a_mistake_of_the_configuration(
    site: Site, tmp_path: Path, given: dict[str, str], missing: str
) -> None:
    with pytest.raises(ConfigError, match=missing):
        settings(kafka_config(tmp_path, site.topics, PEACHCTL_KAFKA__SECURITY_PROTOCOL="sasl_plaintext", **given))
