"""`dlq`: what it prints, what it changes, and how it ends."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from peachctl import app, wire
from peachctl.cli import app as command_line
from peachctl.config import load
from peachctl.errors import PeachError
from tests.conftest import DIAMOND, Peach, node, workflow

GOLDEN = Path(__file__).parents[1] / "golden"
CYCLE = workflow(node("a", "Upper", [], "b"), node("b", "Upper", [], "a"), name="round")
DIAMOND_BYTES = wire.encode_workflow(wire.workflow_from_json(DIAMOND))
KEYS = {"number", "reason", "field", "topic", "partition", "offset", "file", "size", "received"}


def refuse(peach: Peach, **bodies: Any) -> None:
    """Drops files into the inbox, `x_json` as `x.json`, and ingests them one by one, so that they are numbered in this
    order."""
    config = load(environ=peach.environment())
    app.make_folders(config)
    with (
        contextlib.closing(app.open_store(config)) as store,
        contextlib.closing(app.open_folder_bus(config)) as bus,
    ):
        loop = app.open_ingest(config, store, bus)
        for name, body in bodies.items():
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            (peach.home / "being-written").write_bytes(data)
            (peach.home / "being-written").rename(peach.inbox / name.replace("_", "."))
            while not loop.step(0.2):
                assert loop.paused is None


def refused(peach: Peach) -> set[str]:
    return {path.name.split("_", 1)[1] for path in (peach.inbox / ".refused").iterdir()}


# list and show


def test_an_empty_list_is_empty_json_and_says_so_to_people(peach: Peach) -> None:
    assert json.loads(peach.inside("dlq", "list", "-o", "json")) == []
    assert peach.inside("dlq", "list", "-o", "jsonl") == ""
    assert "no dead letters" in peach.inside("dlq", "list")


def test_the_list_has_the_fixed_keys_and_tells_what_was_refused(peach: Peach) -> None:
    refuse(peach, cut_bin=b"\x06abc", cycle_json=CYCLE)
    cut, cyclic = json.loads(peach.inside("dlq", "list", "-o", "json"))
    assert set(cut) >= KEYS
    assert (cut["file"], cut["field"], cut["topic"], cut["size"], cut["code"]) == (
        *("cut.bin", "user", None, 4, "malformed"),
    )
    assert cyclic["file"] == "cycle.json" and "a -> b -> a" in cyclic["reason"] and cyclic["id"] == 1
    table = peach.inside("dlq", "list")
    assert "cut.bin" in table and "malformed" in table and "dlq show 1" in table
    assert [one["number"] for one in json.loads(peach.inside("dlq", "list", "--reason", "cycle", "-o", "json"))] == [2]
    assert {"cut.bin", "cut.bin.reason.txt", "cycle.json"} <= refused(peach)


def test_show_tells_the_spot_what_is_expected_and_what_stands_before(peach: Peach) -> None:
    cut = (GOLDEN / "malformed_truncated.bin").read_bytes()
    refuse(peach, one_bin=cut, two_bin=cut[:-1], other_bin=b"\xff\xff")
    text = peach.inside("dlq", "show", 1)
    for part in (
        *("At byte 45", "nodes[1].service.id", "expected  string: ", "1 other letter has the same cause"),
        *("0a 55 70", "^^", '"ada@hospital"', '"A"  Split v1', "dlq show 1 --out"),
    ):
        assert part in text, text
    value = json.loads(peach.inside("dlq", "show", 1, "-o", "json"))
    assert (value["byte_offset"], value["alike"], value["decodes"], value["complete"]) == (45, 1, False, True)
    assert value["decoded"]["nodes"][1] == {"id": "B"} and value["expected"].startswith("string")
    assert "dlq drop 3" in peach.inside("dlq", "show", 3)


def test_show_of_a_json_file_tells_line_and_column(peach: Peach) -> None:
    text = json.dumps(DIAMOND, indent=2).replace('"version": 1', '"version": "one"', 1)
    refuse(peach, typed_json=text.encode(), cut_wf=text[:100].encode())
    shown = peach.inside("dlq", "show", 1)
    assert "At line 9, column 20  nodes[0].service.version" in shown and "a whole number of 32 bits" in shown
    [line, caret] = [one for one in shown.splitlines() if '"version": "one"' in one or one.strip() == "^"]
    assert line.index('"one"') == caret.index("^")
    assert "At line 7, column" in peach.inside("dlq", "show", 2)


def test_show_of_a_refused_workflow_tells_all_problems_its_row_and_its_graph(peach: Peach) -> None:
    refuse(peach, mess_json=workflow(node("a", "Nowhere", [], "gone"), node("b", "Upper", [], "a"), name="mess"))
    text = peach.inside("dlq", "show", 1)
    for part in ("nodes[0].service.id: ", "nodes[0].connections[0]: ", "queue show 1", "mess", "dlq retry 1 --patch"):
        assert part in text, text
    value = json.loads(peach.inside("dlq", "show", 1, "-o", "json"))
    assert {one["code"] for one in value["problems"]} == {"unknown-service", "dangling"} and value["id"] == 1


def test_a_password_is_shown_only_when_revealed(peach: Peach) -> None:
    uri = json.dumps({"user": "u", "server": "s", "root": "r", "password": "hunter2-secret"})
    value = workflow(node("a", "Text", [uri]), node("b", uri, [], "a"))
    body = wire.encode_workflow(wire.workflow_from_json(value))
    text = json.dumps(value).replace('"id": "a"', '"id": 3', 1).encode()
    refuse(peach, whole_bin=body, cut_bin=body[:-3], typed_json=text, torn_json=text.replace(b"], ", b" x], ", 1))
    for number in range(1, 5):
        for more in ((), ("-o", "json")):
            assert "hunter2" not in peach.inside("dlq", "show", number, *more)
        assert "hunter2" in peach.inside("dlq", "show", number, "--reveal")
    assert "hunter2" not in peach.inside("dlq", "list") + peach.inside("dlq", "retry", "--all")


def test_what_there_is_can_be_written_to_a_file_of_ones_own(peach: Peach) -> None:
    refuse(peach, cut_bin=DIAMOND_BYTES[:-30])
    out = peach.home / "1.json"
    assert f"dlq retry 1 --patch {out}" in peach.inside("dlq", "show", 1, "--out", out).replace("\n", " ")
    assert json.loads(out.read_text())["nodes"][0] == DIAMOND["nodes"][0]
    assert out.stat().st_mode & 0o077 == 0
    assert json.loads(peach.inside("dlq", "show", 1, "--out", "-")) == json.loads(out.read_text())


def test_a_file_that_is_there_is_not_written_over(peach: Peach) -> None:
    refuse(peach, cut_bin=DIAMOND_BYTES[:-30])
    mine = peach.file("mine", "1.json")
    assert "File exists" in peach("dlq", "show", 1, "--out", mine, code=1).stderr
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": NaN, "user": 1e999, "nodes": []}',
        b'{"name": "x", "user": "\\ud800", "nodes": []}',
        b'{"name": "x", "user": "u", "nodes": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"name": "\\u001b[2J", "user": 3, "nodes": {"\\u202e": 1}}',
        b'{"name": "x", "user": "u", "nodes": [3, {"service": 4, "\\u001bx": 5}, null]}',
    ],
)
def test_strange_json_is_shown_and_commands_no_terminal(peach: Peach, body: bytes) -> None:
    refuse(peach, x_json=body)
    # A process, for its streams: half of a surrogate pair is no text that a stream takes.
    value = json.loads(peach("dlq", "show", 1, "-o", "json", "--reveal").stdout, parse_constant=pytest.fail)
    assert value["number"] == 1
    for reveal in ((), ("--reveal",)):
        assert not {"\x1b", "\u202e"} & set(peach.inside("dlq", "show", 1, *reveal))


# retry


def test_a_refused_workflow_is_patched_and_runs_under_its_id(peach: Peach) -> None:
    refuse(peach, cycle_json=CYCLE)
    patch = peach.file({"nodes[0].connections[0]": {"port_idx": -1, "node_id": "x"}}, "patch.json")
    assert json.loads(peach.inside("dlq", "retry", 1, "-o", "json"))[0]["status"] == "refused"
    assert "workflow 1" in peach.inside("dlq", "retry", 1, "--patch", patch)
    assert peach.letters() == [] and refused(peach) == set()
    peach("consume", "execute", "--once")
    [row] = peach.rows()
    assert (row["id"], row["status"], row["name"]) == (1, "success", "round")


def test_retry_of_several_says_what_stays_and_exits_1(peach: Peach) -> None:
    refuse(peach, a_bin=b"bad", b_json=CYCLE, c_bin=b"worse")
    whole = json.dumps(DIAMOND).encode()
    done = peach("dlq", "retry", 3, "--patch", "-", "-o", "json", stdin=whole)
    assert json.loads(done.stdout) == [{"number": 3, "id": 2, "status": "queued", "reason": None, "problems": []}]
    done = peach("dlq", "retry", "--all", "-o", "json", code=1)
    assert [(one["number"], one["status"], bool(one["reason"])) for one in json.loads(done.stdout)] == [
        *((1, "refused", True), (2, "refused", True)),
    ]
    assert done.stderr == "" and [one["number"] for one in peach.letters()] == [1, 2]
    [row] = [row for row in peach.rows() if row["status"] == "queued"]
    assert (row["id"], row["name"]) == (2, "diamond")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", 9), 4, "no dead letter 9"),
        (("retry", 9), 4, "no dead letter 9"),
        (("drop", 1, 9), 4, "no dead letter 9"),
        (("retry", "--reason", "nonsense"), 4, "there are cycle, malformed"),
        (("retry",), 2, "name letters"),
        (("drop", 1, "--all"), 2, "name letters"),
        (("retry", 1, "--patch", "whole.json", 2), 2, "one letter"),
        (("retry", 1, "--patch", "list.json"), 1, "JSON object"),
        (("drop", "--all"), 2, "drop 2 dead letters"),
        (("drop", "--reason", "cycle"), 2, "drop 1 dead letter"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_says_why(
    peach: Peach, arguments: tuple[Any, ...], code: int, said: str
) -> None:
    refuse(peach, a_bin=b"bad", b_json=CYCLE)
    peach.file(DIAMOND, "whole.json")
    peach.file([], "list.json")
    variables = {key: None for key in os.environ if key.startswith("PEACHCTL_")} | peach.environment()
    words = [str(peach.home / one) if str(one).endswith(".json") else str(one) for one in arguments]
    error = CliRunner().invoke(command_line, ["dlq", *words], env=variables).exception
    assert isinstance(error, PeachError) and (error.exit, said in error.message) == (code, True), error
    assert len(peach.letters()) == 2 and len(peach.rows()) == 1


def test_without_a_terminal_nothing_is_dropped_unasked(peach: Peach) -> None:
    refuse(peach, a_bin=b"bad")
    done = peach("dlq", "drop", "--all", "-o", "json", code=2)
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["hint"], done.stdout) == (2, "add --yes", "") and len(peach.letters()) == 1


# drop


def test_drop_forgets_letters_and_their_files(peach: Peach) -> None:
    refuse(peach, a_bin=b"bad", b_json=CYCLE, c_bin=b"worse", d_bin=b"worst")
    assert "1 dead letter dropped" in peach.inside("dlq", "drop", 3)
    assert refused(peach) & {"c.bin", "c.bin.reason.txt"} == set()
    done = json.loads(peach.inside("dlq", "drop", "--reason", "malformed", "--yes", "-o", "json"))
    assert [(one["number"], one["status"]) for one in done] == [(1, "dropped"), (4, "dropped")]
    assert "1 dead letter dropped" in peach.inside("dlq", "drop", "--all", "--yes")
    assert peach.letters() == [] and refused(peach) == set() and len(peach.rows()) == 1
    assert peach.inside("dlq", "drop", "--all").startswith("There are no dead letters")


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 4), (b"y\n", 0, 0)])
def test_on_a_terminal_a_person_is_asked_with_three_examples(peach: Peach, answer: bytes, code: int, left: int) -> None:
    refuse(peach, a_bin=b"bad", b_bin=b"worse", c_bin=b"worst", d_bin=b"x")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "peachctl", "dlq", "drop", "--all"],
        **{"env": peach.environment(), "cwd": peach.home, "stdin": theirs, "stdout": theirs, "stderr": theirs},
    )
    os.close(theirs)
    seen = b""
    while b"?" not in seen:
        seen += os.read(ours, 4096)
    os.write(ours, answer)
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 4096):
            seen += piece
    os.close(ours)
    assert process.wait(30) == code, seen
    assert b"a.bin" in seen and b"c.bin" in seen and b"d.bin" not in seen and b"and 1 more" in seen
    assert b"Drop 4 dead letters?" in seen
    assert len(peach.letters()) == left
