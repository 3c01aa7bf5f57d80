"""Whose a stray is: what no test can make, a process that cannot be killed, is here a process that stays."""

from peachctl.processes import Process
from peachctl.runtime.custody import Custody


def stray(pid: int, session: int = 0) -> Process:
    return Process(number=pid, parent=1, pid=pid, group=pid, session=session or pid, zombie=False)


def test_a_run_waits_for_its_own_stray_and_no_other_run_does() -> None:
    custody = Custody()
    custody.reaped(10, "a")
    custody.look([stray(11)], {}, 0.0)
    custody.look([stray(11)], {}, 1.0)
    custody.reaped(20, "b")
    custody.look([stray(11)], {}, 2.0)
    assert custody.holds_back("a", 1000.0)
    assert not custody.holds_back("b", 2.0)
    custody.reaped(11, None)
    custody.look([], {}, 3.0)
    assert not custody.holds_back("a", 3.0)


def test_a_stray_that_kept_its_session_is_known_by_it() -> None:
    custody = Custody()
    custody.reaped(10, "a")
    custody.reaped(20, "b")
    custody.look([stray(21, session=20)], {10: "a", 20: "b"}, 0.0)
    assert not custody.holds_back("a", 0.0)
    assert custody.holds_back("b", 1000.0)


def test_where_two_runs_ended_at_once_both_wait_for_some_seconds() -> None:
    custody = Custody()
    custody.reaped(10, "a")
    custody.reaped(20, "b")
    custody.look([stray(30)], {}, 0.0)
    assert custody.holds_back("a", 4.0) and custody.holds_back("b", 4.0)
    assert not custody.holds_back("a", 6.0) and not custody.holds_back("b", 6.0)


def test_a_stray_that_was_seen_just_before_its_runs_end_was_reaped_is_that_runs() -> None:
    custody = Custody()
    custody.reaped(10, "a")
    custody.look([stray(30)], {}, 0.0)
    custody.reaped(20, "b")
    custody.look([stray(30)], {}, 0.1)
    assert custody.owners(30) == {"a", "b"}
    assert custody.holds_back("b", 0.1)


def test_what_a_stray_leaves_is_its_runs_too() -> None:
    custody = Custody()
    custody.reaped(10, "a")
    custody.look([stray(11)], {}, 0.0)
    custody.look([stray(11)], {}, 0.1)
    custody.reaped(11, None)
    custody.look([stray(12)], {}, 0.2)
    assert custody.holds_back("a", 1000.0)
    custody.reaped(12, None)
    custody.look([], {}, 0.3)
    assert not custody.holds_back("a", 0.3)
