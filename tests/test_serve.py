"""What long-lived commands do while a server is away."""

import logging
import threading

import pytest

from peachctl import serve
from peachctl.errors import RefusedError, UnreachableError
from peachctl.serve import waited_for
from peachctl.stop import Stop, Stopped


def test_a_server_that_is_away_is_waited_for_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([UnreachableError("away"), UnreachableError("away"), "here"])

    def make() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert waited_for(make, Stop(), once=False) == "here"
    assert [record.message for record in caplog.records] == ["away; it is waited for"]


@pytest.mark.parametrize("error", [UnreachableError("away"), RefusedError("no")])
def test_once_gives_up_after_a_while_and_a_refusal_is_never_waited_for(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "ONCE_PATIENCE", 0.6)

    def make() -> None:
        raise error

    with pytest.raises(type(error)):
        waited_for(make, Stop(), once=not isinstance(error, RefusedError))


def test_an_end_may_be_asked_for_while_a_server_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    stop = Stop()

    def make() -> None:
        raise UnreachableError("away")

    threading.Timer(0.1, lambda: setattr(stop, "asked", 1)).start()
    with pytest.raises(Stopped):
        waited_for(make, stop, once=False)
