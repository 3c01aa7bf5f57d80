"""Kept results: a resumed attempt goes on from the nodes that are done, and from nothing that can't be relied on."""

import os
from pathlib import Path

import pytest

from peachctl.runtime.results import Results, Values

from .conftest import Bench, Ran

FILE = """
    import ServiceUtility, pathlib
    def start(c, text, *given):
        path = pathlib.Path(c[1] + ".tmp")
        path.write_text(text)
        return [ServiceUtility.make_available(c, [[path, "out.txt"]])[0], path.absolute()]
"""
READ = """
    import os
    def start(c, path, other):
        if os.path.exists("/tmp/none") or not os.path.exists(os.environ["READ_WORKS"]):
            raise ValueError("not yet")
        return [open(path).read(), str(other)]
"""
NODES = {
    "make": "node('File', 1, [literal('hello')], [])",
    "read": "node('Read', 1, [output('make', 0), output('make', 1)], [])",
}


@pytest.fixture
def kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench.service("File", FILE)
    bench.service("Read", READ)
    monkeypatch.setenv("READ_WORKS", str(bench.place / "works"))
    return bench


def attempt(bench: Bench, number: int, scheduler: str, nodes: dict[str, str] = NODES, **changes: object) -> Ran:
    """An attempt as the executor makes it: the last one's folder gets the new number."""
    parent = bench.place / ".workflow_7"
    if number > 1:
        (parent / str(number - 1)).rename(parent / str(number))
    settings = {
        "folder": str(parent / str(number) / "workflow_7"),
        "results": str(parent / "results"),
        "reuse": number > 1,
        "scheduler": scheduler,
        "attempt": number,
    }
    return bench.run(nodes, **{**settings, **changes})


def test_the_next_attempt_goes_on_where_the_last_one_failed(kept: Bench, scheduler: str) -> None:
    assert attempt(kept, 1, scheduler).states == {"make": "success", "read": "error"}
    (kept.place / "works").touch()
    second = attempt(kept, 2, scheduler)
    assert second.states == {"make": "reused", "read": "success"}
    assert second.started("make") == 0
    moved = str(second.folder.parent / "make.tmp")
    assert second.outputs("read") == ["hello", moved]
    assert second.outputs("make")[0] == str(second.folder / "make_out.txt")
    assert attempt(kept, 3, scheduler).states == {"make": "reused", "read": "reused"}


def test_a_retry_from_the_start_runs_everything(kept: Bench) -> None:
    attempt(kept, 1, "processes")
    assert attempt(kept, 2, "processes", reuse=False).started("make") == 1


def change_code(bench: Bench) -> None:
    path = Path(bench.job.hub, "File", "v1", "File.py")
    path.write_text(path.read_text() + "# changed\n")


def add_output(bench: Bench) -> None:
    folder = Path(bench.job.hub, "File", "v1", "output_123")
    folder.mkdir()
    (folder / "x.py").touch()


def lose_file(bench: Bench) -> None:
    next((bench.place / ".workflow_7").rglob("make_out.txt")).unlink()


def tear(bench: Bench) -> None:
    for path in (bench.place / ".workflow_7" / "results").iterdir():
        os.truncate(path, path.stat().st_size - 1)


def flip(bench: Bench) -> None:
    for path in (bench.place / ".workflow_7" / "results").iterdir():
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "expected"),
    [(change_code, "success"), (add_output, "reused"), (lose_file, "success"), (tear, "success"), (flip, "success")],
)
def test_what_changed_or_was_lost_runs_again(kept: Bench, change: object, expected: str) -> None:
    attempt(kept, 1, "processes")
    change(kept)  # type: ignore[operator]
    assert attempt(kept, 2, "processes").states["make"] == expected


def test_other_parameters_and_literals_run_again(kept: Bench) -> None:
    attempt(kept, 1, "processes")
    other = {**NODES, "make": "node('File', 1, [literal('other')], [])"}
    assert attempt(kept, 2, "processes", other).states["make"] == "success"


def test_a_literal_file_that_changed_runs_again(kept: Bench) -> None:
    source = kept.place / "in.txt"
    source.write_text("a")
    kept.service("Get", "def start(c, path):\n    return [open(path).read()]\n")
    nodes = {"get": f"node('Get', 1, [literal({str(source)!r})], [])"}
    attempt(kept, 1, "processes", nodes)
    assert attempt(kept, 2, "processes", nodes).states["get"] == "reused"
    source.write_text("longer")
    assert attempt(kept, 3, "processes", nodes).outputs("get") == ["longer"]


def test_a_full_disk_costs_the_kept_result_and_nothing_else(kept: Bench, tmp_path: Path) -> None:
    results = Results(str(tmp_path / "results"), str(tmp_path))
    values = Values(str(tmp_path))
    raw = values.dumps({"path": f"{tmp_path}/x", "n": 1}, set())
    results.keep("aa" * 32, {0: raw}, [], set())
    os.close(results._file)
    results._file = os.open("/dev/full", os.O_WRONLY)
    results.keep("bb" * 32, {0: raw}, [], set())
    again = Results(str(tmp_path / "results"), str(tmp_path / "moved"))
    found = again.find("aa" * 32)
    assert found is not None and again.find("bb" * 32) is None
    assert Values(str(tmp_path / "moved")).loads(found.ports[0]) == {"path": f"{tmp_path}/moved/x", "n": 1}
