"""The lock by which an executor is known to live, or to be dead."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from peachctl.errors import StateError
from peachctl.runner import alive
from tests.runner.rig import living, wait_until


def dead_proof(folder: Path) -> str:
    """The proof of a process that has taken a lock and died."""
    program = (
        "import sys, os; from pathlib import Path; from peachctl.runner import alive;"
        " print(alive.take(Path(sys.argv[1])).proof, flush=True); os.kill(os.getpid(), 9)"
    )
    return subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True).stdout


def test_a_dead_process_is_known_to_be_dead_and_its_file_goes(tmp_path: Path) -> None:
    proof = dead_proof(tmp_path)
    assert Path(json.loads(proof)["path"]).is_file()
    assert alive.is_dead(proof)
    assert list(tmp_path.iterdir()) == []
    assert alive.is_dead(proof), "what is known once stays known"


def test_a_living_process_is_not_dead_even_for_itself(tmp_path: Path) -> None:
    held = alive.take(tmp_path)
    assert not alive.is_dead(held.proof)
    check = "import sys; from peachctl.runner import alive; print(alive.is_dead(sys.argv[1]))"
    command = [sys.executable, "-c", check, held.proof]
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    assert held.path.is_file()
    held.release()
    held.release()
    assert not held.path.exists()


def test_a_lock_that_is_older_than_any_lease_still_proves_the_death_after_another_start(tmp_path: Path) -> None:
    proof = dead_proof(tmp_path)
    path = Path(json.loads(proof)["path"])
    hours_ago = time.time() - 10 * 3600
    os.utime(path, (hours_ago, hours_ago))
    alive.take(tmp_path).release()
    assert alive.is_dead(proof)


def test_locks_of_executors_that_died_long_ago_are_swept_away(tmp_path: Path) -> None:
    living = alive.take(tmp_path)
    recent = Path(json.loads(dead_proof(tmp_path))["path"])
    old = Path(json.loads(dead_proof(tmp_path))["path"])
    other = tmp_path / "other"
    other.touch()
    for path in (living.path, old, other):
        os.utime(path, (0, 0))
    program = "import sys, pathlib; from peachctl.runner import alive; alive.take(pathlib.Path(sys.argv[1])).release()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert sorted(tmp_path.iterdir()) == sorted([living.path, recent, other])
    living.release()


def test_each_start_has_its_own_token_and_a_lock_that_only_it_may_touch(tmp_path: Path) -> None:
    folder = tmp_path / "runtime" / "peachctl"
    one, other = alive.take(folder), alive.take(folder)
    assert one.token != other.token
    assert folder.stat().st_mode & 0o777 == 0o700
    assert one.path.stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(one.fd)
    one.release()
    other.release()


@pytest.mark.parametrize(
    "change",
    [
        {"host": "another"},
        {"boot": "another"},
        {"pids": 1},
        {"ino": 1},
        {"dev": 1},
        {"path": "/nowhere/" + "0" * 32 + ".lock"},
        {"boot": None},
    ],
)
def test_a_proof_from_elsewhere_proves_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    proof = dead_proof(tmp_path)
    assert not alive.is_dead(json.dumps({**json.loads(proof), **change}))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("proof", ["", "{", "[]", "null", "{}", '{"path": 1}', "[" * 100000])
def test_a_proof_that_is_none_proves_nothing(proof: str) -> None:
    assert not alive.is_dead(proof)


def test_a_proof_cannot_name_another_file(tmp_path: Path) -> None:
    proof = json.loads(dead_proof(tmp_path))
    precious = tmp_path / "precious"
    precious.write_text("x")
    found = precious.stat()
    assert not alive.is_dead(json.dumps({**proof, "path": str(precious), "dev": found.st_dev, "ino": found.st_ino}))
    link = Path(proof["path"])
    link.unlink()
    link.symlink_to(precious)
    assert not alive.is_dead(json.dumps({**proof, "dev": found.st_dev, "ino": found.st_ino}))
    assert precious.exists()


def test_a_file_that_was_removed_proves_nothing(tmp_path: Path) -> None:
    proof = dead_proof(tmp_path)
    Path(json.loads(proof)["path"]).unlink()
    assert not alive.is_dead(proof)


def test_of_many_that_look_at_once_somebody_knows_and_nobody_is_wrong(tmp_path: Path) -> None:
    proof = dead_proof(tmp_path)
    check = (
        "import sys; from peachctl.runner import alive; sys.stdin.read(1);"
        " print(any([alive.is_dead(sys.argv[1]) for _ in range(50)]))"
    )
    lookers = [
        subprocess.Popen([sys.executable, "-c", check, proof], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [looker.communicate("x")[0].strip() for looker in lookers]
    assert "True" in answers
    assert list(tmp_path.iterdir()) == []


def test_what_holds_the_lock_of_a_dead_executor_lives_until_its_time_is_over(
    tmp_path: Path, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys, os, subprocess; from pathlib import Path; from peachctl.runner import alive;"
        " held = alive.take(Path(sys.argv[1]));"
        " subprocess.Popen(['sleep', sys.argv[2]], pass_fds=[held.fd], stdout=-3, stderr=-3,"
        " env={**os.environ, alive.MARKER: held.token});"
        " print(held.proof, flush=True); os._exit(1)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), marker]
    proof = subprocess.run(command, capture_output=True, text=True).stdout
    assert not alive.is_dead(proof)
    wait_until(lambda: len(living(marker)) == 1)  # a program has no arguments yet at the moment at which it starts
    monkeypatch.setattr(alive, "_PATIENCE", 0.3)
    wait_until(lambda: alive.is_dead(proof))
    assert living(marker) == []


def test_strays_are_found_by_the_environment_that_they_were_started_with(marker: str) -> None:
    token = "f" * 32
    environment = {**os.environ, alive.MARKER: token}
    mine = subprocess.Popen(["sleep", marker], env=environment)
    other = subprocess.Popen(["sleep", marker], env={**os.environ, alive.MARKER: token[:-1]})
    with contextlib.ExitStack() as stack:
        for process in (mine, other):
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_until(lambda: len(living(marker)) == 2)
        assert alive.end_strays(token) == 1
        assert mine.wait(5) == -9
        assert other.poll() is None
        assert alive.end_strays(token) == 0


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateError, match="not this user's alone"):
        alive.take(tmp_path)
    target = tmp_path / "target"
    target.mkdir(0o700)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="link"):
        alive.take(link)


def test_the_folder_is_systemds_then_the_logins_then_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/peachctl:/run/other")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert alive.default_folder() == Path("/run/peachctl")
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert alive.default_folder() == tmp_path / "peachctl"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert alive.default_folder() == Path(tempfile.gettempdir()) / f"peachctl-{os.geteuid()}"
