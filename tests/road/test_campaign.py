"""A fixed sample of what `make proof` does at length: random kills of all that an installation is made of."""

import pytest

from tests.conftest import Peach
from tests.road.campaign import Campaign


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_doubled_while_everything_is_killed(peach: Peach) -> None:
    """Twenty SIGKILLs, and the same judge condemns the order of 2017 under them."""
    outcome = Campaign(peach, kills=20, messages=240, seed=20171129).run()
    print(outcome)
    assert outcome.verdict.mistakes() == {}
    assert outcome.acknowledged >= 100
    assert outcome.alone >= 20
    assert outcome.control.lost
