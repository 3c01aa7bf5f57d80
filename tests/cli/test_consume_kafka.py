"""`consume execute` and `consume all` on Kafka, as real processes with a real broker."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peachctl import app, by_hand
from peachctl.config import load
from tests import topics
from tests.conftest import DIAMOND, Peach, node, workflow
from tests.servers import kafka
from tests.topics import Topics


@pytest.fixture
def at(peach: Peach) -> Iterator[Topics]:
    with topics.on(kafka.shared()) as made:
        made.create_all()
        peach.env.update(made.environment())
        yield made


def slow(peach: Peach, marker: str, seconds: float = 60) -> dict[str, Any]:
    return workflow(
        node("t", "Text", ["x"]), node("d", "Daemon", [marker], "t"), node("s", "Sleep", [str(seconds)], "d")
    )


def file(peach: Peach, value: Any, name: str = "workflow.json") -> int:
    """Files a workflow as ingest does, and loses its event."""
    environment = {key: text for key, text in peach.environment().items() if "KAFKA" not in key}
    config = load(environ=environment)
    entry = by_hand.entry_of(config, str(peach.file(value, name)))
    app.make_folders(config)
    with contextlib.closing(app.open_store(config)) as store:
        [submitted] = by_hand.submit(config, store, [(name, entry)])
    return submitted.id


def running(peach: Peach, id: int, node: str = "s") -> bool:
    return [one["status"] for one in peach.detail(id)["nodes"] if one["id"] == node] == ["running"]


def log(peach: Peach, number: int = 0) -> str:
    return (peach.home / f"stderr.{number}").read_text()


@pytest.mark.fault("A6", "C5")
def test_each_workflow_runs_once_though_all_executors_hear_all_events_and_sigterm_drains(
    peach: Peach, at: Topics
) -> None:
    counted = peach.home / "counted"
    processes = [peach.start("consume", "execute", PEACHCTL_EXECUTE__SLOTS="2") for _ in range(2)]
    for number in range(8):
        id = file(peach, workflow(node("a", "Text", ["x"]), node(f"c{number}", "Count", [str(counted)], "a")))
        at.send(at.processed, b"%d" % id)
    peach.until(lambda: len([row for row in peach.rows() if row["status"] == "success"]) == 8)
    assert sorted(counted.read_text().split()) == sorted(f"c{number}" for number in range(8))
    assert {row["attempt"] for row in peach.rows()} == {1}
    short = file(peach, workflow(node("t", "Text", ["x"]), node("s", "Sleep", ["1"], "t")))
    peach.until(lambda: running(peach, short))
    for process in processes:
        process.terminate()
    assert [process.wait(20) for process in processes] == [0, 0]
    assert peach.detail(short)["status"] == "success"


@pytest.mark.fault("B3", "B6", "B14")
def test_a_run_of_days_keeps_no_event_waiting_and_no_membership_alive(peach: Peach, at: Topics) -> None:
    """What a group does with members that do not poll does not concern an executor: it is none."""
    process = peach.start("consume", "execute", PEACHCTL_EXECUTE__SLOTS="2")
    id = file(peach, slow(peach, "long"))
    peach.until(lambda: running(peach, id))
    other = file(peach, DIAMOND)
    at.send(at.processed, b"%d" % other)
    peach.until(lambda: peach.detail(other)["status"] == "success")
    peach.until(lambda: at.committed(at.group_execute, at.processed) is not None)
    [group] = at.admin.describe_groups([at.group_execute]).values()
    assert (group["group_state"], group["members"]) == ("Empty", [])
    # Nothing of a run holds a connection of its executor.
    assert tcp_sockets(process.pid)
    others = [pid for pid in peach.marked() if pid != process.pid]
    assert len(others) >= 2
    assert {pid: tcp_sockets(pid) for pid in others} == {pid: set() for pid in others}
    assert running(peach, id)
    process.terminate()
    peach.until(lambda: "draining 1 running" in log(peach))
    process.terminate()
    assert process.wait(20) == 0
    assert peach.detail(id)["status"] == "queued"
    peach.until(lambda: not peach.marked())


@pytest.mark.fault("C7")
def test_a_client_that_deletes_or_cancels_a_row_ends_the_run_with_all_its_processes(peach: Peach, at: Topics) -> None:
    process = peach.start("consume", "execute", PEACHCTL_EXECUTE__SLOTS="2")
    ids = [file(peach, slow(peach, f"{peach.home}-daemon")) for _ in range(2)]
    peach.until(lambda: all(running(peach, id) for id in ids))
    before = len(peach.marked())
    began = time.monotonic()
    with sqlite3.connect(peach.database) as database:
        database.execute("DELETE FROM queue WHERE id = ?", (ids[0],))
        database.execute("UPDATE queue SET status = 2 WHERE id = ?", (ids[1],))
    database.close()
    peach.until(lambda: not [pid for pid in peach.marked() if b"-daemon" in cmdline(pid)])
    assert time.monotonic() - began < 15
    assert len(peach.marked()) < before
    peach.until(lambda: [row["output_file"] for row in peach.rows()] != [""])
    assert [(row["id"], row["status"]) for row in peach.rows()] == [(ids[1], "cancelled")]
    process.terminate()
    assert process.wait(20) == 0


def cmdline(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read()
    except OSError:
        return b""


@pytest.mark.fault("A5")
def test_a_lost_event_costs_a_look_into_the_queue_and_no_sweep(peach: Peach) -> None:
    config = load(environ=peach.environment())
    app.make_folders(config)
    with contextlib.closing(app.open_store(config)) as store:
        options = app.options(config, sweep=3600)
        with app.execute_loop(config, store, options) as (loop, _):
            loop.step(0)
            assert loop.idle
            id = file(peach, DIAMOND)
            peach.until(lambda: (loop.step(0.2), store.get(id).status.ended)[1])  # type: ignore[union-attr]
            assert store.get(id).status.word == "success"  # type: ignore[union-attr]


@pytest.mark.fault("B8")
def test_a_broker_that_is_away_is_said_once_and_stops_no_executor(peach: Peach, at: Topics) -> None:
    process = peach.start("consume", "all", PEACHCTL_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    peach.until(lambda: "no events are heard" in log(peach) and "Kafka cannot be reached" in log(peach))
    id = file(peach, DIAMOND)
    peach.until(lambda: peach.detail(id)["status"] == "success")
    process.terminate()
    assert process.wait(20) == 0
    assert log(peach).count("no events are heard") == 1
    assert log(peach).count("Kafka cannot be reached") <= 3  # of ingest, of the events, of the list of services


def test_an_ingest_that_ends_by_itself_ends_the_executor_beside_it_with_its_status(peach: Peach, at: Topics) -> None:
    at.pretend(at.group_ingest, at.execute, 7)  # the topic is empty: it was made anew
    id = file(peach, workflow(node("t", "Text", ["x"]), node("s", "Sleep", ["1"], "t")))
    assert "init-kafka --accept-new" in peach("consume", "all", code=1).stderr
    # What runs is drained, what waits keeps waiting.
    assert peach.detail(id)["status"] in ("success", "queued")


@pytest.mark.fault("B15", "D9")
@pytest.mark.parametrize(
    "command", [("consume", "execute"), ("consume", "all"), ("services", "publish"), ("submit", "workflow.json")]
)
def test_a_password_that_is_refused_ends_a_consumer_at_once(peach: Peach, at: Topics, command: tuple[str, ...]) -> None:
    secret = "canary-wrong-password"
    password = peach.home / "password"
    password.touch(0o600)
    password.write_text(secret)
    peach.file(DIAMOND)
    done = peach(
        *command,
        code=5,
        PEACHCTL_KAFKA__BOOTSTRAP_SERVERS=at.broker.address("sasl_plaintext"),
        PEACHCTL_KAFKA__SECURITY_PROTOCOL="sasl_plaintext",
        PEACHCTL_KAFKA__SASL_MECHANISM="plain",
        PEACHCTL_KAFKA__SASL_USERNAME=kafka.USER,
        PEACHCTL_KAFKA__SASL_PASSWORD_FILE=str(peach.home / "password"),
    )
    assert done.stderr.count("does not accept the user") == 1 and f"the user {kafka.USER}" in done.stderr
    assert "Taking workflows" not in done.stderr
    assert secret not in done.stdout + done.stderr


def tcp_sockets(pid: int) -> set[str]:
    """Inodes of the TCP connections that a process holds."""
    known = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    return known & found
