"""A SIGKILL at every fail point of both consumers over Kafka and a database server; then another process mends it.

The points of the road follow each other on one installation: what is to mend one death dies itself at the next point,
and the last one finds the leavings of all. (Each point alone: tests/road/test_kill.py, where it costs less.)
"""

import signal
from collections.abc import Iterator

import pytest

from tests import topics
from tests.conftest import Peach
from tests.road import ledger
from tests.road.campaign import PARTITIONS, Installation, installation
from tests.servers import databases, kafka
from tests.test_failpoints import all_points, points_over_kafka


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


pytestmark = pytest.mark.timeout(600)

INGEST = (
    *("ingest:cleaned", "ingest:cleaned-downloads", "kafka-start:begun", "kafka-start:committed"),
    *("ingest:polled", "ingest:drafted", "ingest:filed", "ingest:packed", "ingest:attached", "ingest:placed-later"),
    *("kafka:sent", "ingest:published", "ingest:announced", "ingest:rejected", "ingest:acked"),
)
EXECUTE = (
    *("execute:joined", "execute:expired", "execute:claimed", "execute:released", "execute:prepared"),
    # With the second beat there is something to renew.
    *("execute:started", "execute:reported", "execute:renewed@2", "execute:packed", "execute:finished", "execute:left"),
)
REFUSED = ("execute:refusal-packed", "execute:refusal-attached")
DRAINED = ("execute:given-back", "execute:last-reported")
DELETED = "execute:removed"
MADE_ANEW = ("init-kafka:offsets", "init-kafka:epoch")
COMMITTED = "kafka:committed"
WIDENED = "kafka:begun"
CREATED = "init-kafka:created"
LISTED = "announce:sent"

ELSEWHERE = {
    # Steps in the folders of one host, the same whatever the servers are.
    *(
        "ingest:placed",
        "execute:written",
        "execute:rendered",
        "execute:logged",
        "execute:published",
        "execute:failure-packed",
    ),
    # No consumer takes them.
    *("ingest:submitted", "ingest:submitted-announced", "submit:sent", "run:joined", "run:filed", "run:cancelled"),
    *("letters:filed", "letters:dropped", "letters:unpacked", "letters:removed", "watch:filed", "watch:retried"),
}
"""Fail points that tests/road/test_kill.py alone kills at."""


def test_every_fail_point_of_both_consumers_is_killed_at() -> None:
    points = (*INGEST, *EXECUTE, *REFUSED, *DRAINED, DELETED, *MADE_ANEW, COMMITTED, WIDENED, CREATED, LISTED)
    here = {point.partition("@")[0] for point in points}
    assert here | ELSEWHERE == {*all_points(), *points_over_kafka()}
    assert not here & ELSEWHERE


@pytest.fixture(params=["mariadb"])
def place(peach: Peach, request: pytest.FixtureRequest) -> Iterator[Installation]:
    kind, server = request.param, databases.server(request.param)
    with databases.database(kind) as name, installation(peach, kafka.shared(), server, name) as made:
        peach.env["PEACHCTL_KAFKA__SESSION_TIMEOUT"] = "1s"
        yield made


@pytest.mark.parametrize("place", ["mariadb", "mysql"], indirect=True)
def test_a_kill_at_every_step_of_the_road(place: Installation) -> None:
    """One workflow that runs, one that can't be run, and bytes that are none."""
    sent = send(place, ledger.SLOW, ledger.CYCLE, ledger.BAD, seconds=1.6)
    for point in INGEST:
        killed(place, point, "consume", "ingest", "--once")
    for point in EXECUTE:
        killed(place, point, "consume", "execute", "--once")
    mended(place, sent)


def test_a_kill_while_the_log_of_a_refusal_is_packed_by_an_executor(place: Installation) -> None:
    sent = send(place, ledger.GOOD, ledger.CYCLE, ledger.BAD)
    killed(place, "ingest:filed", "consume", "ingest", "--once")
    for point in REFUSED:
        killed(place, point, "consume", "execute", "--once")
    mended(place, sent)


@pytest.mark.parametrize("place", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize("point", DRAINED)
def test_a_kill_while_it_drains(place: Installation, point: str) -> None:
    sent = send(place, ledger.SLOW, ledger.CYCLE, ledger.BAD, seconds=4)
    process = place.peach.start("consume", "all", PEACHCTL_FAILPOINT=point, PEACHCTL_EXECUTE__DRAIN="0.1s")
    place.peach.until(lambda: place.beats.exists() and len(place.peach.letters()) == 2, 60)
    process.terminate()
    assert process.wait(30) == -signal.SIGKILL
    mended(place, sent)


def test_a_kill_after_a_client_deleted_the_row(place: Installation) -> None:
    send(place, ledger.SLOW, seconds=60)
    process = place.peach.start("consume", "all", PEACHCTL_FAILPOINT=DELETED)
    place.peach.until(place.beats.exists, 60)
    databases.execute(place.server, "DELETE FROM queue", database=place.database)
    assert process.wait(30) == -signal.SIGKILL
    place.peach("consume", "all", "--once")
    assert place.rows() == []
    assert ledger.within(15, lambda: not place.peach.marked())


def test_a_kill_while_a_topic_that_was_made_anew_is_accepted(place: Installation) -> None:
    sent = send(place, *(ledger.GOOD,) * 4)
    place.peach("consume", "ingest", "--once")
    assert len(place.rows()) == len(sent)
    topic = place.at.execute
    place.at.admin.delete_topics([topic])
    place.peach.until(lambda: topic not in place.at.admin.list_topics())
    place.at.create(topic, partitions=PARTITIONS)
    again = send(place, ledger.BAD, ledger.CYCLE)
    for point in MADE_ANEW:
        killed(place, point, "init-kafka", "--accept-new", topic)
    place.peach("init-kafka", "--accept-new", topic)
    place.peach("consume", "ingest", "--once")
    assert len(place.rows()) == len(sent) + 1
    assert len(place.peach.letters()) == len(again)


def test_a_kill_after_offsets_were_committed_and_where_a_partition_is_new(place: Installation) -> None:
    sent = send(place, ledger.GOOD)
    killed(place, COMMITTED, "consume", "ingest", "--once")
    place.at.widen(place.at.execute, PARTITIONS + 1)
    with topics.on(place.at.broker) as fresh:  # the client of before does not know it yet
        found = fresh.send(place.at.execute, ledger.message("late", ledger.GOOD, place.beats), PARTITIONS)
    killed(place, WIDENED, "consume", "ingest", "--once")
    place.peach("consume", "ingest", "--once")
    assert len(place.rows()) == len(sent) + 1
    assert place.at.committed(place.at.group_ingest, place.at.execute, PARTITIONS) == found.offset + 1


def test_a_kill_while_topics_are_made_and_after_the_service_list_was_sent(place: Installation) -> None:
    """Again makes the rest; a list that is there twice says the same."""
    for key in ("SERVICES", "DEAD", "PROCESSED"):
        place.peach.env[f"PEACHCTL_KAFKA__TOPIC_{key}"] += "-other"
    killed(place, CREATED, "init-kafka")
    states = [topic["state"] for topic in place.peach.json("init-kafka")]
    assert sorted(states) == ["created", "created", "present", "present"]
    services = place.peach.env["PEACHCTL_KAFKA__TOPIC_SERVICES"]
    killed(place, LISTED, "services", "publish", "--once")
    place.peach("services", "publish", "--once")
    [first, again] = [one.value for one in place.at.records(services)]
    assert first == again
