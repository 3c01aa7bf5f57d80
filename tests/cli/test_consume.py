"""`consume` and `watch` as real processes."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import DIAMOND, Peach, make_hub, node, workflow


def test_watch_runs_files_of_the_inbox_and_shows_a_failure_with_node_traceback_and_log(peach: Peach) -> None:
    peach.inbox.mkdir(parents=True)
    failing = workflow(
        node("a", "Text", ["x"]), node("s", "Save", ["kept.txt"], "a"), node("f", "Fail", ["no luck"], "s")
    )
    (peach.inbox / "failing.json").write_text(json.dumps(failing))
    done = peach("watch", "--once")
    for said in ("node 'f'", "ValueError: no luck", "Fail.py", "saved kept.txt", "peachctl queue logs 1"):
        assert said in done.stderr, f"{said}\n{done.stderr}"
    assert done.stderr.index("Fail.py") < done.stderr.index("peachctl queue logs 1")


def test_watch_runs_a_script_again_when_it_is_saved_with_the_service_as_it_is_now(peach: Peach) -> None:
    peach.hub = make_hub(peach.home / "hub")
    service = peach.hub / "Upper" / "v1" / "Upper.py"
    good = service.read_text()
    service.write_text("def start(c, text):\n    raise RuntimeError('not yet')\n")
    process = peach.start("watch")
    peach.until(lambda: peach.inbox.is_dir())
    peach.file(DIAMOND, "moving").rename(peach.inbox / "one.json")
    peach.until(lambda: [row for row in peach.rows() if row["status"] == "error"])
    service.write_text(good)
    [script] = peach.queue.glob("*.py")
    script.write_text(script.read_text())
    peach.until(lambda: [row for row in peach.rows() if row["status"] == "success"])
    assert [row["attempt"] for row in peach.rows()] == [2]
    script.write_text(script.read_text().replace("'-'", "'+'"))
    folder = peach.data / "workflow_temp" / "workflow_1"
    peach.until(lambda: (folder / "E_out.txt").exists() and (folder / "E_out.txt").read_text() == "I+N.TXT")
    process.terminate()
    assert process.wait(20) == 0
    assert len(peach.rows()) == 1


def test_a_script_that_peachctl_did_not_write_runs_only_when_it_is_saved_while_watch_looks_on(peach: Peach) -> None:
    peach.queue.mkdir(parents=True)
    text = (
        "from peachctl.runtime import literal, node, output, run\n"
        "graph = {}\ngraph['a'] = node('Upper', 1, [literal('x')], [])\nrun(graph)\n"
    )
    (peach.queue / "own.py").write_text(text)
    (peach.queue / "services.avro").write_text("{}")
    peach("watch", "--once")
    peach("consume", "execute", "--once")
    assert peach.rows() == []
    process = peach.start("watch")
    peach.until(lambda: "Scripts:" in (peach.home / "stderr.0").read_text())
    (peach.queue / "new.py").write_text(text)
    peach.until(lambda: [row for row in peach.rows() if row["status"] == "success"])
    process.terminate()
    assert process.wait(20) == 0
    [row] = peach.rows()
    assert row["execution_file"] == "new.py" and row["name"] == "new.py"
    assert {path.name for path in peach.queue.iterdir()} == {"own.py", "new.py", "services.avro"}


def test_consume_execute_refuses_an_edited_script_with_that_reason(peach: Peach) -> None:
    peach("submit", peach.file(DIAMOND))
    [script] = peach.queue.glob("*.py")
    script.write_text(script.read_text().replace("'-'", "'+'"))
    peach("consume", "execute", "--once")
    [row] = peach.rows()
    assert row["status"] == "error" and "edited" in row["reason"]


@pytest.mark.fault("A11")
def test_a_torn_script_is_rendered_again(peach: Peach) -> None:
    peach("submit", peach.file(DIAMOND))
    [script] = peach.queue.glob("*.py")
    whole = script.read_bytes()
    script.write_bytes(whole[: len(whole) // 2])
    peach("consume", "execute", "--once")
    assert [row["status"] for row in peach.rows()] == ["success"]
    assert script.read_bytes() == whole


def test_the_hyphenated_spellings_and_consume_all_work(peach: Peach) -> None:
    peach.inbox.mkdir(parents=True)
    shutil.copy(peach.file(DIAMOND), peach.inbox / "one.json")
    peach("consume-ingest", "--once")
    assert [row["status"] for row in peach.rows()] == ["queued"]
    peach("consume-execute", "--once")
    shutil.copy(peach.file(DIAMOND), peach.inbox / "two.json")
    peach("consume", "all", "--once")
    assert [row["status"] for row in peach.rows()] == ["success", "success"]


def test_the_log_can_be_json_lines(peach: Peach) -> None:
    peach("submit", peach.file(DIAMOND))
    done = peach("-q", "consume", "execute", "--once", "--log-format", "json")
    assert all(json.loads(line)["level"] for line in done.stderr.splitlines())
    done = peach("consume", "execute", "--once", "--log-format", "xml", code=2)


@pytest.mark.fault("C5")
def test_a_sigterm_in_the_start_is_an_end_like_any_other(peach: Peach) -> None:
    processes = [
        peach.start(*words) for words in (*(("consume", one) for one in ("ingest", "execute", "all")), ("watch",))
    ]
    left = list(processes)

    def strike() -> bool:
        for process in list(left):
            [caught] = [
                int(line.split()[1], 16)
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                if line.startswith("SigCgt")
            ]
            if caught >> (signal.SIGTERM - 1) & 1:
                # Nothing heavy is there yet, no folder either: whatever comes after it finds the signal heard.
                process.terminate()
                left.remove(process)
        return not left

    peach.until(strike)
    assert [process.wait(20) for process in processes] == [0, 0, 0, 0]
