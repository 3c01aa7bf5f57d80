"""Runs of a supervisor that lives: started, heard, ended, and nothing of them left."""

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.runner.rig import Rig, carriers, living, outer, wait_until, waits


def test_a_namespace_is_used_where_the_host_allows_one(rig: Rig, request: pytest.FixtureRequest) -> None:
    rig.whole("pass")
    program = "from peachctl.runtime.namespace import possible; print(int(possible()))"
    way = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)
    fallback = "fallback" in request.node.callspec.id
    assert rig.runner.namespace is (bool(way) and not fallback)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('why')", 1),
        ("os._exit(7)", 7),
        ("1/0", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", -15),
        ("import ctypes; ctypes.string_at(0)", -11),
    ],
)
def test_the_end_says_the_exit_status_or_the_signal(rig: Rig, text: str, code: int) -> None:
    ended, _ = rig.whole(text)
    assert (ended.code, ended.strays, ended.silent) == (code, 0, False)
    assert 1 << 20 < ended.memory < 1 << 30


def test_peak_memory_counts_the_processes_that_the_run_waited_for(rig: Rig) -> None:
    size = 150 << 20
    program = f"b'x' * {size}"
    ended, _ = rig.whole(f"subprocess.run([sys.executable, '-S', '-c', {program!r}])")
    assert size < ended.memory < 3 * size


def test_output_is_appended_to_a_file_for_owner_and_group(rig: Rig) -> None:
    run = rig.start("print('to stdout'); print('to stderr', file=sys.stderr); os.system('echo from a shell')")
    rig.end(run)
    output = rig.output(run.key)
    assert sorted(output.read_text().splitlines()) == ["from a shell", "to stderr", "to stdout"]
    assert stat.S_IMODE(output.stat().st_mode) == 0o640
    again = rig.start_as(run.key, "print('again')", output)
    rig.end(again)
    assert output.read_text().endswith("from a shell\nagain\n")


def test_an_output_that_is_a_link_is_refused(rig: Rig) -> None:
    target = rig.folder / "elsewhere"
    link = rig.folder / "link.log"
    link.symlink_to(target)
    with pytest.raises(OSError, match="link.log"):
        rig.start_as("linked", "", link)
    assert not target.exists()


@pytest.mark.fault("E13")
def test_a_run_is_a_session_without_terminal_or_secrets(rig: Rig) -> None:
    _, events = rig.whole(
        "report(session=os.getsid(0) == os.getpid() == os.getpgrp(), stdin=os.read(0, 1).decode(),"
        " adjust=open('/proc/self/oom_score_adj').read().strip(), own=sorted(n for n in os.environ if 'PEACHCTL' in n),"
        " descriptors=sorted(int(n) for n in os.listdir('/proc/self/fd')), channel=channel.fileno(),"
        " uid=os.getuid(), gid=os.getgid(), handlers=[int(signal.getsignal(s)) for s in"
        " (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)], mask=len(signal.pthread_sigmask(0, [])))"
    )
    (event,) = events
    assert event["session"]
    assert event["stdin"] == ""
    assert event["adjust"] == "1000"
    assert event["own"] == ["PEACHCTL_EXECUTOR", "PEACHCTL_JOB"]
    # 0, 1, 2, the reports, the lock, and the one that the listing itself has open.
    assert len(event["descriptors"]) == 6
    assert (event["uid"], event["gid"]) == (os.getuid(), os.getgid())
    assert event["handlers"] == [signal.SIG_DFL] * 3
    assert event["mask"] == 0


def test_a_run_can_do_what_programs_do(rig: Rig) -> None:
    text = """
import multiprocessing, threading, tempfile, concurrent.futures
if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool: squares = pool.map(abs, [-1, -2, -3])
    spawned = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool: more = list(pool.map(abs, [-4, -5]))
    import psutil
    here = psutil.Process()
    time.sleep(0.01)
    report(squares=squares + more, spawned=spawned, pid=here.pid == os.getpid(), parent=here.ppid() == os.getppid(),
           self=os.path.basename(os.path.realpath("/proc/self")) == str(os.getpid()),
           shell=subprocess.run("exit 5", shell=True).returncode)
"""
    ended, events = rig.whole(text)
    assert ended.code == 0, rig.folder
    assert events == [
        {"squares": [1, 2, 3, 4, 5], "spawned": "42\n", "pid": True, "parent": True, "self": True, "shell": 5}
    ]


def test_what_an_interpreter_does_at_its_end_is_done(rig: Rig) -> None:
    _, events = rig.whole(
        "import atexit, threading\n"
        "atexit.register(lambda: report(what='atexit'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), report(what='thread'))).start()\n"
        "sys.stdout.write('no newline')"
    )
    assert [event["what"] for event in events] == ["thread", "atexit"]
    assert rig.output(f"{os.getpid() % 10000}.{rig.count}").read_text() == "no newline"


def test_files_keep_owner_group_and_the_setgid_of_their_folder(rig: Rig, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    groups = [group for group in os.getgroups() if group != os.getgid()]
    if os.geteuid() == 0:
        groups = [4242]
    group = groups[0] if groups else os.getgid()
    os.chown(shared, -1, group)
    shared.chmod(0o2770)
    rig.whole(f"os.mkdir({str(shared / 'folder')!r}); open({str(shared / 'folder' / 'file')!r}, 'w').close()")
    found = (shared / "folder").stat()
    assert (found.st_uid, found.st_gid, bool(found.st_mode & stat.S_ISGID)) == (os.geteuid(), group, True)
    assert (shared / "folder" / "file").stat().st_gid == group


def test_events_of_several_processes_at_once_arrive_whole_and_in_order(rig: Rig) -> None:
    run = rig.start(
        "for process in range(4):\n"
        "    if os.fork() == 0:\n"
        "        for number in range(40): report(process=process, number=number, filling='x' * 30000)\n"
        "        os._exit(0)\n"
        "for process in range(4): os.wait()"
    )
    events: list[Mapping[str, Any]] = []
    while len(events) < 160:
        assert select.select([run], [], [], 10)[0]
        events += run.events()
    assert rig.end(run).code == 0
    assert run.events() == []
    for process in range(4):
        mine = [event for event in events if event["process"] == process]
        assert [event["number"] for event in mine] == list(range(40))
        assert all(event["filling"] == "x" * 30000 for event in mine)
    run.close()


def test_reports_that_make_no_sense_are_passed_over(rig: Rig) -> None:
    _, events = rig.whole(
        "for text in (b'{', b'', b'[1]', b'nonsense', b'\\xff', b'[' * 60000, b'\"' + b'x' * 100000 + b'\"', b'{}'):\n"
        "    channel.send(text)\n"
        "socket.send_fds(channel, [b'{\"event\": 1}'], [0, 1, 2])"
    )
    assert events == [{}, {"event": 1}]


def test_flooded_output_goes_to_the_file(rig: Rig) -> None:
    run = rig.start("for _ in range(200): sys.stdout.write('x' * 99999 + '\\n')")
    assert rig.end(run).code == 0
    assert rig.output(run.key).stat().st_size == 200 * 100000
    rig.output(run.key).unlink()


def test_flooded_reports_wait_for_the_executor_and_none_is_lost(rig: Rig) -> None:
    run = rig.start("for number in range(16000): report(number=number, filling='x' * 1000)\nreport(event='end')")
    assert select.select([run], [], [], 10)[0]
    time.sleep(0.2)
    assert rig.runner.ended() == []  # it waits: what it has to say is more than the socket holds
    events: list[Mapping[str, Any]] = []
    while not events or "event" not in events[-1]:
        assert select.select([run], [], [], 10)[0]
        events += run.events()
    assert [event.get("number") for event in events] == [*range(16000), None]
    assert rig.end(run).code == 0


def test_a_run_whose_reports_nobody_reads_can_be_ended(rig: Rig) -> None:
    run = rig.start("while True: report(filling='x' * 1000)")
    wait_until(lambda: select.select([run], [], [], 0)[0])
    time.sleep(0.1)
    run.end(0)
    assert rig.end(run).code == -9
    assert len(run.events()) > 50
    assert run.events() == []


def test_sigterm_comes_first_and_sigkill_after_the_grace(rig: Rig) -> None:
    polite = rig.start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); report(ready=1); time.sleep(60)")
    stubborn = rig.start("signal.signal(signal.SIGTERM, signal.SIG_IGN); report(ready=1); time.sleep(60)")
    rig.event(polite)
    rig.event(stubborn)
    began = time.monotonic()
    polite.end(20)
    stubborn.end(0.4)
    assert rig.end(polite).code == 42
    assert rig.end(stubborn).code == -9
    assert 0.4 <= time.monotonic() - began < 5


def test_a_shorter_grace_replaces_a_longer_one(rig: Rig) -> None:
    run = rig.start("signal.signal(signal.SIGTERM, signal.SIG_IGN); report(ready=1); time.sleep(60)")
    rig.event(run)
    run.end(50)
    run.end(0)
    assert rig.end(run, 5).code == -9


def test_an_end_ordered_together_with_the_start_is_obeyed(rig: Rig) -> None:
    for grace in (0, 10):
        run = rig.start("time.sleep(60)")
        run.end(grace)
        assert rig.end(run, 8).code in (-9, -15)


@pytest.mark.parametrize("group", [None, 0], ids=["of the run", "its own"])
def test_the_groups_of_a_run_may_use_the_grace_when_the_main_process_is_gone(
    rig: Rig, tmp_path: Path, group: int | None
) -> None:
    done = tmp_path / "done"
    program = (
        "import signal, sys, time, pathlib\n"
        f"def end(*_): time.sleep(0.2); pathlib.Path({str(done)!r}).touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print(1, flush=True); time.sleep(60)"
    )
    run = rig.start(
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {program!r}],"
        f" stdout=subprocess.PIPE, process_group={group})\n"
        "child.stdout.read(1); report(ready=1); time.sleep(60)"
    )
    rig.event(run)
    run.end(10)
    ended = rig.end(run, 5)
    assert (ended.code, ended.strays) == (-15, 0)
    assert done.exists()


def test_nothing_of_a_run_is_left_when_its_end_is_said(rig: Rig, marker: str) -> None:
    run = rig.start(f"stray({marker!r}); stray({marker!r}); report(ready=1)")
    ended = rig.end(run)
    assert living(marker) == []
    assert ended.code == 0
    assert 2 <= ended.strays <= 6


def test_a_killed_main_process_takes_all_of_its_run_along_and_no_other(rig: Rig, marker: str) -> None:
    other_marker = marker + "9"
    other = rig.start(f"stray({other_marker!r}); report(ready=1); sys.stdin.close(); time.sleep(60)")
    run = rig.start(f"stray({marker!r}); report(pid=os.getpid()); time.sleep(60)")
    rig.event(other)
    wait_until(lambda: len(living(other_marker)) == 3 and len(living(marker)) == 6)
    os.kill(outer(rig.event(run)["pid"], rig.held.token), signal.SIGKILL)
    ended = rig.end(run)
    assert ended.code == -9
    assert ended.strays >= 1
    assert len(living(marker)) == 3  # those of the other, whose marker begins alike
    other.end(0)
    assert rig.end(other).code == -9
    assert living(marker) == []


def test_processes_that_flee_are_ended(rig: Rig, marker: str) -> None:
    run = rig.start(
        "grown, growing = os.pipe()\n"
        "def flee():\n"  # a child goes on in its place, each time in another session
        "    while True:\n"
        "        if os.fork() != 0: os._exit(0)\n"
        "        os.setsid()\n"
        "def grow(depth):\n"  # a tree of sessions
        "    for _ in range(2):\n"
        "        if depth and os.fork() == 0:\n"
        "            os.setsid()\n"
        "            os.write(growing, b'.')\n"
        "            grow(depth - 1)\n"
        "            time.sleep(60)\n"
        "for work in (flee, flee, lambda: (grow(4), time.sleep(60))):\n"
        "    if os.fork() == 0: work()\n"
        f"stray({marker!r})\n"
        "seen = 0\n"
        "while seen < 30: seen += len(os.read(grown, 30))\n"
        "ballast = b'.' * (200 << 20)\n"  # so that it ends slowly, and those that flee go past it to the supervisor
        "report(ready=1); time.sleep(60)"
    )
    rig.event(run)
    run.end(0)
    ended = rig.end(run)
    assert ended.code == -9
    assert ended.strays > 30
    assert living(marker) == []
    # The one that waits for the next run may not have its name yet.
    wait_until(
        lambda: (
            [pid for pid in carriers(rig.held.token) if not waits(pid)]
            in ([rig.runner.pid], [rig.runner.pid, _supervisor(rig)])
        )
    )


def test_many_quick_runs_leak_nothing(rig: Rig, request: pytest.FixtureRequest) -> None:
    warm = "warm" in request.node.callspec.id
    rig.whole("")
    supervisor = _supervisor(rig)

    def at_rest() -> bool:
        """Where it is warm, one process waits for the next run."""
        return [waits(child) for child in _children(supervisor)] == [True] * warm

    wait_until(at_rest)
    ours, theirs = _descriptors(os.getpid()), _descriptors(supervisor)
    for _ in range(10 if warm else 2):
        runs = [rig.start("report(here=1)") for _ in range(10)]
        for run in runs:
            ended = rig.end(run)
            assert (ended.code, ended.strays) == (0, 0)
            assert run.events() == [{"here": 1}]
            run.close()
    wait_until(at_rest)
    assert _descriptors(os.getpid()) == ours
    assert _descriptors(supervisor) == theirs


def _supervisor(rig: Rig) -> int:
    if not rig.runner.namespace:
        return rig.runner.pid
    (child,) = _children(rig.runner.pid)
    return child


def _children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_the_supervisor_is_single_threaded(rig: Rig) -> None:
    rig.whole("")
    supervisor = _supervisor(rig)
    assert len(list(Path(f"/proc/{supervisor}/task").iterdir())) == 1
