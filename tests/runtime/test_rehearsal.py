"""What waits for its order goes through a run beforehand, and nothing of that stays."""

import contextlib
import gc
import os
import socket
import sys
from collections.abc import Callable

import pytest

from peachctl.runtime import rehearsal, service_utility
from peachctl.runtime.report import ExecutorReporter


@pytest.mark.parametrize("goes_through", [rehearsal._run, rehearsal._node])
def test_it_comes_to_its_end_and_leaves_nothing_of_itself(goes_through: Callable[[ExecutorReporter], None]) -> None:
    def once() -> bytes:
        listener, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reporter = ExecutorReporter(reports.detach())
        with listener, contextlib.closing(reporter):
            goes_through(reporter)
            return listener.recv(1 << 16)

    def state() -> list[object]:
        found = [dict(os.environ), os.getcwd(), list(sys.path), set(sys.modules), dict(service_utility.temp_locations)]
        return [*found, len(os.listdir("/proc/self/fd"))]

    once()  # imports
    before = state()
    assert b'"event"' in once()
    gc.collect()
    assert state() == before


def test_what_goes_wrong_in_it_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_job", lambda: 1 / 0)
    rehearsal.rehearse_run()
    rehearsal.rehearse_node()
