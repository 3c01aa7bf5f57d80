"""Logs of workflows, read piece by piece."""

from pathlib import Path

from peachctl import logs
from peachctl.logs import Log


def _attempt(temp: Path, number: int) -> Path:
    folder = temp / ".workflow_7" / str(number) / "workflow_7"
    folder.mkdir(parents=True)
    return folder


def test_whole_lines_come_as_they_are_written_and_the_rest_at_the_end(tmp_path: Path) -> None:
    output = _attempt(tmp_path, 1).parent / "output.log"
    log = Log(tmp_path, 7)
    assert log.more() == ""
    output.write_text("one\ntw")
    assert log.more() == "one\n"
    with output.open("a") as stream:
        stream.write("o\nthr\u00e4")
    assert [log.more(), log.more(), log.more(last=True), log.more(last=True)] == ["two\n", "", "thr\u00e4", ""]


def test_a_long_log_is_followed_without_being_read_again(tmp_path: Path) -> None:
    output = _attempt(tmp_path, 1).parent / "output.log"
    output.write_bytes(b"x" * 99 + b"\n" + b"y" * logs.MOST)
    log = Log(tmp_path, 7)
    assert log.more() == "y" * logs.MOST
    with output.open("a") as stream:
        stream.write("\nnew\n")
    assert [log.more(), log.more()] == ["\nnew\n", ""]


def test_the_next_attempt_and_the_publication_are_followed(tmp_path: Path) -> None:
    first = _attempt(tmp_path, 1)
    (first / "a.log").write_text("1\n2")
    log = Log(tmp_path, 7, "a")
    assert log.more() == "1\n"
    second = _attempt(tmp_path, 2)
    assert log.more() == ""
    (second / "a.log").write_text("3\n")
    assert log.more() == "2\n3\n"
    second.rename(tmp_path / "workflow_7")
    (first / "a.log").unlink()
    assert log.more() == ""
    with (tmp_path / "workflow_7" / "a.log").open("a") as stream:
        stream.write("4\n")
    assert log.more() == "4\n"
