"""`services` and `example` as real processes."""

import json
import shutil
from pathlib import Path

from peachctl import wire
from peachctl.hub import find_services, newest
from tests import topics
from tests.conftest import Peach, make_hub
from tests.servers import kafka


def test_services_list_has_the_keys_that_scripts_rely_on(peach: Peach) -> None:
    listed = peach.json("services", "list")
    [upper] = [one for one in listed if one["id"] == "Upper"]
    assert set(upper) >= {
        *("id", "name", "version", "versions", "description", "inputPorts", "outputPorts", "params", "path")
    }
    assert upper["versions"] == [1] and upper["path"].endswith("Upper/v1")


def test_services_check_finds_what_is_wrong_and_names_the_nearest_service(peach: Peach) -> None:
    peach.hub = make_hub(peach.home / "hub")
    peach("services", "check")
    (peach.hub / "Upper" / "v1" / "Upper.py").write_text('def start(c, text):\n    print "old"\n    return [text]\n')
    done = peach.json("services", "check", code=1)
    assert any("peachctl services port Upper" in one["message"] for one in done["problems"])
    assert "Upper" in peach("services", "check", "Uper", code=4).stderr


def test_services_port_shows_the_difference_and_writes_when_told(peach: Peach) -> None:
    peach.hub = make_hub(peach.home / "hub")
    file = peach.hub / "Upper" / "v1" / "Upper.py"
    old = 'def start(c, text):\n    print "old"\n    return [text]\n'
    file.write_text(old)
    shown = peach("services", "port", "Upper").stdout
    assert '-    print "old"' in shown and '+    print("old")' in shown
    assert file.read_text() == old
    bad = peach.hub / "Split" / "v1" / "Split.py"
    bad.write_text("def start(c:\n")
    both = json.loads(peach.inside("services", "port", "-o", "json"))
    told = {Path(one["file"]).name: (bool(one["diff"]), one["written"], bool(one["problem"])) for one in both}
    assert told == {"Upper.py": (True, False, False), "Split.py": (False, False, True)}
    assert "Split.py" in peach("services", "port", "--write", code=1).stderr
    assert 'print("old")' in file.read_text()
    peach("services", "check", "Upper")


def test_a_copied_example_runs(peach: Peach) -> None:
    [light] = [one for one in peach.json("example", "list") if one["extra"] == ""]
    target = peach.home / "mine"
    copied = peach.json("example", "copy", light["name"], target)
    workflow = copied["workflow"]
    assert (copied["name"], copied["hub"]) == (light["name"], str(target / "hub"))
    again = peach.inside("example", "copy", light["name"], peach.home / "again")
    assert again.splitlines()[0] == workflow.replace(str(target), str(peach.home / "again"))
    done = peach.json("run", workflow, "--hub", target / "hub")
    assert done["status"] == "success"
    assert "not an empty folder" in peach("example", "copy", light["name"], target, code=1).stderr
    peach("example", "copy", "nothing", target, code=4)


def test_services_show_has_the_newest_version_and_names_the_nearest(peach: Peach) -> None:
    [upper] = [one for one in peach.json("services", "list") if one["id"] == "Upper"]
    assert peach.json("services", "show", "Upper") == upper
    assert "Upper v1" in peach.inside("services", "show", "Upper")
    assert "did you mean Upper?" in peach("services", "show", "Uper", code=4).stderr


def test_services_publish_says_embedded_what_is_missing(peach: Peach) -> None:
    assert "kafka.bootstrap_servers" in peach("services", "publish", code=2).stderr


def test_services_publish_sends_the_newest_of_each_or_says_in_one_line_why_not(peach: Peach) -> None:
    with topics.on(kafka.shared()) as at:
        peach.env.update(at.environment())
        at.create(at.services)
        done = peach.json("services", "publish", "--once")
        [record] = at.records(at.services)
        assert wire.decode_services(record.value) == newest(find_services(peach.hub))
        assert (done["topic"], done["bytes"], done["problems"]) == (at.services, len(record.value), [])
        assert done["services"] == [one.id for one in newest(find_services(peach.hub))]
        small = f"{at.services}-small"
        at.create(small, max_message_bytes="200")
        refused = peach("services", "publish", "--once", code=1, PEACHCTL_KAFKA__TOPIC_SERVICES=small).stderr
        assert refused.count("\n") == 2 and "max.message.bytes" in refused


def test_two_that_publish_again_and_again_do_no_harm_and_an_ingest_that_is_told_not_to_publishes_nothing(
    peach: Peach,
) -> None:
    other = make_hub(peach.home / "hub")
    shutil.rmtree(other / "Text")  # its list would be another one
    with topics.on(kafka.shared()) as at:
        peach.env.update(at.environment())
        at.create_all()
        at.send(at.execute, b"no workflow")
        silent = {"PEACHCTL_SERVICES__PUBLISH_EVERY": "0", "PEACHCTL_FOLDERS__HUB": str(other)}
        started = [peach.start("consume", "ingest", **silent)]
        peach.until(lambda: at.committed(at.group_ingest, at.execute) == 1)
        started += [peach.start("services", "publish", PEACHCTL_SERVICES__PUBLISH_EVERY="1s") for _ in range(2)]
        peach.until(lambda: len(at.records(at.services)) >= 5)
        for process in started:
            process.terminate()
        assert [process.wait(20) for process in started] == [0, 0, 0]
        lists = [record.value for record in at.records(at.services)]
    assert {tuple(wire.decode_services(one)) for one in lists} == {tuple(newest(find_services(peach.hub)))}
    assert len(set(lists)) == 1
