"""Whoever dies or is stopped, and at whatever moment: nothing of a run is left, and everybody knows."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peachctl.runner import SupervisorLost, alive
from tests.runner.rig import PRELUDE, Rig, carriers, living, make_job, opened, wait_until

EXECUTOR = Path(__file__).with_name("executor_process.py")


class Executor:
    """A process that plays the executor, and what it has said so far."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.rest = b""
        self.said: list[dict[str, Any]] = []

    def hear(self, *wanted: str, seconds: float = 20.0) -> dict[str, Any]:
        """The next line with all these keys."""
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            while b"\n" in self.rest:
                line, self.rest = self.rest.split(b"\n", 1)
                self.said.append(json.loads(line))
                if all(key in self.said[-1] for key in wanted):
                    return self.said[-1]
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                more = os.read(self.process.stdout.fileno(), 65536)
                assert more, f"the executor ended; it had said {self.said}"
                self.rest += more
        raise AssertionError(f"waited in vain for {wanted}; it has said {self.said}")


def write(folder: Path, name: str, text: str) -> str:
    script = folder / f"{name}.py"
    script.write_text(PRELUDE + text)
    return str(script)


@contextlib.contextmanager
def executor(way: str, folder: Path, orders_after: float, *texts: str) -> Iterator[Executor]:
    scripts = [write(folder, f"script{number}", text) for number, text in enumerate(texts)]
    started = Executor([sys.executable, str(EXECUTOR), way, str(folder), str(orders_after), *scripts])
    try:
        yield started
    finally:
        for signum in (signal.SIGCONT, signal.SIGKILL):
            started.process.send_signal(signum)
        started.process.wait()
        assert started.process.stdout is not None
        started.process.stdout.close()


def busy(marker: str) -> str:
    """A run with all kinds of descendants."""
    return (
        f"stray({marker!r})\n"
        f"child = subprocess.Popen(['sleep', {marker!r}])\n"
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN); report(ready=1)\n"
        f"while True: print('busy'); time.sleep(0.01)"
    )


@pytest.mark.fault("F10", "A9")
def test_a_killed_executor_leaves_nothing_and_is_known_to_be_dead(way: str, tmp_path: Path, marker: str) -> None:
    with executor(way, tmp_path, 30, busy(marker), busy(marker)) as started:
        hello = started.hear("proof")
        started.hear("key", "ready")
        started.hear("key", "ready")
        wait_until(lambda: len(living(marker)) == 8)
        assert not alive.is_dead(hello["proof"])
        began = time.monotonic()
        gone(started, hello, marker)
        assert time.monotonic() - began < 4
        assert not list((tmp_path / "locks").iterdir())
        assert alive.is_dead(hello["proof"])


def gone(executor: Executor, hello: dict[str, Any], marker: str) -> None:
    """Kills the executor and waits until it is known to be dead; whoever knows may start its rows again."""
    executor.process.kill()
    wait_until(lambda: alive.is_dead(hello["proof"]))
    assert living(marker) == []
    wait_until(lambda: not list(carriers(hello["token"])))


def test_an_executor_that_is_killed_early_leaves_nothing(way: str, tmp_path: Path, marker: str) -> None:
    for delay in (0.0, 0.1):
        with executor(way, tmp_path, 30, busy(marker)) as started:
            hello = started.hear("proof")
            time.sleep(delay)
            gone(started, hello, marker)


@pytest.mark.parametrize("which", ["started", "first"])
def test_a_killed_supervisor_is_noticed_when_nothing_is_left(
    way: str, which: str, tmp_path: Path, marker: str, before: set[int]
) -> None:
    with opened(way, tmp_path) as rig:
        run = rig.start(busy(marker))
        other = rig.start(busy(marker))
        assert rig.event(run) == rig.event(other) == {"ready": 1}
        wait_until(lambda: len(living(marker)) == 8)
        os.kill(victim(rig, which), signal.SIGKILL)
        rig.lose()
        assert living(marker) == []
        assert list(carriers(rig.held.token)) == []
        with pytest.raises(SupervisorLost):
            rig.runner.start("late", make_job(tmp_path / "none.py"), tmp_path / "late.log")
        rig.runner.close()
        rig.runner.close()
        proof = rig.held.proof
        assert children() <= before
    assert not alive.is_dead(proof)  # it was signed off, so there is nothing left to know


def victim(rig: Rig, which: str) -> int:
    """The process that was started, or process 1 of the namespace below it."""
    if which == "started" or not rig.runner.namespace:
        return rig.runner.pid
    return int(Path(f"/proc/{rig.runner.pid}/task/{rig.runner.pid}/children").read_text())


@pytest.fixture
def before() -> set[int]:
    """The children that we had before the test."""
    return children()


def children() -> set[int]:
    """Our own children, whether they run or wait to be reaped; among them what executors before have left to us."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.fault("F10")
def test_a_killed_executor_and_supervisor_at_once_leave_nothing(
    way: str, tmp_path: Path, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a namespace, what is left then is nobody's child; who takes over finds it by its environment."""
    monkeypatch.setattr(alive, "_PATIENCE", 0.5)
    sleeper = f"os.getpid() if os.fork() else os.execlp('sleep', 'sleep', {marker!r})\nreport(ready=1)\ntime.sleep(60)"
    with executor(way, tmp_path, 30, sleeper) as started:
        hello = started.hear("proof")
        started.hear("key", "ready")
        wait_until(lambda: living(marker))
        os.kill(hello["supervisor"], signal.SIGSTOP)
        started.process.kill()
        os.kill(hello["supervisor"], signal.SIGKILL)
        wait_until(lambda: alive.is_dead(hello["proof"]))
        alive.end_strays(hello["token"])
        assert living(marker) == []


@pytest.mark.fault("D4")
def test_a_stopped_executor_loses_its_runs_and_hears_of_it(way: str, tmp_path: Path, marker: str) -> None:
    with executor(way, tmp_path, 1.0, busy(marker)) as started:
        started.hear("key", "ready")
        wait_until(lambda: len(living(marker)) == 4)
        os.kill(started.process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        wait_until(lambda: not living(marker))
        assert 0.7 < time.monotonic() - stopped < 4
        os.kill(started.process.pid, signal.SIGCONT)
        ended = started.hear("ended")
        assert (ended["code"], ended["silent"]) == (-9, True)


def test_a_stopped_supervisor_does_not_keep_a_dead_executors_runs_alive(
    way: str, tmp_path: Path, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alive, "_PATIENCE", 0.5)
    with executor(way, tmp_path, 30, busy(marker)) as started:
        hello = started.hear("proof")
        started.hear("key", "ready")
        wait_until(lambda: len(living(marker)) == 4)
        for pid in carriers(hello["token"]):
            if pid == hello["supervisor"] or pid in _below(hello["supervisor"]):
                os.kill(pid, signal.SIGSTOP)
        started.process.kill()
        wait_until(lambda: alive.is_dead(hello["proof"]))
        assert not list(carriers(hello["token"]))
        assert living(marker) == []


def _below(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_order_that_was_given_too_late_starts_nothing(way: str, tmp_path: Path) -> None:
    with opened(way, tmp_path, orders_after=1.0) as rig:
        assert rig.whole("report(here=1)")[0].code == 0
        time.sleep(1.3)
        run = rig.start("report(here=1)")
        (ended,) = wait_until(rig.runner.ended)
        assert (ended.key, ended.code, ended.silent, run.events()) == (run.key, -9, True, [])
        rig.runner.beat()
        assert rig.whole("report(here=1)")[1] == [{"here": 1}]


def test_close_ends_all_and_may_be_called_again(way: str, tmp_path: Path, marker: str, before: set[int]) -> None:
    with opened(way, tmp_path) as rig:
        run = rig.start(busy(marker))
        rig.event(run)
        wait_until(lambda: len(living(marker)) == 4)
        began = time.monotonic()
        rig.runner.close()
        assert living(marker) == []
        assert children() <= before
        assert time.monotonic() - began < 3
        rig.runner.close()


def test_close_before_the_supervisor_was_up_leaves_nothing(
    way: str, tmp_path: Path, marker: str, before: set[int]
) -> None:
    with opened(way, tmp_path) as rig:
        rig.start(busy(marker))
        rig.runner.close()
        assert living(marker) == []
        assert children() <= before
        assert list(carriers(rig.held.token)) == []


def test_close_does_not_wait_for_a_supervisor_that_takes_its_time_to_start(
    way: str, tmp_path: Path, before: set[int]
) -> None:
    with opened(way, tmp_path) as rig:
        os.kill(rig.runner.pid, signal.SIGSTOP)  # it imports
        began = time.monotonic()
        rig.runner.close()
        assert time.monotonic() - began < 3
        assert children() <= before


def test_two_supervisors_of_one_executor_do_not_touch_each_other(tmp_path: Path, marker: str) -> None:
    with opened("warm-fallback", tmp_path) as one, opened("warm-fallback", tmp_path) as other:
        run = other.start(busy(marker))
        other.event(run)
        wait_until(lambda: len(living(marker)) == 4)
        lost = one.start("report(ready=1); time.sleep(60)")
        one.event(lost)
        os.kill(one.runner.pid, signal.SIGKILL)
        one.lose()
        assert len(living(marker)) == 4
        run.end(0)
        assert other.end(run).code == -9
