"""SIGTERM at random moments while messages flow, with two `consume ingest` and three `consume execute` at once."""

import contextlib
import random

import pytest

from tests.conftest import Peach
from tests.road.campaign import Drains, installation
from tests.servers import databases, kafka


@pytest.mark.timeout(400)
def test_executors_that_drain_at_any_moment_exit_0_and_lose_nothing(peach: Peach) -> None:
    """Each workflow once, whoever of the five takes it; and a redelivery of all messages makes no new row."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(databases.database("mysql"))
        place = stack.enter_context(installation(peach, kafka.shared(), databases.server("mysql"), name))
        drains = Drains(place, random.Random(20171129))
        sent = drains.run(ends=20, messages=100)
        assert drains.judge(sent).mistakes() == {}
        before = place.rows()
        assert len(before) >= 80
        place.redeliver()
        assert place.rows() == before
