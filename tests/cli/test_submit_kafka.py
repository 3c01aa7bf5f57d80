"""`submit` over Kafka, to a real ingest and executor."""

import json
import shutil
from collections.abc import Iterator

import pytest

from peachctl import wire
from peachctl.announce import service_list
from peachctl.hub import find_services
from tests import topics
from tests.conftest import DIAMOND, Peach, make_hub, node, workflow
from tests.servers import kafka
from tests.test_notify import Ear
from tests.topics import Topics


@pytest.fixture
def at(peach: Peach) -> Iterator[Topics]:
    with topics.on(kafka.shared()) as made:
        made.create_all()
        peach.env.update(made.environment())
        yield made


def test_submit_finds_the_ids_follows_to_the_end_and_carries_the_priority(peach: Peach, at: Topics) -> None:
    ear = Ear(str(peach.home / "notify"))
    process = peach.start("consume", "all", NOTIFY_SOCKET=ear.address, WATCHDOG_USEC="2000000")
    good, failing = peach.file(DIAMOND, "good.json"), workflow(node("a", "Text", ["x"]), node("f", "Fail", ["no"], "a"))
    peach("encode", good, "--out", peach.home / "good.bin")
    done = peach.json(
        *("submit", good, peach.home / "good.bin", peach.file(failing, "bad.wf"), "--wait", "--priority", 7), code=3
    )
    assert [(one["id"], one["status"]) for one in done] == [(1, "success"), (2, "success"), (3, "error")]
    assert [one["reason"] for one in done][:2] == [None, None] and "no" in done[2]["reason"]
    assert {row["priority"] for row in peach.rows()} == {7}
    sent = at.records(at.execute)
    assert [record.value for record in sent] == [
        wire.encode_workflow(wire.workflow_from_json(json.dumps(one))) for one in (DIAMOND, DIAMOND, failing)
    ]
    assert [record.headers for record in sent] == [[("peachctl-priority", b"7")]] * 3
    # The command beside it: events were published, the services too, and systemd knows.
    assert [record.value for record in at.records(at.processed)] == [b"1", b"2", b"3"]
    peach.until(lambda: at.records(at.services))
    assert at.records(at.services)[0].value == service_list(find_services(peach.hub)).body
    peach.until(lambda: "STATUS=0 running, 0 queued, lag 0" in ear.listen())
    assert ear.heard.count("READY=1") == 1 and "WATCHDOG=1" in ear.heard
    process.terminate()
    assert process.wait(20) == 0
    assert ear.listen()[-1] == "STOPPING=1"
    ear.close()


def test_what_ingest_refuses_is_reported_with_its_reason(peach: Peach, at: Topics) -> None:
    poor = make_hub(peach.home / "poor")
    shutil.rmtree(poor / "Upper")
    process = peach.start("consume", "ingest", PEACHCTL_FOLDERS__HUB=str(poor))
    text = workflow(node("a", "Text", ["x"]))
    done = peach.json("submit", peach.file(DIAMOND, "one.json"), peach.file(text, "two.json"), code=1)
    assert [(one["id"], one["status"]) for one in done] == [(1, "refused"), (2, "queued")]
    assert "Upper" in done[0]["reason"] and done[1]["reason"] is None
    late = peach("submit", peach.file(text, "two.json"), "--wait", "--timeout", "2", code=1)
    assert "1 of 1 workflows had not ended after 2 s" in late.stderr
    process.terminate()
    assert process.wait(20) == 0


def test_one_bad_file_and_nothing_is_sent(peach: Peach, at: Topics) -> None:
    bad = peach.file(workflow(node("a", "Nowhere", [])), "bad.json")
    done = peach("submit", peach.file(DIAMOND), bad, code=1)
    assert "bad.json" in done.stderr and "Nowhere" in done.stderr
    assert at.records(at.execute) == []
    assert "out of range" in peach("submit", peach.file(DIAMOND), "--priority", 2147483648, code=2).stderr
