"""What root may, an ordinary user can't: the same tests again without privileges, when the suite is run by root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

WHAT = [
    "test_a_namespace_is_used_where_the_host_allows_one",
    "test_a_run_is_a_session_without_terminal_or_secrets",
    "test_files_keep_owner_group_and_the_setgid_of_their_folder",
    "test_nothing_of_a_run_is_left_when_its_end_is_said",
    "test_a_killed_main_process_takes_all_of_its_run_along_and_no_other",
    "test_processes_that_flee_are_ended",
    "test_a_killed_supervisor_is_noticed_when_nothing_is_left",
    "test_a_killed_executor_leaves_nothing_and_is_known_to_be_dead",
]
NEEDS_PROC = ["test_a_run_can_do_what_programs_do"]


@pytest.mark.parametrize("mask", [[], ["--mask-proc"]], ids=["proc", "masked-proc"])
def test_an_ordinary_user_gets_the_same(mask: list[str]) -> None:
    """masked-proc: a unit or container that hides parts of `/proc` lets no user mount another one."""
    names = WHAT if mask else WHAT + NEEDS_PROC
    arguments = [str(HERE / "test_runs.py"), str(HERE / "test_deaths.py"), "-p", "no:xdist"]
    arguments += ["-k", f"warm-namespace and ({' or '.join(names)})"]
    command = [sys.executable, str(HERE / "as_nobody.py"), *mask, *arguments]
    if os.geteuid() != 0:
        command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(names) + 1} passed" in done.stdout
