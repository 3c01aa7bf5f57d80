"""What wakes a loop, and what comes too late to."""

import os

import pytest

from peachctl.waking import Waking


def test_a_late_signal_writes_to_nothing_that_was_opened_since() -> None:
    waking = Waking(lambda: None)
    numbers = {waking._poked, waking._done}
    waking.close()
    others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(20)]
    try:
        assert numbers <= set(others)
        waking.poke()
        waking.work_done()
        for other in others:
            with pytest.raises(BlockingIOError):
                os.eventfd_read(other)
    finally:
        for other in others:
            os.close(other)


def test_a_poke_says_that_there_may_be_work_and_what_is_done_only_ends_the_wait() -> None:
    heard: list[str] = []
    waking = Waking(lambda: heard.append("woken"))
    try:
        waking.work_done()
        waking.wait(60)
        assert heard == []
        waking.poke()
        waking.poke()
        waking.wait(60)
        assert heard == ["woken"]
        waking.wait(0)
        assert heard == ["woken"]
    finally:
        waking.close()
