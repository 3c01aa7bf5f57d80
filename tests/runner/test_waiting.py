"""The process that is forked ahead and waits for the next run."""

import os
import signal
from pathlib import Path

import pytest

from tests.runner.rig import Rig, carriers, outer, wait_until, waits

pytestmark = pytest.mark.parametrize("rig", ["warm-namespace", "warm-fallback"], indirect=True)


def _waiting(rig: Rig) -> int:
    """The process that waits, without the worker that it has forked."""

    def leaders() -> list[int]:
        return [pid for pid in carriers(rig.held.token) if waits(pid) and os.getsid(pid) == pid]

    return int(wait_until(leaders)[0])


def test_a_run_becomes_of_the_process_that_waited_and_another_takes_its_place(rig: Rig) -> None:
    waiting = _waiting(rig)
    run = rig.start("report(pid=os.getpid(), name=open('/proc/self/comm').read()); sys.stdin.read(); time.sleep(60)")
    said = rig.event(run)
    assert outer(said["pid"], rig.held.token) == waiting
    assert said["name"] == f"peach:{run.key}\n"
    assert _waiting(rig) != waiting
    run.end(0)
    rig.end(run)


def test_one_that_is_killed_while_it_waits_costs_no_run(rig: Rig) -> None:
    for _ in range(5):
        os.kill(_waiting(rig), signal.SIGKILL)
        ended, events = rig.whole("report(here=1)")
        assert (ended.code, events) == (0, [{"here": 1}])


def test_one_that_is_stopped_while_it_waits_costs_no_run(rig: Rig) -> None:
    os.kill(_waiting(rig), signal.SIGSTOP)
    ended, events = rig.whole("report(here=1)")
    assert (ended.code, events) == (0, [{"here": 1}])


def test_one_that_waits_holds_its_orders_its_worker_and_the_lock_and_no_terminal(rig: Rig) -> None:
    rig.whole("")  # not for a graph in processes: so the next one has no worker
    waiting = _waiting(rig)
    held = [os.readlink(entry) for entry in Path(f"/proc/{waiting}/fd").iterdir()]
    lock = os.readlink(f"/proc/self/fd/{rig.held.fd}")
    assert sorted(place.split(":")[0] for place in held) == ["/dev/null"] * 3 + [lock, "socket"]


def test_what_a_run_starts_inherits_neither_its_reports_nor_its_orders(rig: Rig) -> None:
    _waiting(rig)
    ended, events = rig.whole(
        "channel.set_inheritable(False)\n"
        "out = subprocess.run(['ls', '-l', '/proc/self/fd'], close_fds=False, capture_output=True, text=True).stdout\n"
        "report(sockets=out.count('socket:'))"
    )
    assert (ended.code, events) == (0, [{"sockets": 0}])
