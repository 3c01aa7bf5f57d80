"""Some of `make proof ARGS="codes"` (tests/bus/codes), to hold it and us in between."""

from pathlib import Path

import pytest

from tests.bus import codes
from tests.servers import kafka

PLAN: list[tuple[type[codes.Subject], codes.Request]] = [
    (codes.Consumer, codes.METADATA),
    (codes.Consumer, codes.LIST_OFFSETS),
    (codes.Consumer, codes.SYNC_GROUP),
    (codes.Start, codes.METADATA),
    (codes.Listener, codes.FETCH_PARTITION),
]
# A name that is none, what kafka-python leaves out of its answers, and the unheard of.
SOME = [17, 43, codes.UNHEARD]


@pytest.mark.fault("B4", "B9", "B16")
def test_whatever_the_broker_says_to_whom_all_goes_on_or_ends_in_one_clear_error(
    tmp_path: Path, hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = codes.run(kafka.shared(), tmp_path, hub, PLAN, SOME, lasts=[])
    assert outcome.mistakes == [] and outcome.pairs == len(PLAN) * len(SOME)
    assert set(outcome.stopped) == {17}
    assert not [one for one in caplog.records if one.name.startswith("peachctl") and one.exc_info]
