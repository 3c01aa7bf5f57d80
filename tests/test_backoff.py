"""Waits grow, up to a limit, and begin anew when all is well."""

import time

import pytest

from peachctl.backoff import Backoff


def test_each_wait_is_twice_the_one_before_up_to_a_limit_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    backoff = Backoff(1.0, 5.0)
    for wait in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert backoff.due
        backoff.later()
        now += wait - 0.1
        assert not backoff.due
        now += 0.1
    backoff.later()
    backoff.over()
    assert backoff.due
    backoff.later()
    now += 1.0
    assert backoff.due
