"""Standard streams that are closed, full, gone or of another encoding, and what `-v` adds, as real processes."""

import json
import subprocess
import sys

import pytest
import typer

from peachctl.cli import _usage
from peachctl.cli.render import screen
from tests.conftest import DIAMOND, Peach, node, workflow


def redirected(peach: Peach, how: str, *arguments: object, **env: str) -> "subprocess.CompletedProcess[bytes]":
    """Runs a command with a redirection of the shell."""
    script = f'exec "$@" {how}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "peachctl", *map(str, arguments)]
    return subprocess.run(command, env=peach.environment(**env), cwd=peach.home, capture_output=True, timeout=60)


@pytest.mark.parametrize("how", [">/dev/full", ">&-"])
def test_a_result_that_cannot_be_written_is_one_line_and_exit_1(peach: Peach, how: str) -> None:
    for more in ((), ("-o", "json")):
        done = redirected(peach, how, "example", "list", *more)
        assert done.returncode == 1
        [line] = done.stderr.decode().splitlines()
        assert "cannot be written to standard output" in line
    assert json.loads(line)["error"]["code"] == 1


def test_a_reader_that_goes_away_is_no_error(peach: Peach) -> None:
    done = redirected(peach, "| true", "example", "list")
    assert done.stderr == b""


def test_run_runs_with_no_stream_open(peach: Peach) -> None:
    done = redirected(peach, "<&- 2>&-", "run", peach.file(DIAMOND), "-o", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "success"


def test_talk_that_cannot_be_written_stops_nothing(peach: Peach) -> None:
    done = redirected(peach, "2>/dev/full", "run", peach.file(DIAMOND), "-o", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "success"


def test_hostile_names_come_out_under_every_encoding(peach: Peach) -> None:
    name = "ü\U0001f9e0\n\x1b[2J\u202e"
    file = peach.file({**workflow(node("ä", "Text", ["ß"])), "name": name})
    ascii = {"PYTHONIOENCODING": "ascii"}
    assert json.loads(peach("decode", file, "-o", "json", **ascii).stdout)["name"] == name
    shown = peach("decode", file, **ascii).stdout
    assert shown.isascii() and "\\u00fc" in shown and "\x1b" not in shown


def test_verbose_adds_the_traceback_and_keeps_the_error_and_its_status(peach: Peach) -> None:
    lines = peach("queue", "show", 77, code=4).stderr.splitlines()
    verbose = redirected(peach, "", "-v", "queue", "show", 77)
    said = verbose.stderr.decode().splitlines()
    assert verbose.returncode == 4 and said[0].startswith("Traceback") and said[-len(lines) :] == lines


def test_verbose_json_errors_are_one_object_and_nothing_else(peach: Peach) -> None:
    done = redirected(peach, "", "-v", "queue", "show", 77, "-o", "json")
    assert done.returncode == 4 and json.loads(done.stderr)["error"]["code"] == 4


@pytest.mark.parametrize("words", [("-o", "json"), ("-ojsonl",), ("--output=json",), ("v.json",), ("x=json",)])
def test_a_mistake_on_the_command_line_is_json_where_the_result_would_have_been(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peachctl", "queue", "list", *words, "--nonsense"])
    screen.configure(config_file=None, color="never", verbose=0, quiet=False)
    with pytest.raises(SystemExit) as ended:
        _usage(typer.BadParameter("nonsense"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("{" if words[0].startswith("-") else "Error: ")
