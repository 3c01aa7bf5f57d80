"""A SIGKILL at every fail point of both consumers over Kafka and a database server; then a second process mends it."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from peachctl.bus import kafka_topics
from tests.conftest import Peach
from tests.road import ledger
from tests.road.campaign import PARTITIONS, Installation, installation
from tests.servers import databases, kafka
from tests.test_failpoints import all_points, points_of


def send(place: Installation, *kinds: str, seconds: float = 0.0) -> list[ledger.Sent]:
    sent = []
    for kind in kinds:
        found = place.at.send(place.at.execute, ledger.message(kind, kind, place.beats, seconds))
        sent.append(ledger.Sent(kind, kind, (found.partition, found.offset)))
    return sent


def killed(place: Installation, point: str, *arguments: object) -> None:
    done = place.peach(*arguments, code=None, PEACHCTL_FAILPOINT=point)
    assert done.returncode == -signal.SIGKILL, f"{point} was not passed\n{done.stdout}\n{done.stderr}"


def mended(place: Installation, sent: list[ledger.Sent]) -> None:
    place.peach("consume", "all", "--once")
    assert place.judge(sent).mistakes() == {}
    assert [letter["reason"].partition(":")[0] for letter in place.peach.letters()] in (
        ["cycle", "malformed"],
        ["malformed", "cycle"],
    )
    assert all(row["output_file"] for row in place.peach.rows())


def in_either(place: Installation, point: str) -> None:
    """One workflow that runs, one that can't be run, and bytes that are none."""
    sent = send(place, ledger.SLOW, ledger.CYCLE, ledger.BAD, seconds=0.4)
    killed(place, point, "consume", "all", "--once")
    mended(place, sent)


def with_unpacked_refusal(place: Installation, point: str) -> None:
    sent = send(place, ledger.GOOD, ledger.CYCLE, ledger.BAD)
    killed(place, "ingest:filed", "consume", "ingest", "--once")
    killed(place, point, "consume", "execute", "--once")
    mended(place, sent)


def after_a_dead_executor(place: Installation, point: str) -> None:
    place.peach.env["PEACHCTL_EXECUTE__LEASE"] = "600s"
    sent = send(place, ledger.GOOD, ledger.CYCLE, ledger.BAD)
    killed(place, "execute:claimed", "consume", "all", "--once")
    killed(place, point, "consume", "execute", "--once")
    mended(place, sent)
    assert max(row["attempt"] for row in place.peach.rows()) == 2


def while_draining(place: Installation, point: str) -> None:
    sent = send(place, ledger.SLOW, ledger.CYCLE, ledger.BAD, seconds=4)
    process = place.peach.start("consume", "all", PEACHCTL_FAILPOINT=point, PEACHCTL_EXECUTE__DRAIN="0.1s")
    place.peach.until(lambda: place.beats.exists() and len(place.peach.letters()) == 2, 60)
    process.terminate()
    assert process.wait(30) == -signal.SIGKILL
    mended(place, sent)


def with_a_deleted_row(place: Installation, point: str) -> None:
    send(place, ledger.SLOW, seconds=60)
    process = place.peach.start("consume", "all", PEACHCTL_FAILPOINT=point)
    place.peach.until(place.beats.exists, 60)
    databases.execute(place.server, "DELETE FROM queue", database=place.database)
    assert process.wait(30) == -signal.SIGKILL
    place.peach("consume", "all", "--once")
    assert place.rows() == []
    assert ledger.within(15, lambda: not place.peach.marked())


def in_acceptance(place: Installation, point: str) -> None:
    """A topic that was made anew, and is accepted."""
    sent = send(place, ledger.GOOD, ledger.GOOD, ledger.GOOD, ledger.GOOD)
    place.peach("consume", "ingest", "--once")
    assert len(place.rows()) == len(sent)
    topic = place.at.execute
    place.at.admin.delete_topics([topic])
    place.peach.until(lambda: topic not in place.at.admin.list_topics())
    place.at.create(topic, partitions=PARTITIONS)
    again = send(place, ledger.BAD, ledger.CYCLE)
    killed(place, point, "init-kafka", "--accept-new", topic)
    place.peach("init-kafka", "--accept-new", topic)
    place.peach("consume", "ingest", "--once")
    assert len(place.rows()) == len(sent) + 1
    assert len(place.peach.letters()) == len(again)


SCENARIOS: dict[str, Callable[[Installation, str], None]] = {
    **dict.fromkeys(
        [
            *("ingest:cleaned", "ingest:cleaned-downloads", "ingest:polled", "ingest:filed", "ingest:placed"),
            *("ingest:published", "ingest:announced", "ingest:acked", "ingest:packed", "ingest:attached"),
            *("ingest:rejected", "execute:joined", "execute:renewed", "execute:expired", "execute:claimed"),
            *("execute:prepared", "execute:started", "execute:reported", "execute:packed", "execute:finished"),
            "execute:left",
        ],
        in_either,
    ),
    "execute:released": after_a_dead_executor,
    "execute:refusal-packed": with_unpacked_refusal,
    "execute:refusal-attached": with_unpacked_refusal,
    "execute:given-back": while_draining,
    "execute:last-reported": while_draining,
    "execute:removed": with_a_deleted_row,
    "init-kafka:offsets": in_acceptance,
    "init-kafka:epoch": in_acceptance,
}

ELSEWHERE = {
    # Steps in the folders of one host, the same whatever the servers are.
    *("execute:written", "execute:rendered", "execute:logged", "execute:published", "execute:failure-packed"),
    # No consumer takes them.
    *("ingest:submitted", "ingest:submitted-announced", "submit:sent", "run:joined", "run:filed", "run:cancelled"),
    *("letters:filed", "letters:dropped", "letters:unpacked", "letters:removed", "watch:filed", "watch:retried"),
}
"""Fail points that tests/road/test_kill.py alone kills at."""

MYSQL = ("ingest:filed", "execute:claimed", "execute:finished", "execute:given-back")


def test_every_fail_point_of_both_consumers_is_killed_at() -> None:
    points = set(all_points()) | set(points_of(Path(kafka_topics.__file__)))
    assert set(SCENARIOS) | ELSEWHERE == points
    assert not set(SCENARIOS) & ELSEWHERE


@pytest.mark.parametrize(
    ("kind", "point"), [*(("mariadb", point) for point in SCENARIOS), *(("mysql", point) for point in MYSQL)]
)
def test_a_kill_at(kind: str, point: str, peach: Peach) -> None:
    server = databases.server(kind)
    with databases.database(kind) as name, installation(peach, kafka.shared(), server, name) as place:
        peach.env["PEACHCTL_KAFKA__SESSION_TIMEOUT"] = "1s"
        SCENARIOS[point](place, point)
