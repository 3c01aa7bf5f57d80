"""Servers that are away or refuse: each command says which, in one line, and exits with 5; consumers are not ready."""

import time

import pytest

from tests.cli.test_consume_kafka import log
from tests.conftest import DIAMOND, Peach
from tests.servers import databases, kafka
from tests.servers.between import Between
from tests.test_notify import Ear
from tests.topics import on

NOBODY = {"PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
KAFKA = "Kafka cannot be reached: 127.0.0.1:1: Connection refused"
NO_DATABASE = {"PEACHCTL_DATABASE__URL": "mysql://ada@127.0.0.1:1/peach"}
DATABASE = "mysql://ada@127.0.0.1:1/peach: the database could not be reached for"
AWAY = {
    ("init-kafka",): (NOBODY, KAFKA),
    ("submit", "workflow.json"): (NOBODY, KAFKA),
    ("services", "publish", "--once"): (NOBODY, KAFKA),
    ("init-db",): (NO_DATABASE, DATABASE),
    ("queue", "list"): (NO_DATABASE, DATABASE),
    ("dlq", "list"): (NO_DATABASE, DATABASE),
    ("run", "workflow.json"): (NO_DATABASE, DATABASE),
}


@pytest.mark.fault("B8", "C4")
def test_commands_say_in_one_line_within_30_s_that_a_server_is_away(peach: Peach) -> None:
    """All at once: most of the time they wait."""
    peach.file(DIAMOND)
    began = time.monotonic()
    started = [peach.start(*command, **variables) for command, (variables, _) in AWAY.items()]
    for number, (process, (_, said)) in enumerate(zip(started, AWAY.values(), strict=True)):
        assert process.wait(30) == 5, (process.args, log(peach, number))
        line, hint = log(peach, number).splitlines()
        assert line.startswith("peachctl: ") and said in line and hint.startswith("  see "), process.args
        assert process.stdout is not None and process.stdout.read() == ""
    assert time.monotonic() - began < 30


@pytest.mark.fault("B15")
def test_a_database_that_refuses_ends_each_consumer_at_once(peach: Peach) -> None:
    known = databases.server("mariadb")
    password = peach.home / "password"
    password.touch(0o600)
    password.write_text("canary-wrong")
    with databases.database("mariadb") as name, on(kafka.shared()) as topics:
        topics.create_all()
        peach.env |= topics.environment()
        peach.env["PEACHCTL_DATABASE__URL"] = f"mysql://nobody@127.0.0.1:{known['port']}/{name}"
        troubles = [
            ({"PEACHCTL_DATABASE__PASSWORD_FILE": str(password)}, "the server refuses the user 'nobody'"),
            (
                {"PEACHCTL_DATABASE__TLS_CA": str(topics.broker.ca)},
                "no trusted encrypted connection",
            ),  # the server has no TLS
        ]
        plan = [(what, *trouble) for what in ("ingest", "execute", "all") for trouble in troubles]
        began = time.monotonic()
        started = [peach.start("consume", what, **variables) for what, variables, _ in plan]
        for number, (process, (_, _, said)) in enumerate(zip(started, plan, strict=True)):
            assert process.wait(30) == 5, log(peach, number)
            line, hint = log(peach, number).splitlines()
            assert line.startswith("peachctl: ") and said in line and "database." in hint
            assert "canary" not in line + hint
        assert time.monotonic() - began < 15


def test_a_consumer_is_ready_when_kafka_has_answered_and_not_before(peach: Peach) -> None:
    broker = kafka.shared()
    between = Between(broker.ports["plaintext"])
    names = ("ingest", "execute", "all")
    ears = [Ear(str(peach.home / name)) for name in names]
    with on(broker) as topics:
        topics.create_all()
        peach.env |= topics.environment() | {"PEACHCTL_KAFKA__BOOTSTRAP_SERVERS": between.address}
        with between.swallowing():
            started = [
                peach.start("consume", name, NOTIFY_SOCKET=ear.address, WATCHDOG_USEC="1000000")
                for name, ear in zip(names, ears, strict=True)
            ]
            for ear in ears:
                # It goes on, and says why it is not ready.
                away = ("Kafka cannot be reached", "no events are heard")
                peach.until(lambda: any(one in line for line in ear.listen() for one in away))  # noqa: B023
                assert "READY=1" not in ear.heard
        for ear in ears:
            peach.until(lambda: "READY=1" in ear.listen())  # noqa: B023
            ear.close()
        for process in started:
            process.terminate()
        assert [process.wait(20) for process in started] == [0, 0, 0]
    between.close()
