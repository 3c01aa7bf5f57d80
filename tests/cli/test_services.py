"""`services` and `example` as real processes."""

from tests.conftest import Peach, make_hub


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
    peach("services", "port", "Upper", "--write")
    assert 'print("old")' in file.read_text()
    peach("services", "check", "Upper")


def test_a_copied_example_runs(peach: Peach) -> None:
    [light] = [one for one in peach.json("example", "list") if one["extra"] == ""]
    target = peach.home / "mine"
    copied = peach("example", "copy", light["name"], target)
    workflow = copied.stdout.strip()
    done = peach.json("run", workflow, "--hub", target / "hub")
    assert done["status"] == "success"
    assert "not an empty folder" in peach("example", "copy", light["name"], target, code=1).stderr
    peach("example", "copy", "nothing", target, code=4)
