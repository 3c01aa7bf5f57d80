"""`run`, `run-script`, `submit`, `decode`, `encode`, `check` as real processes."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peachctl import wire
from tests.conftest import DIAMOND, Peach, node, workflow

GOLDEN = Path(__file__).parents[1] / "golden"


def test_run_says_where_the_output_lies_and_what_to_type_next(peach: Peach) -> None:
    done = peach("run", peach.file(DIAMOND))
    assert "success" in done.stdout
    assert str(peach.data / "workflow_temp" / "workflow_1") in done.stdout
    assert "peachctl queue show 1" in done.stderr
    assert "[5/5] E success" in done.stderr


def test_run_as_json_is_one_value_with_nodes_and_output_path(peach: Peach) -> None:
    done = peach("run", peach.file(DIAMOND), "-o", "json")
    value = json.loads(done.stdout)
    keys = "id user name status progress priority sending_date finished_date execution_file output_file attempt host"
    assert set(keys.split()) | {"reason", "output_path", "nodes"} <= set(value)
    assert value["status"] == "success" and Path(value["output_path"]).is_file()
    assert set(value["nodes"][0]) == {
        *("id", "service", "version", "status", "started", "finished", "error", "outputs")
    }
    assert [one["outputs"] for one in value["nodes"] if one["id"] == "D"] == [["I-N.TXT"]]


def test_a_failing_node_stops_what_depends_on_it_and_nothing_else(peach: Peach) -> None:
    value = workflow(
        node("a", "Text", ["x"]),
        node("bad", "Fail", ["not today"], "a"),
        node("below", "Upper", [], "bad"),
        node("beside", "Upper", [], "a"),
    )
    done = peach.json("run", peach.file(value), code=3)
    assert {one["id"]: one["status"] for one in done["nodes"]} == {
        **{"a": "success", "bad": "error", "below": "skipped", "beside": "success"}
    }
    assert "'bad'" in done["reason"] and "ValueError: not today" in done["reason"]
    [error] = [one["error"] for one in done["nodes"] if one["id"] == "bad"]
    assert error["type"] == "ValueError" and "Fail.py" in error["traceback"]
    assert "peachctl/runtime" not in error["traceback"]


@pytest.mark.parametrize(
    ("service", "parameters", "said"),
    [("Segfault", [], "SIGSEGV"), ("Exit", ["7"], "7")],
)
def test_a_node_that_dies_takes_only_itself_along(service: str, parameters: list[str], said: str, peach: Peach) -> None:
    value = workflow(
        node("a", "Text", ["x"]),
        node("bad", service, parameters, "a"),
        node("below", "Upper", [], "bad"),
        *(node(f"beside{number}", "Sleep", ["0.3"], "a") for number in range(4)),
    )
    done = peach.json("run", peach.file(value), code=3)
    states = {one["id"]: one["status"] for one in done["nodes"]}
    assert states.pop("bad") == "error" and states.pop("below") == "skipped"
    assert set(states.values()) == {"success"}
    assert said in done["reason"]


def test_a_bad_file_files_nothing_and_exits_1_with_one_line(peach: Peach) -> None:
    for arguments in (("run", GOLDEN / "malformed_truncated.bin"), ("submit", GOLDEN / "malformed_truncated.bin")):
        done = peach(*arguments, code=1)
        assert len(done.stderr.splitlines()) == 1
        assert "malformed_truncated.bin" in done.stderr and "byte 45" in done.stderr
        assert "nodes[1].service.id" in done.stderr
    assert peach.rows() == []


def test_submit_files_all_of_a_call_or_none(peach: Peach) -> None:
    good = peach.file(DIAMOND)
    peach("submit", good, GOLDEN / "malformed_empty.bin", code=1)
    assert peach.rows() == []
    first, second = peach.json("submit", good, good)
    assert first == {"file": str(good), "id": 1, "status": "queued", "reason": None}
    assert second["id"] == 2, "equal bytes sent twice are two workflows"
    peach("consume", "execute", "--once")
    assert {row["status"] for row in peach.rows()} == {"success"}


def test_submit_wait_follows_to_the_end(peach: Peach) -> None:
    executor = peach.start("consume", "execute")
    [done] = peach.json("submit", "--wait", "--timeout", "30s", peach.file(DIAMOND))
    assert done["status"] == "success"
    failing = workflow(node("a", "Text", ["x"]), node("f", "Fail", ["no"], "a"))
    [ended] = peach.json("submit", "--wait", peach.file(failing), code=3)
    assert ended["status"] == "error"
    executor.terminate()
    assert executor.wait(20) == 0


def test_a_priority_that_no_row_can_hold_is_a_mistake_and_files_nothing(peach: Peach) -> None:
    done = peach("submit", peach.file(DIAMOND), "--priority", 99999999999, code=2)
    assert "--priority: priority 99999999999 is out of range" in done.stderr
    assert not peach.database.exists()


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("malformed_*")))
def test_every_malformed_message_is_refused_in_one_line_with_file_offset_and_field(name: str, peach: Peach) -> None:
    done = peach("decode", GOLDEN / name, code=1)
    [line] = done.stderr.splitlines()
    assert name in line and "byte " in line and ("named .json" in line) == ("json" in name)
    assert "field " in line or name == "malformed_trailing.bin"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.name)
def test_every_golden_message_decodes_to_its_json_and_encodes_to_its_bytes(path: Path, peach: Peach) -> None:
    if path.name.startswith("malformed_"):
        return
    kind = "services" if path.name == "service_list.bin" else "auto"
    done = peach("decode", path, "-o", "json", "--type", kind)
    assert json.loads(done.stdout) == json.loads(path.with_suffix(".json").read_text())
    if path.name in ("sized_blocks.bin", "param_types.bin"):
        return  # written in blocks with sizes; floats
    again = subprocess.run(
        [sys.executable, "-m", "peachctl", "encode", "-"],
        input=done.stdout.encode(),
        capture_output=True,
        env=peach.environment(),
        check=True,
    )
    assert again.stdout == path.read_bytes()


def test_decode_shows_a_service_config(peach: Peach) -> None:
    [service] = json.loads(peach("decode", GOLDEN / "service.config", "-o", "json").stdout)
    assert service["id"] == "Join" and service["inputPorts"] == ["left", "right"]
    assert "Join v2" in peach("decode", GOLDEN / "service.config").stdout


def test_encode_takes_services_and_a_single_one_as_a_service_config(peach: Peach) -> None:
    shown = peach("decode", GOLDEN / "service.config", "-o", "json").stdout
    config = peach.home / "service.config"
    peach("encode", peach.file(json.dumps(json.loads(shown)[0])), "--out", config)
    assert wire.decode_service_config(config.read_bytes()) == wire.decode_service_config(
        (GOLDEN / "service.config").read_bytes()
    )
    first = config.read_bytes()
    peach("encode", peach.file(shown), "--out", config, "--type", "services")
    assert config.read_bytes() == first
    assert "holds one" in peach("encode", GOLDEN / "service_list.json", "--out", config, code=1).stderr
    assert "a list where" in peach("encode", peach.file(shown), "--type", "workflow", code=1).stderr


@pytest.mark.parametrize("shape", ["tree", "dot", "mermaid", "svg", "script"])
def test_decode_draws_a_workflow_in_every_form(shape: str, peach: Peach) -> None:
    shown = peach("decode", GOLDEN / "optional.bin", "-o", shape).stdout
    assert "FileLoader" in shown and "räw.txt" in shown
    if shape == "script":
        compile(shown, "script", "exec")


def test_encode_refuses_to_write_bytes_to_a_terminal(peach: Peach) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "peachctl", "encode", str(GOLDEN / "chain.json")],
        env=peach.environment(),
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2 and b"--out" in done.stderr


def test_check_names_all_problems_at_once(peach: Peach) -> None:
    value = workflow(
        node("a", "Uper", [], "c"),
        node("b", "Upper", ["surplus"], "nowhere"),
        node("c", "Split", [], "a"),
    )
    done = peach.json("check", peach.file(value), code=1)
    codes = {one["code"] for one in done["problems"]}
    text = " ".join(one["message"] for one in done["problems"])
    assert not done["ok"] and len(codes) >= 4
    assert "a -> c -> a" in text or "c -> a -> c" in text
    assert "Upper" in text and "nowhere" in text
    assert peach.json("check", peach.file(DIAMOND)) == {"ok": True, "problems": []}


def test_a_debugger_opens_where_a_node_fails(peach: Peach) -> None:
    value = workflow(node("a", "Text", ["x"]), node("bad", "Fail", ["look here"], "a"))
    seen, asked, end = b"", False, time.monotonic() + 30
    with peach.on_terminal("run", peach.file(value), "--pdb") as (process, terminal):
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.2)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            seen += data
            if b"(Pdb)" in seen and not asked:
                asked = True
                os.write(terminal, b"p message + '!'\nq\n")
    assert b"look here!" in seen, seen.decode(errors="replace")
