"""The service hub: what is found in it, what is left out and why, and what a check says without importing anything."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from peachctl.errors import PeachError
from peachctl.hub import Found, check_service, code_files, find_services, nearest, newest
from peachctl.wire import encode_service_config
from peachctl.workflow import Service, ServiceParameter

GOLDEN = Path(__file__).parent / "golden"
CODE = "def start(c, image, threshold):\n    return [image]\n"

Make = Callable[..., Path]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture
def make(hub: Path) -> Make:
    """Puts a service with one input, one output and one parameter into the hub."""

    def put(place: str, *, id: str | None = None, version: int = 1, code: str | bytes | None = CODE) -> Path:
        folder = hub / place
        folder.mkdir(parents=True)
        name = folder.parent.name
        params = (ServiceParameter("threshold", "Threshold", 0),)
        service = Service(id or name, name, version, "", ("image",), ("image",), params)
        (folder / "service.config").write_bytes(encode_service_config(service))
        for package in (folder, folder.parent):
            (package / "__init__.py").touch()
        if code is not None:
            (folder / f"{name}.py").write_bytes(code.encode() if isinstance(code, str) else code)
        return folder

    return put


def names(hub: Path, *ignore: str) -> list[tuple[str, int]]:
    found = find_services(hub, ignore)
    assert [problem.message for problem in found.problems] == []
    return [(one.service.id, one.service.version) for one in found.services]


def codes(hub: Path) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in find_services(hub).problems]


def checked(hub: Path) -> list[tuple[str, str]]:
    [found] = find_services(hub).services
    return [(problem.code, problem.message) for problem in check_service(found)]


def test_services_are_found_at_any_depth_in_several_versions(hub: Path, make: Make) -> None:
    make("Smooth/v1")
    make("Smooth/v12", version=12)
    make("Smooth/v2", version=2)
    make("imaging/mri/Mask/v3", version=3)
    make("output_writer/v1")
    (hub / "empty" / "v1").mkdir(parents=True)
    found = find_services(hub)
    assert names(hub) == [("Mask", 3), ("Smooth", 1), ("Smooth", 2), ("Smooth", 12), ("output_writer", 1)]
    assert sorted(found.by_name["Smooth"]) == [1, 2, 12]
    assert [(service.id, service.version) for service in newest(found)] == [
        ("Mask", 3),
        ("Smooth", 12),
        ("output_writer", 1),
    ]


def test_a_found_service_says_where_it_is_and_how_it_is_imported(hub: Path, make: Make) -> None:
    folder = make("imaging/Mask/v3", version=3)
    found = find_services(hub).find("Mask", 3)
    assert found is not None
    assert found == Found(found.service, folder, folder / "service.config")
    assert (found.root, found.module, found.code) == (hub / "imaging", "Mask.v3.Mask", folder / "Mask.py")
    assert find_services(hub).find("Mask", 4) is None


def test_the_config_of_the_reference_implementation_is_read(hub: Path) -> None:
    folder = hub / "Join" / "v2"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "service.config", folder)
    assert names(hub) == [("Join", 2)]
    assert find_services(hub).by_name["Join"][2].input_ports == ("left", "right")


@pytest.mark.parametrize("name", ["v1", "v-1", "v01"])
def test_a_version_folder_may_carry_a_dash_or_a_nought(hub: Path, make: Make, name: str) -> None:
    make(f"Smooth/{name}")
    assert names(hub) == [("Smooth", 1)]


@pytest.mark.parametrize("name", ["1", "v", "v1a", "version1", "V1", "v1.0", "v١", "w1", "v--1", "v1 "])
def test_a_folder_with_another_name_is_no_version(hub: Path, make: Make, name: str) -> None:
    make(f"Smooth/{name}")
    assert names(hub) == []


def test_folders_to_ignore_outputs_and_hidden_ones_are_not_looked_into(hub: Path, make: Make) -> None:
    make("Smooth/v1")
    make("Smooth/v1/output_1511520000123/Smooth/v1")
    make("attic/Old/v1")
    make("Smooth/attic/Older/v1")
    make(".git/Smooth/v1")
    make("Smooth/v1/__pycache__/X/v1")
    assert names(hub, "attic") == [("Smooth", 1)]


def test_links_are_followed_once_and_a_loop_ends(hub: Path, make: Make, tmp_path: Path) -> None:
    make("Smooth/v1")
    (hub / "A_loop").symlink_to(hub)
    (hub / "Smooth" / "again").symlink_to(hub / "Smooth")
    (hub / "broken").symlink_to(tmp_path / "nowhere")
    outside = tmp_path / "elsewhere" / "Mask"
    make("Mask/v1")
    shutil.move(hub / "Mask", outside)
    (hub / "Mask").symlink_to(outside)
    assert names(hub) == [("Mask", 1), ("Smooth", 1)]
    assert find_services(hub).services[0].path == hub / "Mask" / "v1"


def test_a_config_that_cannot_be_read_is_named_and_the_others_go_on(hub: Path, make: Make) -> None:
    make("Good/v1")
    for name, body in (("Cut", encode_service_config_of("Cut")[:-9]), ("Text", b"{}"), ("Empty", b"")):
        (make(f"{name}/v1") / "service.config").write_bytes(body)
    (make("Huge/v1") / "service.config").write_bytes(b"Obj\x01" + bytes(2 << 20))
    pipe = make("Pipe/v1") / "service.config"
    pipe.unlink()
    os.mkfifo(pipe)
    gone = make("Gone/v1") / "service.config"
    gone.unlink()
    gone.symlink_to("nowhere")
    found = find_services(hub)
    assert [one.service.id for one in found.services] == ["Good"]
    assert sorted((one.where, one.code) for one in found.problems) == [
        ("Cut/v1/service.config", "bad_config"),
        ("Empty/v1/service.config", "bad_config"),
        ("Gone/v1/service.config", "unreadable_config"),
        ("Huge/v1/service.config", "bad_config"),
        ("Pipe/v1/service.config", "bad_config"),
        ("Text/v1/service.config", "bad_config"),
    ]


def encode_service_config_of(name: str) -> bytes:
    return encode_service_config(Service(name, name, 1, "", (), (), ()))


def test_a_config_that_disagrees_with_its_folder_is_left_out_and_says_so(hub: Path, make: Make) -> None:
    make("Smooth/v1")
    make("Smooth/v2", version=1)
    make("Copy/v1", id="Smooth")
    make("v7", id="Loose", version=7)
    make("group/Smooth/v1")
    assert codes(hub) == [
        ("name_mismatch", "Copy/v1/service.config"),
        ("version_mismatch", "Smooth/v2/service.config"),
        ("duplicate_service", "group/Smooth/v1/service.config"),
        ("misplaced", "v7/service.config"),
    ]
    found = find_services(hub)
    assert [(one.service.id, one.service.version) for one in found.services] == [("Smooth", 1)]
    assert "'Smooth', but it stands in a folder 'Copy'" in found.problems[0].message


def test_a_hub_that_cannot_be_read_is_an_error_and_an_empty_one_is_empty(hub: Path) -> None:
    assert find_services(hub).services == []
    with pytest.raises(PeachError, match="No such file"):
        find_services(hub / "nowhere")
    (hub / "file").touch()
    with pytest.raises(PeachError, match="Not a directory") as caught:
        find_services(hub / "file")
    assert caught.value.hint == "folders.hub names it"


def test_code_is_all_but_what_running_it_makes(make: Make, tmp_path: Path) -> None:
    folder = make("Smooth/v1")
    for name in ("helper.py", "lib/deep.py", "lib/output_kept/a.txt", "output_123/result", "__pycache__/x.pyc",
                 "lib/__pycache__/y.pyc", ".git/HEAD", "old.pyc"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "linked.txt").symlink_to(folder / "helper.py")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    assert [path.relative_to(folder).as_posix() for path in code_files(folder)] == [
        "Smooth.py", "__init__.py", "helper.py", "lib/deep.py", "lib/output_kept/a.txt", "linked.txt", "service.config",
    ]  # fmt: skip


def test_the_nearest_name() -> None:
    known = ["Smooth", "Threshold", "Mask"]
    assert nearest("smoth", known) == "Smooth"
    assert nearest("THRESHHOLD", known) == "Threshold"
    assert nearest("x" * 100_000, known) is None
    assert nearest("Smooth", []) is None


def test_a_service_as_the_contract_has_it_passes(hub: Path, make: Make) -> None:
    make("Smooth/v1", code="import ServiceUtility\n" + CODE)
    assert checked(hub) == []


def test_what_is_missing_is_named(hub: Path, make: Make) -> None:
    folder = make("Smooth/v1", code=None)
    (folder / "__init__.py").unlink()
    (folder.parent / "__init__.py").unlink()
    assert [code for code, _ in checked(hub)] == ["no_init", "no_init", "no_module"]
    assert "Smooth.py" in checked(hub)[2][1]


@pytest.mark.parametrize(
    "code",
    [
        "def start(c, image, threshold): ...",
        "def start(c, image, threshold=None): ...",
        "def start(c, *rest): ...",
        "def start(c, image, /, threshold, *, speed=1): ...",
        "try:\n    import numpy\nexcept ImportError:\n    pass\nelse:\n    def start(c, image, threshold): ...",
        "from .other import start",
        "from .other import *",
        "start = lambda c, image, threshold: []",
        "import functools\n@functools.lru_cache\ndef start(*args): ...",
        "def start(): ...\ndef start(c, image, threshold): ...",
    ],
)
def test_a_start_that_takes_what_it_gets_passes(hub: Path, make: Make, code: str) -> None:
    make("Smooth/v1", code=code + "\n")
    assert checked(hub) == []


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("def begin(c): ...", "no_start", "no function start(c, image, threshold)"),
        ("class A:\n    def start(self, a, b): ...", "no_start", "no function start"),
        ("def start(c, image): ...", "arguments", "line 1: start takes 2 arguments, but gets 3"),
        ("def start(c, image, threshold, speed): ...", "arguments", "takes 4 arguments, but gets 3"),
        ("def start(c, image, a, b, d=1): ...", "arguments", "takes 4 to 5 arguments"),
        ("def start(c, *, image, threshold): ...", "start", "'image' would never be given"),
        ("async def start(c, image, threshold): ...", "start", "plain function"),
        ("def start(c, image, threshold):\n  return [\n", "syntax", "line 2: "),
        ("def start(c, image, threshold): return '\0'", "syntax", "null"),
        (CODE + "return 1\n", "syntax", "line 3: 'return' outside function"),
        ("from library.config import x\n" + CODE, "gone", "line 1: library.config of 2017 is gone"),
        ("import library.xnatAgent\n" + CODE, "gone", "library.xnatAgent"),
        ("from ServiceUtility import mysql_info\n" + CODE, "gone", "ServiceUtility.mysql_info"),
        ("import ServiceUtility\nx = ServiceUtility.mysql_info\n" + CODE, "gone", "line 2"),
        ("def start(c, image, threshold):\n    print 'x'\n", "python2", "line 2: print 'x'"),
        ("import urllib2\n" + CODE, "python2", "`peachctl services port Smooth`"),
    ],
)
def test_what_is_wrong_with_the_code_is_named_with_its_line(
    hub: Path, make: Make, code: str, kind: str, says: str
) -> None:
    make("Smooth/v1", code=code)
    [(found, message)] = checked(hub)
    assert found == kind
    assert says in message


def test_other_files_of_the_service_are_examined_too(hub: Path, make: Make) -> None:
    folder = make("Smooth/v1")
    (folder / "helper.py").write_text("print 'x'\n")
    [found] = find_services(hub).services
    [problem] = check_service(found)
    assert (problem.code, problem.where) == ("python2", "Smooth/v1/helper.py")


def test_a_name_of_python_s_own_or_with_a_dot_is_named(hub: Path, make: Make) -> None:
    make("json/v1")
    assert [code for code, _ in checked(hub)] == ["name_taken"]
    shutil.rmtree(hub / "json")
    make("a.b/v1")
    assert [code for code, _ in checked(hub)] == ["bad_name"]


def test_a_check_runs_no_code_of_the_service(hub: Path, make: Make) -> None:
    marker = hub / "ran"
    make("Smooth/v1", code=f"open({str(marker)!r}, 'w')\n" + CODE)
    assert checked(hub) == []
    assert not marker.exists()


def test_hostile_names_break_nothing(hub: Path, make: Make) -> None:
    for name in ("a\nb", "<script>", "é" * 100, "x;y", "'\""):
        make(f"{name}/v1")
    assert len(find_services(hub).services) == 5
    for found in find_services(hub).services:
        assert check_service(found) == []
