"""Scripts placed: whole or not at all, over nothing that is somebody's own."""

import os
from pathlib import Path

import pytest

from peachctl import files, script, script_files
from peachctl.workflow import Node, ServiceRef, Workflow
from tests.test_files import full_disk, mode, names

MD5 = "0123456789abcdef0123456789abcdef"
NAME = f"ada_{MD5}_1700000000_000001.py"
TEXT = script.render(Workflow("名前", "ada", (Node("é", ServiceRef("Text", 1), ("x",), ()),)), MD5)


def test_a_script_is_placed_once(tmp_path: Path) -> None:
    assert script_files.place(tmp_path, NAME, TEXT) is True
    assert (tmp_path / NAME).read_text() == TEXT
    assert mode(tmp_path / NAME) == 0o640
    before = (tmp_path / NAME).stat()
    assert script_files.place(tmp_path, NAME, TEXT) is False
    assert (tmp_path / NAME).stat() == before
    assert names(tmp_path) == [NAME]


@pytest.mark.fault("D2")
def test_a_script_torn_at_any_length_is_placed_again(tmp_path: Path) -> None:
    whole = TEXT.encode()
    for length in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:length])
        assert script_files.place(tmp_path, NAME, TEXT) is True, length
        assert (tmp_path / NAME).read_bytes() == whole


@pytest.mark.fault("A11")
def test_blocks_that_never_reached_the_disk_are_torn(tmp_path: Path) -> None:
    for there in (bytes(len(TEXT)), TEXT.encode()[:100] + bytes(400)):
        (tmp_path / NAME).write_bytes(there)
        assert script_files.place(tmp_path, NAME, TEXT) is True
        assert (tmp_path / NAME).read_text() == TEXT


@pytest.mark.parametrize(
    "there",
    [
        TEXT.replace("run(graph)", "run(graph)  # edited"),
        "print('of 2017')\n",
        TEXT + "\n# more\n",
    ],
    ids=["edited", "not ours", "longer"],
)
def test_a_script_that_is_edited_or_not_ours_stays(tmp_path: Path, there: str) -> None:
    (tmp_path / NAME).write_text(there)
    assert script_files.place(tmp_path, NAME, TEXT) is False
    assert (tmp_path / NAME).read_text() == there


def test_what_is_no_file_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / NAME).symlink_to("target")
    assert script_files.place(tmp_path, NAME, TEXT) is False
    assert (tmp_path / "target").read_text() == ""
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    assert script_files.place(tmp_path, NAME, TEXT) is False


@pytest.mark.parametrize("name", ["../x.py", "a/b.py", "/etc/x.py", "", ".", "..", "x\0.py"])
def test_a_script_name_is_no_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "queue").mkdir()
    with pytest.raises(files.FilesError, match="no file name"):
        script_files.place(tmp_path / "queue", name, TEXT)
    assert names(tmp_path) == ["queue"]


def test_a_script_is_read_only_where_it_is_a_file(tmp_path: Path) -> None:
    assert script_files.read_script(tmp_path / "missing.py") is None
    assert script_files.read_script(tmp_path) is None
    (tmp_path / "latin.py").write_bytes(b"caf\xe9")
    assert script_files.read_script(tmp_path / "latin.py") == "caf�"
    (tmp_path / "link.py").symlink_to("latin.py")
    assert script_files.read_script(tmp_path / "link.py") is None
    os.mkfifo(tmp_path / "fifo.py")
    assert script_files.read_script(tmp_path / "fifo.py") is None


def test_a_missing_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(files.FilesError) as told:
        script_files.place(tmp_path / "missing", NAME, TEXT)
    assert told.value.message == f"{tmp_path}/missing/{NAME} cannot be written: No such file or directory"


@pytest.mark.fault("D1")
def test_a_full_disk_leaves_no_half_script(tmp_path: Path) -> None:
    said = full_disk(
        1000,
        "from peachctl import files, script_files\n"
        f"try: script_files.place(Path({str(tmp_path)!r}), 'x.py', 'x' * 5000)\n"
        "except files.DiskFull as error: print(error.message)",
    )
    assert said == f"{tmp_path}/x.py cannot be written: File too large"
    assert names(tmp_path) == []
