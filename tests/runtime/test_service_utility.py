"""`ServiceUtility` under that very name, each call of the contract's table."""

import json
import stat
from pathlib import Path

import pytest

from .conftest import Bench


def call(bench: Bench, body: str, id: str = "n", **changes: object):  # noqa: ANN201
    text = "import ServiceUtility\ndef start(c, *given):\n" + "\n".join("    " + line for line in body.splitlines())
    bench.service(f"S{bench.count}", text + "\n")
    return bench.run({id: f"node('S{bench.count}', 1, [], [])"}, **changes)


def test_make_available_copies_into_the_workflows_folder(bench: Bench, scheduler: str) -> None:
    (bench.place / "in.txt").write_text("data")
    source = str(bench.place / "in.txt")
    ran = call(
        bench,
        f"copies = ServiceUtility.make_available(c, [[{source!r}, 'dose_out.???'], ({source!r}, 'b c.txt')])\n"
        "again = ServiceUtility.make_available(c, [[copies[0], 'dose_out.???']])\n"
        "return copies + again",
        scheduler=scheduler,
    )
    expected = [str(ran.folder / "n_dose_out.???"), str(ran.folder / "n_b c.txt"), str(ran.folder / "n_dose_out.???")]
    assert ran.outputs("n") == expected
    assert sorted(path.name for path in ran.folder.iterdir()) == ["n_b c.txt", "n_dose_out.???"]
    copy = ran.folder / "n_dose_out.???"
    assert copy.read_text() == "data" and stat.S_IMODE(copy.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a\0b", "..", "x" * 400, "new\nline", "<script>", "𝔘", '"', "if"]
)
def test_hostile_names_stay_in_the_workflows_folder(bench: Bench, name: str) -> None:
    (bench.place / "in.txt").write_text("data")
    before = {path for path in bench.place.rglob("*") if ".workflow_7" not in str(path)}
    ran = call(
        bench,
        f"ServiceUtility.info([c[0], {name!r}], 'own id')\nServiceUtility.info(c, 'x')\n"
        f"return ServiceUtility.make_available(c, [[{str(bench.place / 'in.txt')!r}, {name!r}]])",
        id=name,
    )
    assert ran.status == 0
    assert Path(ran.outputs(ran.events[0]["nodes"][0]["id"])[0]).parent == ran.folder
    assert len(list(ran.folder.iterdir())) == 2
    after = {path for path in bench.place.rglob("*") if ".workflow_7" not in str(path)}
    assert {path.name for path in after - before} <= {
        "S0",
        "v1",
        "S0.py",
        "__init__.py",
        "script_1.py",
        "output.log",
    } | {path.name for path in after if "__pycache__" in str(path)}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ("[['/', 'x']]", "is a folder"),
        ("[['/dev/null', 'x']]", "is no regular file"),
        ("[['/no/such', 'x']]", "can't read '/no/such': No such file or directory"),
        ("['/a', 'b']", "takes a list of [path, filename]"),
        ("'text'", "not one text"),
    ],
)
def test_make_available_says_what_is_wrong(bench: Bench, files: str, sentence: str) -> None:
    assert sentence in call(bench, f"ServiceUtility.make_available(c, {files})").message("n")


def test_log_lines_have_the_exact_form(bench: Bench, scheduler: str) -> None:
    ran = call(
        bench,
        "ServiceUtility.info(c, 'one')\nServiceUtility.warning(c, 2)\nServiceUtility.error(c, 'a\\nb \"q\" \\ud800')\n"
        "ServiceUtility.info([c[0], c[1] + '_custom_script'], 'custom')",
        scheduler=scheduler,
    )
    lines = '[n](info): "one"\n[n](warning): "2"\n[n](error): "a\\nb "q" \\ud800"\n'
    assert (ran.folder / "n.log").read_text() == lines
    assert (ran.folder / "n_custom_script.log").read_text() == '[n_custom_script](info): "custom"\n'
    assert lines in ran.output
    logs = [(event["node"], event["level"]) for event in ran.events if event["event"] == "log"]
    assert logs == [("n", "info"), ("n", "warning"), ("n", "error"), ("n_custom_script", "info")]


def test_passwords_are_masked_wherever_they_could_be_seen(bench: Bench, scheduler: str) -> None:
    uri = json.dumps({"user": "u", "password": "s3cr3t", "server": "http://x", "root": "/projects/p/files/f"})
    text = "import ServiceUtility\ndef start(c, uri, parameter):\n    ServiceUtility.info(c, uri)\n    return [uri]\n"
    bench.service("Say", text)
    bench.service("Fail", "def start(c, uri, parameter):\n    raise ValueError(parameter)\n")
    bench.service("Fetch", "import ServiceUtility\ndef start(c, uri, parameter):\n    ServiceUtility.from_uri(uri)\n")
    nodes = {name: f"node({name!r}, 1, [literal({uri!r})], [{uri!r}])" for name in ("Say", "Fail", "Fetch")}
    ran = bench.run(nodes, scheduler=scheduler)
    assert ran.states == {"Say": "success", "Fail": "error", "Fetch": "error"}
    assert "s3cr3t" not in json.dumps(ran.events) + ran.output
    assert all(b"s3cr3t" not in path.read_bytes() for path in ran.folder.rglob("*") if path.is_file())


def test_progress_and_status_are_for_the_own_workflow_only(bench: Bench) -> None:
    ran = call(
        bench,
        "ServiceUtility.update_progress(c[0], 40)\nServiceUtility.update_progress(c[0] + 1, 90)\n"
        "ServiceUtility.update_progress(c[0], 'much')\nServiceUtility.update_progress(str(c[0]), '170')\n"
        "ServiceUtility.update_status(c[0], 3)\nServiceUtility.create_temp_folder(c[0])\n"
        "ServiceUtility.update_end_time(c[0])\nServiceUtility.upload_output(c[0])\n"
        "ServiceUtility.update_myqsl_tar('x.tar', c[0])",
    )
    assert [event["percent"] for event in ran.events if event["event"] == "progress"] == [40, 100]
    log = (ran.folder / "n.log").read_text()
    assert '[n](info): "update_status: 3"' in log and "not for 8" in log and "'much' is no number" in log
    assert ran.status == 0


def test_the_rest_of_the_table(bench: Bench) -> None:
    ran = call(
        bench,
        "g = ServiceUtility.grabIndex\nt = ServiceUtility.temp_locations\n"
        "return [g([1, 2], '1'), g('x', 0), g('x', 1), sorted(t), t['workflow_temp'], t['download_workflow_temp']]",
    )
    names = ["download_files_temp", "download_workflows_temp", "workflow_temp"]
    own = [str(ran.folder.parent), str(bench.place / "workflows")]
    assert ran.outputs("n") == [2, "x", None, names, *own]


def test_every_spelling_of_the_import_gets_ours_even_beside_an_older_copy(bench: Bench) -> None:
    old = Path(bench.job.hub) / "ServiceUtility"
    old.mkdir()
    (old / "__init__.py").write_text("print 'python 2'\n")
    body = """
        import os, sys
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
        import ServiceUtility
        from ServiceUtility import ServiceUtility as second, info
        import ServiceUtility.ServiceUtility as third
        from ServiceUtility.ServiceUtility import *
        def start(c):
            return [ServiceUtility.info is second.info is third.info is info, callable(make_available)]
    """
    bench.service("S", body)
    assert bench.run({"n": "node('S', 1, [], [])"}).outputs("n") == [True, True]
