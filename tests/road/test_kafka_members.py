"""Consumers on Kafka as real processes: what becomes of their membership, of what is in hand, and what they show."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer  # noqa: TID253 a client of the installation
from kafka.admin import ConfigResource, ConfigResourceType  # noqa: TID253

from peachctl import wire
from tests.conftest import Peach, node, workflow
from tests.road.test_kafka import message, names, prepared, send
from tests.road.test_take_over import locked
from tests.servers import kafka
from tests.servers.between import BetweenKafka
from tests.topics import Topics, on

INTERVAL = 2.0  # seconds of max.poll.interval in the first test; 300 s else

SHORT = f"""
import os, sys
from peachctl.bus import kafka_client
ordinary = kafka_client.open_consumer
kafka_client.open_consumer = lambda *given, **more: ordinary(*given, **more, max_poll_interval_ms={INTERVAL * 1000:.0f})
sys.addaudithook(lambda event, _: event in ("os.fork", "os.forkpty") and os.write(2, b"a fork\\n"))
from peachctl.cli import main
sys.argv = ["peachctl", "consume", "all"]
main()
"""


@pytest.fixture
def topics(peach: Peach) -> Iterator[Topics]:
    with on(kafka.shared()) as made:
        prepared(peach, made).create_all()
        yield made


def start(peach: Peach, text: str) -> "subprocess.Popen[str]":
    """A consumer with other settings than people have; ended with the test."""
    return peach.spawn([sys.executable, "-c", text])


def put(topics: Topics, value: dict[str, Any]) -> None:
    topics.send(topics.execute, wire.encode_workflow(wire.workflow_from_json(value)))


def member(topics: Topics) -> str:
    [group] = topics.admin.describe_groups([topics.group_ingest]).values()
    return " ".join(one["member_id"] for one in group["members"])


@pytest.mark.fault("B3", "B6", "B7", "B14")
def test_a_run_that_is_longer_than_max_poll_interval_costs_no_membership_and_holds_up_no_ingest(
    peach: Peach, topics: Topics
) -> None:
    go_on = peach.home / "go-on"
    process = start(peach, SHORT)
    put(topics, workflow(node("t", "Text", ["x"]), node("u", "Until", [str(go_on)], "t"), name="long"))
    peach.until(lambda: [row["status"] for row in peach.rows()] == ["processing"])
    began, first = time.monotonic(), member(topics)
    assert first
    for number in range(3):
        put(topics, workflow(node("t", "Text", ["x"]), name=f"short {number}"))
        peach.until(lambda: [row["status"] for row in peach.rows()].count("success") == number + 1)  # noqa: B023
        peach.until(lambda: time.monotonic() - began > INTERVAL * (number + 1))  # noqa: B023
    assert time.monotonic() - began > 2 * INTERVAL
    assert {row["name"]: row["status"] for row in peach.rows()}["long"] == "processing"
    assert member(topics) == first, "it has left the group meanwhile"
    go_on.touch()
    peach.until(lambda: {row["status"] for row in peach.rows()} == {"success"})
    assert {row["attempt"] for row in peach.rows()} == {1}
    process.terminate()
    assert process.wait(20) == 0
    assert topics.committed(topics.group_ingest, topics.execute) == 4
    assert topics.committed(topics.group_execute, topics.processed) == 4, "the position of its end"
    assert "a fork" not in (peach.home / "stderr.0").read_text()


@pytest.mark.fault("B2", "B13")
def test_members_come_and_go_and_are_killed_while_messages_flow_and_each_is_filed_once(
    peach: Peach, topics: Topics
) -> None:
    topics.widen(topics.execute, 2)
    sent: list[str] = []

    def flow(count: int) -> None:
        for _ in range(count):
            sent.append(f"w{len(sent):03d}")
            topics.send(topics.execute, message(sent[-1]), partition=len(sent) % 2)

    first, killed = peach.start("consume", "ingest"), peach.start("consume", "ingest")
    peach.until(lambda: (flow(1), len(member(topics).split()) == 2)[1], 30)
    flow(20)
    killed.kill()
    flow(20)
    last = peach.start("consume", "ingest")
    peach.until(lambda: (flow(1), len(peach.rows()) >= len(sent) - 30)[1], 30)
    first.terminate()
    flow(10)
    assert first.wait(20) == 0
    peach.until(lambda: len(peach.rows()) == len(sent), 30)
    last.terminate()
    assert last.wait(20) == 0
    assert names(peach) == sent
    ids = {row["id"] for row in peach.rows()}
    assert {int(one.value) for one in topics.records(topics.processed)} == ids
    # What a consumer has filed when it is told to end is committed.
    assert sum(topics.committed(topics.group_ingest, topics.execute, part) or 0 for part in (0, 1)) == len(sent)


@pytest.mark.fault("B2", "B3")
def test_a_third_consumer_that_joins_during_a_long_batch_and_a_long_run_costs_one_rebalance_and_no_message(
    peach: Peach, topics: Topics
) -> None:
    topics.widen(topics.execute, 3)
    peach.until(lambda: len(topics.admin.describe_topics([topics.execute])[0]["partitions"]) == 3)
    between = BetweenKafka(topics.broker.ports["plaintext"])
    peach.env |= {"PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": between.address, "PEACHCTL_EXECUTE__LEASE": "60s"}
    go_on = peach.home / "go-on"
    sent = ["long"]
    put(topics, workflow(node("t", "Text", ["x"]), node("u", "Until", [str(go_on)], "t"), name="long"))

    def flow(count: int) -> None:
        for _ in range(count):
            sent.append(f"w{len(sent):03d}")
            topics.send(topics.execute, message(sent[-1]), partition=len(sent) % 3)

    def settled(members: int) -> bool:
        [group] = topics.admin.describe_groups([topics.group_ingest]).values()
        return group["group_state"] == "Stable" and len(group["members"]) == members

    consumers = [peach.start("consume", "all"), peach.start("consume", "ingest")]
    peach.until(lambda: [row["status"] for row in peach.rows()] == ["processing"] and settled(2), 40)
    with locked(peach):  # what they have in hand now, they have for longer than a session lasts
        flow(30)
        consumers.append(peach.start("consume", "ingest"))
        peach.until(lambda: not settled(2), 40)
        began = time.monotonic()
        peach.until(lambda: time.monotonic() - began > 3)
    peach.until(lambda: len(peach.rows()) >= len(sent) and settled(3), 60)
    joins, began = between.asked[BetweenKafka.JOIN_GROUP], time.monotonic()
    flow(9)
    peach.until(lambda: len(peach.rows()) >= len(sent) and time.monotonic() - began > 3, 30)
    assert settled(3) and between.asked[BetweenKafka.JOIN_GROUP] == joins, "no rebalance follows"
    assert {row["name"]: row["status"] for row in peach.rows()}["long"] == "processing"
    go_on.touch()
    peach.until(lambda: {row["status"] for row in peach.rows()} == {"success"}, 30)
    assert names(peach) == sent and {row["attempt"] for row in peach.rows()} == {1}
    for process in consumers:
        process.terminate()
    assert [process.wait(20) for process in consumers] == [0, 0, 0]
    between.close()
    assert sum(topics.committed(topics.group_ingest, topics.execute, part) or 0 for part in range(3)) == len(sent)


@pytest.mark.fault("B11")
def test_values_of_50_mb_are_letters_and_take_the_memory_of_one_however_many_there_are(
    peach: Peach, topics: Topics
) -> None:
    large = 64 << 20
    name = ConfigResource(ConfigResourceType.TOPIC, topics.execute, {"max.message.bytes": str(large)})
    topics.admin.alter_configs([name])
    producer = KafkaProducer(bootstrap_servers=topics.broker.address(), max_request_size=large)
    process = peach.start("consume", "ingest")

    def peak(*sizes: int) -> float:
        """MB that the consumer has had at most, once those and one behind them are filed."""
        before = len(peach.letters()), len(peach.rows())
        for size in sizes:
            producer.send(topics.execute, bytes(size)).get(30)
        send(topics, f"behind {before[0]}")
        after = before[0] + len(sizes), before[1] + 1
        peach.until(lambda: (len(peach.letters()), len(peach.rows())) == after, 60)
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    small = peak(5_000_000)
    one = peak(50_000_000)
    many = peak(*(50_000_000,) * 5)
    assert many - one < 130, (small, one, many)
    assert one < 350, (small, one, many)
    producer.close()
    sizes = [letter["size"] for letter in peach.letters()]
    assert sorted(sizes) == [5_000_000] + [50_000_000] * 6
    assert {letter["reason"] for letter in peach.letters() if letter["size"] == 5_000_000} == {
        "too-large: message of 5000000 bytes, the limit is 1048576"
    }
    peach.until(lambda: topics.committed(topics.group_ingest, topics.execute) == 10)
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.fault("D9")
def test_the_password_is_in_no_command_line_environment_file_or_output(peach: Peach) -> None:
    broker = kafka.shared()
    password = peach.home / "secret"
    password.touch(0o600)
    password.write_text(kafka.PASSWORD + "\n")
    go_on = peach.home / "go-on"
    with on(broker) as topics:
        topics.create_all()
        peach.env |= topics.environment() | {
            "PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": broker.address("sasl_ssl"),
            "PEACHCTL_KAFKA__SECURITY_PROTOCOL": "sasl_ssl",
            "PEACHCTL_KAFKA__SASL_MECHANISM": "plain",
            "PEACHCTL_KAFKA__SASL_USERNAME": kafka.USER,
            "PEACHCTL_KAFKA__SASL_PASSWORD_FILE": str(password),
            "PEACHCTL_KAFKA__TLS_CA": str(broker.ca),
        }
        process = peach.start("-v", "consume", "all")
        put(topics, workflow(node("t", "Text", ["x"]), node("u", "Until", [str(go_on)], "t"), name="one"))
        send(topics, "two")
        topics.send(topics.execute, b"no workflow")
        peach.until(lambda: sorted(row["status"] for row in peach.rows()) == ["processing", "success"], 30)
        peach.until(lambda: topics.committed(topics.group_ingest, topics.execute) == 3)
        pids = [process.pid, *peach.marked()]
        assert len(pids) > 2, "the executor, its supervisor, a run"
        for pid in pids:
            for name in ("cmdline", "environ"):
                assert kafka.PASSWORD.encode() not in (Path("/proc") / str(pid) / name).read_bytes()
        process.send_signal(signal.SIGTERM)
        go_on.touch()
        assert process.wait(20) == 0
    assert process.stdout is not None and kafka.PASSWORD not in process.stdout.read()
    seen = [path for path in peach.home.rglob("*") if path.is_file() and path != password]
    assert any(path.name == "stderr.0" and path.stat().st_size > 500 for path in seen)
    assert [path for path in seen if kafka.PASSWORD.encode() in path.read_bytes()] == []
