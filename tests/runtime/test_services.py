"""Services as the contract describes them: found, imported side by side, called by position."""

from pathlib import Path

import pytest

from peachctl.wire import encode_service_config
from peachctl.workflow import Service, ServiceParameter

from .conftest import Bench

ARGUMENTS = """
    def start(*given):
        return [list(given)]
"""


def declare(folder: Path, name: str, version: int, inputs: int, outputs: tuple[str, ...], parameters: int) -> None:
    service = Service(
        name,
        name,
        version,
        "",
        tuple(f"in{i}" for i in range(inputs)),
        outputs,
        tuple(ServiceParameter(f"p{i}", f"P{i}", 0) for i in range(parameters)),
    )
    (folder / "service.config").write_bytes(encode_service_config(service))


def test_arguments_are_padded_and_cut_to_what_the_service_declares(bench: Bench, scheduler: str) -> None:
    declare(bench.service("Args", ARGUMENTS), "Args", 1, 2, ("all",), 2)
    ran = bench.run(
        {
            "few": "node('Args', 1, [literal('a')], ['x'])",
            "many": "node('Args', 1, [None, None, None], ['x', None, None, None])",
            "beyond": "node('Args', 1, [], ['x', None, 'too much'])",
        },
        scheduler=scheduler,
    )
    assert ran.outputs("few") == [[[7, "few"], "a", None, "x", None]]
    assert ran.outputs("many") == [[[7, "many"], None, None, "x", None]]
    assert ran.message("beyond").startswith("parameter 2 is set, but service Args 1 declares 2")


def test_without_a_config_they_are_passed_as_they_are(bench: Bench) -> None:
    (bench.service("Args", ARGUMENTS) / "service.config").write_bytes(b"no Avro")
    ran = bench.run({"n": "node('Args', 1, [None], ['x', None])"})
    assert ran.outputs("n") == [[[7, "n"], None, "x", None]]


def test_a_value_that_is_no_list_is_port_0_and_a_missing_port_is_named(bench: Bench, scheduler: str) -> None:
    bench.service("Plain", "def start(c):\n    return ('a', 'b')\n")
    bench.service("See", ARGUMENTS)
    declare(bench.service("Short", "def start(c):\n    return ['only']\n"), "Short", 1, 0, ("left", "right"), 0)
    ran = bench.run(
        {
            "plain": "node('Plain', 1, [], [])",
            "see": "node('See', 1, [output('plain', 0), output('plain', 2)], [])",
            "short": "node('Short', 1, [], [])",
            "reads": "node('See', 1, [output('short', 1)], [])",
            "unread": "node('Short', 1, [], [])",
        },
        scheduler=scheduler,
    )
    assert ran.outputs("see") == [[[7, "see"], ["a", "b"], None]]
    assert ran.message("short") == ("service Short 1 returned 1 value, but its output port 1 ('right') is connected")
    assert ran.states["unread"] == "success"


def test_versions_stand_side_by_side_with_helpers_of_the_same_name(bench: Bench) -> None:
    code = """
        import os, sys
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        import helper
        def start(c, *given):
            import lazy
            return [helper.WHO + lazy.WHO]
    """
    for version in (1, 2):
        folder = bench.service("Twin", code, version)
        (folder / "helper.py").write_text(f"WHO = 'helper{version}'\n")
        (folder / "lazy.py").write_text(f"WHO = 'lazy{version}'\n")
    nodes = {f"n{i}": f"node('Twin', {1 + i % 2}, [], [])" for i in range(6)}
    for scheduler, workers in (("processes", 1), ("processes", 2), ("sync", 1)):
        ran = bench.run(nodes, scheduler=scheduler, workers=workers)
        assert [ran.outputs(f"n{i}") for i in range(6)] == [["helper1lazy1"], ["helper2lazy2"]] * 3


@pytest.mark.parametrize("name", ["json", "colorsys", "dask", "peachctl", "class", "with space", "Größe", "sys"])
def test_names_that_collide_with_modules_or_keywords_work_and_shadow_nothing(bench: Bench, name: str) -> None:
    code = """
        import json, colorsys
        from . import sibling
        def start(c):
            return [sibling.X, hasattr(json, "dumps"), hasattr(colorsys, "rgb_to_hsv"), __name__]
    """
    (bench.service(name, code) / "sibling.py").write_text("X = 'sibling'\n")
    for scheduler in ("processes", "threads"):
        ran = bench.run({"n": f"node({name!r}, 1, [], [])"}, scheduler=scheduler)
        assert ran.outputs("n") == ["sibling", True, True, f"{name}.v1.{name}"]


@pytest.mark.parametrize("name", ["../outside", "..", ".", "", "a/b", "a\0b", "x" * 400, "/etc", "<script>", "\n"])
def test_a_hostile_service_name_cannot_leave_the_hub(bench: Bench, name: str) -> None:
    outside = bench.place / "outside" / "v1"
    outside.mkdir(parents=True)
    (outside / "outside.py").write_text("def start(c):\n    return ['escaped']\n")
    ran = bench.run({"n": f"node({name!r}, 1, [], [])"})
    assert ran.states == {"n": "error"}
    assert "is not in the hub" in ran.message("n") or "is no name" in ran.message("n")


def test_folders_with_a_dash_and_at_any_depth_are_found(bench: Bench) -> None:
    bench.service("Dash", "def start(c):\n    return [__name__]\n", "v-3")
    folder = bench.service("Deep", "def start(c):\n    return [__name__]\n", 2, under="group/inner")
    declare(folder, "Deep", 2, 0, ("out",), 0)
    ran = bench.run({"a": "node('Dash', 3, [], [])", "b": "node('Deep', 2, [], [])"})
    assert [ran.outputs(id) for id in "ab"] == [["Dash.v3.Dash"], ["Deep.v2.Deep"]]


def test_classes_of_a_service_travel_to_other_services(bench: Bench) -> None:
    bench.service("Make", "class Thing:\n    x = 5\ndef start(c):\n    return [Thing()]\n")
    bench.service("Use", "def start(c, thing):\n    return [thing.x]\n")
    made = "node('Make', 1, [], [])"
    ran = bench.run({"m": made, "u": "node('Use', 1, [output('m', 0)], [])", "m2": made}, workers=2)
    assert ran.outputs("u") == [5]


IMPORTS = {
    "missing": ("import no_such_module", "service 'S' can't be imported: No module named 'no_such_module'"),
    "python2_print": ("print 'x'", "`peachctl services port S` brings it to Python 3"),
    "python2_module": ("import urllib2", "that is Python 2, `peachctl services port S` brings it"),
    "python2_name": ("x = unicode('a')", "that is Python 2, `peachctl services port S` brings it"),
    "mysql_info": ("import mysql_info", "`mysql_info` of 2017 is gone on purpose"),
    "from_utility": ("from ServiceUtility import mysql_info", "`mysql_info` of 2017 is gone on purpose"),
    "library": ("import library.storageHandler.storageHandler", "`library.storageHandler` of 2017 is gone on purpose"),
    "library_utility": (
        "from library.ServiceUtility import ServiceUtility",
        "`library.ServiceUtility` of 2017 is gone",
    ),
    "exits": ("import sys; sys.exit(2)", "can't be imported: the service called sys.exit(2) instead of returning"),
}


@pytest.mark.parametrize("how", IMPORTS)
def test_a_module_that_cannot_be_imported_is_its_nodes_error(bench: Bench, scheduler: str, how: str) -> None:
    code, sentence = IMPORTS[how]
    bench.service("S", f"{code}\ndef start(c):\n    return []\n")
    bench.service("Ok", "def start(c):\n    return []\n")
    (Path(bench.job.hub) / "library").mkdir()  # an old copy stands on the path
    (Path(bench.job.hub) / "library" / "__init__.py").touch()
    ran = bench.run({"n": "node('S', 1, [], [])", "ok": "node('Ok', 1, [], [])"}, scheduler=scheduler)
    assert ran.states == {"n": "error", "ok": "success"}
    assert sentence in ran.message("n")


def test_a_module_without_start_says_so(bench: Bench) -> None:
    bench.service("S", "def begin(c):\n    return []\n")
    assert "has no function `start`" in bench.run({"n": "node('S', 1, [], [])"}).message("n")


@pytest.mark.parametrize("scheduler", ["processes", "sync"])
def test_file_is_real_its_folder_writable_and_the_cwd_the_same_for_each_node(bench: Bench, scheduler: str) -> None:
    code = """
        import os
        def start(c, *given):
            folder = os.path.join(os.path.dirname(__file__), "output_" + c[1])
            os.makedirs(folder, exist_ok=True)
            here = os.getcwd()
            os.chdir("/")
            return [folder, here]
    """
    folder = bench.service("S", code)
    ran = bench.run(
        {"a": "node('S', 1, [], [])", "b": "node('S', 1, [output('a', 0)], [])"}, scheduler=scheduler, workers=1
    )
    assert (folder / "output_a").is_dir() and (folder / "output_b").is_dir()
    assert ran.outputs("a")[1] == ran.outputs("b")[1] == str(ran.folder.parent)
