"""`consume ingest` over Kafka as a real process: kills, brokers that go and come, who may connect, how it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peachctl import wire
from peachctl.bus.kafka_start import OLD_GROUP
from tests.conftest import Peach, node, workflow
from tests.servers import databases, kafka
from tests.store.test_mysql_schema import NEXT, ROWS, Place
from tests.topics import Topics, on


def message(name: str) -> bytes:
    made = workflow(node("a", "Text", ["x"]), name=name)
    return wire.encode_workflow(wire.decode_file(json.dumps(made).encode(), "x.json", wire.Limits()))


def prepared(peach: Peach, topics: Topics) -> Topics:
    peach.env |= topics.environment() | {
        "PEACHCTL_KAFKA__SESSION_TIMEOUT": "2s",
        "PEACHCTL_SERVICES__PUBLISH_EVERY": "0",
    }
    return topics


@pytest.fixture
def topics(peach: Peach) -> Iterator[Topics]:
    with on(kafka.shared()) as made:
        yield prepared(peach, made)


def names(peach: Peach) -> list[str]:
    return sorted(row["name"] for row in peach.rows())


def send(topics: Topics, *names: str) -> None:
    for name in names:
        topics.send(topics.execute, message(name))


@pytest.mark.fault("A5", "A6", "A7")
@pytest.mark.parametrize("point", ["ingest:filed", "ingest:published", "ingest:acked"])
def test_a_kill_at_any_step_loses_nothing_and_files_nothing_twice(peach: Peach, topics: Topics, point: str) -> None:
    topics.create_all()
    send(topics, "one", "two")
    peach("consume", "ingest", "--once", code=-signal.SIGKILL, PEACHCTL_FAILPOINT=point)
    send(topics, "three")
    peach("consume", "ingest", "--once")
    assert names(peach) == ["one", "three", "two"]
    assert {int(one.value) for one in topics.records(topics.processed)} == {1, 2, 3}
    assert topics.committed(topics.group_ingest, topics.execute) == 3


def test_a_kill_in_the_first_start_moves_no_beginning(peach: Peach, topics: Topics) -> None:
    topics.create_all()
    send(topics, "before")
    peach.env["PEACHCTL_KAFKA__START"] = "latest"
    peach("consume", "ingest", "--once", code=-signal.SIGKILL, PEACHCTL_FAILPOINT="kafka-start:begun")
    send(topics, "after")
    peach("consume", "ingest", "--once")
    assert names(peach) == ["after"]


@pytest.mark.fault("B8")
def test_a_broker_that_ends_or_is_killed_and_comes_back_costs_no_message(peach: Peach) -> None:
    broker = kafka.private()
    try:
        with on(broker) as topics:
            prepared(peach, topics)
            topics.create_all()
            process = peach.start("consume", "ingest")
            send(topics, "before")
            peach.until(lambda: names(peach) == ["before"], 30)
            broker.stop()
            broker.start()
            send(topics, "between")
            peach.until(lambda: names(peach) == ["before", "between"], 60)
            broker.kill()
            broker.start()
            send(topics, "after")
            peach.until(lambda: names(peach) == ["after", "before", "between"], 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        with on(broker) as again:  # the clients of before are slower to find a broker again than ours
            group = again.admin.list_group_offsets({topics.group_ingest: None})[topics.group_ingest]
            assert [kept.offset for kept in group.values()] == [3]
    finally:
        broker.stop()


def test_sigterm_is_heard_in_time_while_the_broker_hangs(peach: Peach) -> None:
    """It has rows whose events and offsets the broker does not take: they come again."""
    broker = kafka.private()
    try:
        with on(broker) as topics:
            prepared(peach, topics)
            topics.create_all()
            many = [f"m{number:03}" for number in range(150)]
            send(topics, *many)
            process = peach.start("consume", "ingest")
            peach.until(lambda: names(peach), 60)
            os.kill(broker.pid, signal.SIGSTOP)
            process.terminate()
            assert process.wait(15) == 0
            os.kill(broker.pid, signal.SIGCONT)
            peach("consume", "ingest", "--once")
            assert names(peach) == many
    finally:
        os.kill(broker.pid, signal.SIGCONT)
        broker.stop()


# The change-over


@contextlib.contextmanager
def of_2017(peach: Peach) -> Iterator[Place]:
    """A database of 2017 that `init-db` adopts."""
    kind = databases.KINDS[0]
    known = databases.server(kind)
    with databases.database(kind) as name, contextlib.closing(databases.connect(known, name)) as client:
        place = Place(kind, name, client)
        place.make_old()
        peach.env["PEACHCTL_DATABASE__URL"] = f"mysql://root@127.0.0.1:{known['port']}/{name}"
        assert "adopt" in peach("init-db").stdout
        yield place


def since(peach: Peach) -> list[tuple[str, str]]:
    """Name and status of the rows that came after those of 2017."""
    return [(row["name"], row["status"]) for row in peach.rows() if row["id"] >= NEXT]


def test_on_a_broker_of_the_line_before_4_both_consumers_go_on_where_the_backend_of_2017_ended(peach: Peach) -> None:
    broker = kafka.private("old-kafka")
    try:
        with on(broker) as topics, of_2017(peach) as place:
            prepared(peach, topics)
            assert "missing" in peach.inside("init-kafka", "--check")
            assert "created" in peach.inside("init-kafka", "--partitions", "1")
            assert "missing" not in peach.inside("init-kafka", "--check")
            send(topics, "done in 2017", "one")
            topics.send(topics.execute, b"bad")
            topics.pretend(OLD_GROUP, topics.execute, 1)
            executor = peach.start("consume", "execute")
            took = peach("consume", "ingest", "--once")
            assert f"beginning where the 2017 backend (group {OLD_GROUP}) ended: 0:1" in took.stderr
            peach.until(lambda: since(peach) == [("one", "success")])
            # It listened on such a broker as well, and left its position behind.
            executor.terminate()
            assert executor.wait(20) == 0
            assert topics.committed(topics.group_execute, topics.processed) == 1
            assert [one.value for one in topics.records(topics.processed)] == [b"%d" % NEXT]
            assert [one.value for one in topics.records(topics.dead)] == [b"bad"]
            assert topics.committed(topics.group_ingest, topics.execute) == 3
            assert topics.committed(OLD_GROUP, topics.execute) == 1
            assert [row for row in place.rows() if row[0] < NEXT] == ROWS
    finally:
        broker.stop()


def test_after_an_adoption_ingest_does_not_begin_before_the_operator_has_chosen(peach: Peach, topics: Topics) -> None:
    topics.create_all()
    send(topics, "done in 2017")
    with of_2017(peach) as place:
        for command in (("consume", "ingest", "--once"), ("consume", "all")):
            refused = peach(*command, code=2).stderr
            assert "has no offsets in the topic" in refused and 'kafka.start = "latest"' in refused
        assert topics.committed(topics.group_ingest, topics.execute) is None and since(peach) == []
        peach("consume", "ingest", "--once", PEACHCTL_KAFKA__START="latest")
        send(topics, "one")
        # What was chosen counts once and for all.
        peach("consume", "ingest", "--once")
        assert since(peach) == [("one", "queued")]
        assert [row for row in place.rows() if row[0] < NEXT] == ROWS


def test_a_topic_made_anew_exits_1_and_its_acceptance_may_be_killed_at_any_step(peach: Peach, topics: Topics) -> None:
    topics.create_all()
    send(topics, "one", "two")
    peach("consume", "ingest", "--once")
    topics.admin.delete_topics([topics.execute])
    peach.until(lambda: topics.execute not in topics.admin.list_topics())
    topics.create(topics.execute)
    send(topics, "new")
    ended = peach("consume", "ingest", "--once", code=1)
    assert "made anew" in ended.stderr
    assert f"peachctl init-kafka --accept-new {topics.execute}" in ended.stderr
    accept = ("init-kafka", "--accept-new", topics.execute)
    for point in ("init-kafka:offsets", "init-kafka:epoch"):
        peach(*accept, code=-signal.SIGKILL, PEACHCTL_FAILPOINT=point)
    assert peach.json(*accept) == {"topic": topics.execute, "accepted": False}
    peach("consume", "ingest", "--once")
    assert names(peach) == ["new", "one", "two"]


@pytest.mark.fault("D1")
def test_a_full_disk_is_said_once_and_waited_for_and_nothing_of_the_topic_is_lost(peach: Peach, topics: Topics) -> None:
    """A real full disk: the queue folder on a small tmpfs, in a mount namespace of the consumer's own."""
    topics.create_all()
    peach.queue.mkdir(parents=True)
    many = [f"m{number:02}" for number in range(40)]
    send(topics, *many)
    script = 'mount -t tmpfs -o size=400k none "$0"; head -c 380k /dev/zero >"$0/full"; exec "$@"'
    consumer = (sys.executable, "-m", "peachctl", "consume", "ingest")
    process = peach.spawn(["unshare", "-Urm", "sh", "-c", script, str(peach.queue), *consumer])
    stderr = peach.home / "stderr.0"
    peach.until(lambda: "No space left on device" in stderr.read_text())
    began, used = time.monotonic(), seconds_used(process.pid)
    peach.until(lambda: time.monotonic() - began > 2.5)  # some tries
    assert seconds_used(process.pid) - used < 1.5
    assert stderr.read_text().count("No space left on device") == 1
    assert topics.committed(topics.group_ingest, topics.execute) == 0
    queue = Path(f"/proc/{process.pid}/root{peach.queue}")
    assert len(list(queue.glob("*.py"))) < len(many)
    (queue / "full").unlink()
    peach.until(lambda: topics.committed(topics.group_ingest, topics.execute) == len(many), 60)
    assert "going on" in stderr.read_text()
    assert names(peach) == many
    assert len(list(queue.glob("*.py"))) == len(many)
    assert {int(one.value) for one in topics.records(topics.processed)} == {row["id"] for row in peach.rows()}
    process.terminate()
    assert process.wait(20) == 0


def seconds_used(pid: int) -> float:
    """Of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


# Who may connect


@pytest.fixture
def secured(peach: Peach) -> kafka.Broker:
    """SASL over TLS, with all that is right."""
    broker = kafka.shared()
    password = peach.home / "password"
    password.write_text(kafka.PASSWORD + "\n")
    password.chmod(0o600)
    peach.env |= {
        "PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": broker.address("sasl_ssl"),
        "PEACHCTL_KAFKA__SECURITY_PROTOCOL": "sasl_ssl",
        "PEACHCTL_KAFKA__SASL_MECHANISM": "scram-sha-512",
        "PEACHCTL_KAFKA__SASL_USERNAME": kafka.USER,
        "PEACHCTL_KAFKA__SASL_PASSWORD_FILE": str(password),
        "PEACHCTL_KAFKA__TLS_CA": str(broker.ca),
    }
    return broker


@pytest.mark.fault("B15", "D9")
def test_a_consumer_over_tls_and_sasl_shows_its_password_nowhere(peach: Peach, secured: kafka.Broker) -> None:
    with on(secured) as topics:
        for key, value in topics.environment().items():
            peach.env.setdefault(key, value)
        topics.create_all()
        send(topics, "one")
        done = peach("-v", "consume", "ingest", "--once")
        shown = peach("-v", "config", "show", "--sources")
        bad = script(peach, VERBOSE, PEACHCTL_KAFKA__SASL_USERNAME="mallory")
        assert bad.returncode == 5
        assert names(peach) == ["one"]
    for one in (done, shown, bad):
        assert kafka.PASSWORD not in one.stdout + one.stderr


@pytest.mark.fault("B15")
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("ca", "its certificate is not accepted: unable to get local issuer certificate"),
        ("name", "its certificate is not accepted: IP address mismatch"),
        ("mechanism", "does not take gssapi"),
    ],
)
def test_who_is_refused_is_told_so_at_once(peach: Peach, secured: kafka.Broker, mistake: str, said: str) -> None:
    variables = {
        "ca": {"PEACHCTL_KAFKA__TLS_CA": str(secured.home / "other-ca.pem")},
        "name": {
            "PEACHCTL_KAFKA__SECURITY_PROTOCOL": "ssl",
            "PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{secured.ports['ssl']}",
        },
        "mechanism": {"PEACHCTL_KAFKA__SASL_MECHANISM": "gssapi"},
    }[mistake]
    began = time.monotonic()
    ended = peach("consume", "all", code=2 if mistake == "mechanism" else 5, **variables)
    assert ended.stderr.count(said) == 1 and "Taking workflows" not in ended.stderr
    assert time.monotonic() - began < 15


# How it ends

VERBOSE = """
import sys
from peachctl.cli import main
sys.argv = ["peachctl", "-v", "init-kafka", "--check"]
main()
"""

ONCE = """
import sys
from peachctl import serve
serve.ONCE_PATIENCE = 2.0
from peachctl.cli import main
sys.argv = ["peachctl", "consume", "ingest", "--once"]
main()
"""

STUCK = """
import kafka, sys
from peachctl import serve
spins = lambda self, **settings: [None for _ in iter(int, 1)]
kafka.KafkaConsumer.poll = spins
serve.serve_ingest.__kwdefaults__["stuck"] = serve.IngestThread.stuck = 2.0
from peachctl.cli import main
sys.argv = ["peachctl", "consume", "WHICH"]
main()
"""


def script(peach: Peach, text: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", text]
    env = peach.environment(**variables)
    return subprocess.run(command, env=env, cwd=peach.home, capture_output=True, text=True, timeout=90)


def test_once_without_a_broker_exits_5_when_its_patience_is_over(peach: Peach) -> None:
    ended = script(peach, ONCE, PEACHCTL_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert ended.returncode == 5, ended.stderr
    assert (
        ended.stderr.count("Kafka cannot be reached: 127.0.0.1:1: Connection refused") == 2
    )  # while it waits, and then


@pytest.mark.fault("F1", "B10")
@pytest.mark.parametrize("which", ["ingest", "all"])
def test_a_poll_that_never_returns_ends_the_process_with_its_stacks(peach: Peach, topics: Topics, which: str) -> None:
    topics.create_all()
    ended = script(peach, STUCK.replace("WHICH", which))
    assert ended.returncode == 70, ended.stderr
    assert "nothing has moved for 2 s" in ended.stderr
    assert "ingest.py" in ended.stderr and "in step" in ended.stderr


@pytest.mark.fault("D7")
def test_sigterm_drains_and_ends_with_0(peach: Peach, topics: Topics, tmp_path: Path) -> None:
    topics.create_all()
    process = peach.start("consume", "ingest")
    send(topics, "one")
    peach.until(lambda: topics.committed(topics.group_ingest, topics.execute) == 1, 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    # It has left the group: another one need not wait until it counts as dead.
    [group] = topics.admin.describe_groups([topics.group_ingest]).values()
    assert group["group_state"] == "Empty"
