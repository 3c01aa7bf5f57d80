"""Folders of a workflow, packed outputs: whole or not at all, for the group, nothing outside."""

import errno
import gzip
import io
import os
import re
import resource
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from peachctl import files, script_files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def unpacked(packed: Path) -> dict[str, bytes | None]:
    """Names in a packed output and what is in them, None for folders."""
    with tarfile.open(packed, "r:gz") as tar:
        return {
            member.name: (tar.extractfile(member) or io.BytesIO()).read() if member.isfile() else None for member in tar
        }


def test_text_is_written_in_one_step_over_whatever_is_there(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("outside")
    (tmp_path / "log").symlink_to("outside")
    files.write(tmp_path / "log", "lone \ud800 surrogate")
    assert (tmp_path / "log").read_text() == "lone \\ud800 surrogate"
    assert (tmp_path / "outside").read_text() == "outside"
    assert not (tmp_path / "log").is_symlink()


# A full disk


def full_disk(limit: int, code: str) -> str:
    """What a process prints whose files cannot grow beyond `limit` bytes."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    program = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfrom pathlib import Path\n" + code
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=small,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.fault("D1")
def test_a_full_disk_leaves_no_half_output(tmp_path: Path, downloads: Path) -> None:
    (tmp_path / "workflow_1").mkdir()
    (tmp_path / "workflow_1" / "noise").write_bytes(os.urandom(100_000))
    said = full_disk(
        10_000,
        "from peachctl import files\n"
        f"try: files.pack(Path({str(tmp_path)!r}) / 'workflow_1', Path({str(downloads)!r}), 1)\n"
        "except files.DiskFull as error: print(error.message)",
    )
    assert said == "the output of workflow 1 cannot be packed: File too large"
    assert names(downloads) == []


def test_no_space_and_no_quota_are_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, kind in (
        (errno.ENOSPC, files.DiskFull),
        (errno.EDQUOT, files.DiskFull),
        (errno.EACCES, files.FilesError),
    ):

        def fail(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fchmod", fail)
        with pytest.raises(files.FilesError) as told:
            files.write(tmp_path / "x", "text")
        assert type(told.value) is kind
    assert names(tmp_path) == []


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    there, missing = files.free_space(tmp_path), files.free_space(tmp_path / "not" / "yet")
    assert there > 1 << 20
    assert abs(there - missing) < 1 << 30


# Temporary files


def test_temporary_files_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = f"""
import os, time
from pathlib import Path
from typing import Any
from peachctl import files
with files._temporary(Path({str(tmp_path)!r})) as (stream, path):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", dead], env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
        )
        assert done.returncode == -9
    left = list(tmp_path.iterdir())
    assert len(left) == 2
    an_hour_ago = time.time() - 3600
    os.utime(left[0], (an_hour_ago, an_hour_ago))
    for name in ("services.avro", ".hidden.tmp", ".peachctl-x.tmp", "x.tmp"):
        (tmp_path / name).write_text("not ours")
        os.utime(tmp_path / name, (an_hour_ago, an_hour_ago))
    with files._temporary(tmp_path) as (_, living):
        os.utime(living, (an_hour_ago, an_hour_ago))
        assert files.clean_temporaries(tmp_path) == 1
        assert living.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [left[1].name, "services.avro", ".hidden.tmp", ".peachctl-x.tmp", "x.tmp"]
    )
    assert files.clean_temporaries(tmp_path / "missing") == 0


def killed_while_it_writes(code: str) -> None:
    """Runs code of `files` in a process that SIGKILL hits when its first file is written and not yet in its place."""
    program = f"""
import os
from pathlib import Path
from peachctl import files
files._settle = lambda *_, **__: os.kill(os.getpid(), 9)
{code}
"""
    env = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", program], env=env).returncode == -9


def half_written(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".tmp")]


@pytest.mark.fault("A10")
def test_a_home_that_does_not_say_yet_whose_it_is_is_nobody_elses(temp: Path) -> None:
    killed_while_it_writes(f"files.prepare_attempt(Path({str(temp)!r}), 7, 1, False, 'ada.py')")
    assert len(half_written(temp)) == 1
    with files._temporary(temp / ".workflow_7"):  # somebody who is about to say it
        files.prepare_attempt(temp, 7, 2, True, "ada.py")
        assert [path.name for path in temp.iterdir()] == [".workflow_7"]
    assert names(temp / ".workflow_7") == ["2", "2/workflow_7", "owner", "results"]


@pytest.mark.fault("A10")
def test_what_a_killed_attempt_left_half_written_is_in_no_output(temp: Path, downloads: Path) -> None:
    first = files.prepare_attempt(temp, 7, 1, False, "ada.py")
    killed_while_it_writes(f"files.write(Path({str(first.script)!r}), 'text')")
    killed_while_it_writes(f"files.write_log(Path({str(first.folder)!r}), 'text')")
    assert len(half_written(temp)) == 2
    second = files.prepare_attempt(temp, 7, 2, True, "ada.py")
    assert half_written(temp) == []
    published = files.publish(second)
    killed_while_it_writes(f"files.write_log(Path({str(published)!r}), 'text')")
    refused = files.write_refusal(temp, downloads, 7, 2, "no", "ada.py")
    assert list(unpacked(downloads / refused)) == ["workflow_7", "workflow_7/peachctl.log"]


@pytest.mark.fault("A10")
def test_half_written_files_in_folders_that_were_put_aside_are_swept_unless_somebody_writes_them(temp: Path) -> None:
    bob = files.prepare_attempt(temp, 7, 1, False, "bob.py")
    for path in (bob.script, bob.folder / files.LOG, temp / ".workflow_7" / "owner"):
        killed_while_it_writes(f"files.write(Path({str(path)!r}), 'text')")
    with files._temporary(bob.folder) as (_, living):
        files.prepare_attempt(temp, 7, 1, False, "ada.py")
        [aside] = temp.glob(".workflow_7.old-*")
        (temp / f".workflow_8.old-{'0' * 16}").mkdir()
        left = half_written(aside)
        assert len(left) == 3 and files.clean_put_aside(temp) == 0
        for path in temp.rglob("*"):
            os.utime(path, (time.time() - 3600,) * 2)
        assert files.clean_put_aside(temp) == 2
        assert [Path(name).name for name in half_written(aside)] == [living.name]
    assert sorted(path.name for path in temp.iterdir()) == [".workflow_7", aside.name]


# The folders of a workflow


def test_a_first_attempt_starts_empty_and_is_published(temp: Path) -> None:
    attempt = files.prepare_attempt(temp, 7, 1, False)
    mine = temp / ".workflow_7/1"
    assert attempt == files.attempt_folder(temp, 7, 1)
    assert attempt == files.AttemptFolder(
        mine / "workflow_7", temp / ".workflow_7/results", mine / "output.log", mine / "script.py"
    )
    assert names(temp) == [".workflow_7", ".workflow_7/1", ".workflow_7/1/workflow_7", ".workflow_7/results"]
    (attempt.folder / "a_out.txt").write_text("out")
    attempt.output.write_text("captured")
    assert files.publish(attempt) == temp / "workflow_7"
    assert names(temp / "workflow_7") == ["a_out.txt"]
    assert attempt.output.read_text() == "captured"
    assert files.publish(attempt) == temp / "workflow_7"


def test_folders_are_for_the_group_whatever_the_umask_says(temp: Path) -> None:
    before = os.umask(0o077)
    try:
        attempt = files.prepare_attempt(temp, 7, 1, False)
        files.write(attempt.folder / "peachctl.log", "text")
        script_files.place(temp, "ada.py", "text")
    finally:
        os.umask(before)
    for path in (attempt.folder, attempt.folder.parent, temp / ".workflow_7"):
        assert mode(path) == 0o2750
    assert mode(attempt.results) == 0o2700
    assert mode(attempt.folder / "peachctl.log") == mode(temp / "ada.py") == 0o640


def test_a_resumed_attempt_goes_on_with_the_files_of_the_one_before(temp: Path) -> None:
    first = files.prepare_attempt(temp, 7, 1, False)
    (first.folder / "a_out.txt").write_text("out")
    (first.results / "a").write_text("kept")
    first.output.write_text("first\n")
    second = files.prepare_attempt(temp, 7, 2, True)
    assert names(temp / ".workflow_7") == [
        *("2", "2/output.log", "2/workflow_7", "2/workflow_7/a_out.txt", "results", "results/a"),
    ]
    assert second.output.read_text() == "first\n"
    assert files.prepare_attempt(temp, 7, 2, True) == second
    assert (second.folder / "a_out.txt").read_text() == "out"


def test_a_retry_takes_the_published_folder_back(temp: Path) -> None:
    first = files.prepare_attempt(temp, 7, 1, False)
    (first.folder / "a_out.txt").write_text("out")
    files.publish(first)
    second = files.prepare_attempt(temp, 7, 2, True)
    assert names(second.folder) == ["a_out.txt"]
    assert not (temp / "workflow_7").exists()
    files.publish(second)
    assert names(temp / "workflow_7") == ["a_out.txt"]


def test_an_attempt_from_the_start_keeps_nothing_but_what_was_published(temp: Path) -> None:
    first = files.prepare_attempt(temp, 7, 1, False)
    (first.folder / "old.txt").write_text("old")
    files.publish(first)
    second = files.prepare_attempt(temp, 7, 2, True)
    (second.results / "a").write_text("kept")
    files.publish(second)
    third = files.prepare_attempt(temp, 7, 3, False)
    assert names(third.folder) == names(third.results) == []
    assert names(temp / "workflow_7") == ["old.txt"]
    (third.folder / "new.txt").write_text("new")
    files.publish(third)
    assert names(temp / "workflow_7") == ["new.txt"]
    assert names(temp / ".workflow_7") == ["3", "results"]


@pytest.mark.fault("A10")
def test_publishing_goes_on_where_it_was_killed(temp: Path) -> None:
    files.publish(files.prepare_attempt(temp, 7, 1, False))
    second = files.prepare_attempt(temp, 7, 2, False)
    (second.folder / "new.txt").write_text("new")
    (temp / "workflow_7").rename(temp / ".workflow_7" / "replaced")
    files.publish(second)
    assert names(temp / "workflow_7") == ["new.txt"]
    assert not (temp / ".workflow_7" / "replaced").exists()


def test_folders_of_another_workflow_with_the_same_id_are_put_aside(temp: Path, downloads: Path) -> None:
    bob = files.prepare_attempt(temp, 7, 1, False, "bob.py")
    (bob.folder / "secret_of_bob.txt").write_text("x")
    files.publish(bob)
    later = files.prepare_attempt(temp, 7, 2, True, "bob.py")
    assert names(later.folder) == ["secret_of_bob.txt"]

    ada = files.prepare_attempt(temp, 7, 1, False, "ada.py")
    assert names(ada.folder) == [] and not (temp / "workflow_7").exists()
    (ada.folder / "a_out.txt").write_text("out")
    assert names(files.prepare_attempt(temp, 7, 2, True, "ada.py").folder) == ["a_out.txt"]

    refused = files.write_refusal(temp, downloads, 7, 0, "a cycle", "eve.py")
    assert list(unpacked(downloads / refused)) == ["workflow_7", "workflow_7/peachctl.log"]
    assert files.write_refusal(temp, downloads, 7, 0, "a cycle", "eve.py")
    aside = sorted(path.name for path in temp.rglob("*.txt"))
    assert aside == ["a_out.txt", "secret_of_bob.txt"]


def test_removing_leaves_other_workflows_and_links_alone(temp: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("outside")
    for id in (7, 77):
        attempt = files.prepare_attempt(temp, id, 1, False)
        (attempt.folder / "link").symlink_to(tmp_path / "outside")
        files.publish(attempt)
    files.remove_workflow(temp, 7)
    files.remove_workflow(temp, 7)
    assert sorted(path.name for path in temp.iterdir()) == [".workflow_77", "workflow_77"]
    assert names(tmp_path / "outside") == ["file"]


def test_a_planted_link_is_not_followed(temp: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "1").mkdir()
    (temp / ".workflow_7").symlink_to(tmp_path / "outside")
    files.prepare_attempt(temp, 7, 2, False)
    assert names(tmp_path / "outside") == ["1"]


# Packed outputs


def test_a_packed_output_holds_the_folder_under_its_name(temp: Path, downloads: Path) -> None:
    folder = temp / "workflow_42"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a_out.txt").write_text("out")
    (folder / "sub" / "deep" / "b").write_bytes(b"\0" * 3_000_000)
    before = time.time()
    name = files.pack(folder, downloads, 42)
    found = re.fullmatch(r"(\d{16})_workflow_42\.tar", name)
    assert found is not None
    assert before - 1 < int(found[1]) / 1e6 < time.time() + 1
    assert unpacked(downloads / name) == {
        "workflow_42": None,
        "workflow_42/a_out.txt": b"out",
        "workflow_42/sub": None,
        "workflow_42/sub/deep": None,
        "workflow_42/sub/deep/b": b"\0" * 3_000_000,
    }
    assert names(downloads) == [name]
    assert mode(downloads / name) == 0o640
    with gzip.open(downloads / name) as file:
        assert file.read(11) == b"workflow_42"


def test_outputs_packed_in_the_same_microsecond_have_names_of_their_own(
    temp: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temp / "workflow_1").mkdir()
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    assert [files.pack(temp / "workflow_1", downloads, 1) for _ in range(3)] == [
        *("1700000000123456_workflow_1.tar", "1700000000123457_workflow_1.tar", "1700000000123458_workflow_1.tar"),
    ]


@pytest.mark.fault("A11")
@pytest.mark.parametrize("links", [True, False])
def test_an_output_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The power cannot be cut here: held is the order of the calls that a disk is promised to honour."""
    order: list[str] = []

    def noting(module: Any, name: str, refused: bool = False) -> None:
        ordinary = getattr(module, name)

        def call(*args: Any, **more: Any) -> Any:
            if refused:
                raise OSError(errno.EPERM, "no hard links")
            kind = "folder" if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else ""
            order.append(f"{name} {kind}".strip())
            return ordinary(*args, **more)

        monkeypatch.setattr(module, name, call)

    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "a.log").write_text("x")
    noting(os, "fsync")
    noting(os, "link", refused=not links)
    noting(os, "rename")
    name = files.pack(tmp_path / "w", tmp_path, 1)
    assert (tmp_path / name).is_file()
    assert order == ["fsync", "link" if links else "rename", "fsync folder"]


def test_without_hard_links_outputs_are_renamed_into_place(
    temp: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (temp / "workflow_1").mkdir()
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    made = [files.pack(temp / "workflow_1", downloads, 1) for _ in range(2)]
    assert names(downloads) == made == ["1700000000123456_workflow_1.tar", "1700000000123457_workflow_1.tar"]


def test_a_folder_in_the_place_of_the_log_gives_way(temp: Path, downloads: Path) -> None:
    folder = files.prepare_attempt(temp, 1, 1, False).folder
    (folder / "peachctl.log" / "deeper").mkdir(parents=True)
    files.write_log(folder, "it failed\n")
    assert unpacked(downloads / files.pack(folder, downloads, 1))["workflow_1/peachctl.log"] == b"it failed\n"


def test_a_refusal_says_why_and_hides_passwords(temp: Path, downloads: Path) -> None:
    name = files.write_refusal(temp, downloads, 3, 0, 'a cycle: a -> b -> a, {"password": "hunter2"}')
    packed = unpacked(downloads / name)
    assert list(packed) == ["workflow_3", "workflow_3/peachctl.log"]
    log = packed["workflow_3/peachctl.log"]
    assert log is not None
    assert b"a cycle: a -> b -> a" in log
    assert b"hunter2" not in log
    assert names(temp) == ["workflow_3", "workflow_3/peachctl.log"]


def test_a_refusal_of_a_stale_holder_leaves_a_later_attempt_alone(temp: Path, downloads: Path) -> None:
    files.prepare_attempt(temp, 3, 1, False)
    later = files.prepare_attempt(temp, 3, 2, True)
    with pytest.raises(files.FilesError, match="attempt 1 was overtaken by attempt 2"):
        files.write_refusal(temp, downloads, 3, 1, "its script was edited")
    assert later.folder.is_dir() and not (temp / "workflow_3").exists()
    assert names(downloads) == []


def test_a_row_out_of_attempts_keeps_what_its_last_attempt_made(temp: Path, downloads: Path) -> None:
    attempt = files.prepare_attempt(temp, 3, 2, False)
    (attempt.folder / "a_out.txt").write_text("out")
    packed = unpacked(downloads / files.write_refusal(temp, downloads, 3, 2, "its executor vanished 3 times"))
    assert sorted(packed) == ["workflow_3", "workflow_3/a_out.txt", "workflow_3/peachctl.log"]
    assert names(temp / "workflow_3") == ["a_out.txt", "peachctl.log"]


UNPRIVILEGED = """
import gzip, os, sys
from pathlib import Path
from typing import Any
from peachctl import files
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
home = Path(sys.argv[1])
attempt = files.prepare_attempt(home, 1, 1, False)
(attempt.folder / "a").write_text("a")
(attempt.folder / "unreadable").write_text("x")
(attempt.folder / "unreadable").chmod(0)
(attempt.folder / "closed" / "deep").mkdir(parents=True)
(attempt.folder / "closed" / "deep" / "file").write_text("x")
(attempt.folder / "closed" / "deep").chmod(0o500)
(attempt.folder / "closed").chmod(0)
print(files.pack(files.publish(attempt), home, 1))
files.remove_workflow(home, 1)
"""


def test_what_a_service_closed_to_itself_is_left_out_of_the_output_and_can_be_removed() -> None:
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, name],
            env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        packed = unpacked(Path(name) / done.stdout.strip())
        assert packed == {
            "workflow_1": None,
            "workflow_1/a": b"a",
            "workflow_1/closed": None,
            "workflow_1/peachctl.log": b"not packed: unreadable: Permission denied\n"
            b"not packed: closed: Permission denied\n",
        }
        assert names(Path(name)) == [done.stdout.strip()]
