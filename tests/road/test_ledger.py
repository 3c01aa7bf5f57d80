"""The judge of the campaigns sees each kind of gap, and nothing where all is well."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from tests.road import ledger
from tests.road.ledger import BAD, CYCLE, GOOD, Found, Row, Sent

SENT = [Sent("m0", GOOD, (0, 0)), Sent("m1", BAD, (0, 1)), Sent("m2", CYCLE, (1, 0)), Sent("m3", GOOD, None)]


def well() -> Found:
    return Found(
        rows=[Row(1, "m0", 3, "m0.py"), Row(2, "m2", 4, "m2.py")],
        letters=["m1"],
        origins={(0, 0): 1, (0, 1): None, (1, 0): 2},
        announced={1},
        owed=set(),
        scripts={"m0.py"},
        begun={1},
    )


def wrong(found: Found, *, all_heard: bool = True) -> set[str]:
    return set(ledger.judge(SENT, found, all_heard=all_heard).mistakes())


GAPS: dict[str, tuple[str, Callable[[Found], object]]] = {
    "a row is missing": ("lost", lambda found: found.rows.pop()),
    "a letter is missing": ("lost", lambda found: found.letters.clear()),
    "two rows of one message": ("doubled", lambda found: found.rows.append(Row(3, "m0", 3, "m0.py"))),
    "a row and a letter of one message": ("doubled", lambda found: found.letters.append("m0")),
    "what nobody sent": ("invented", lambda found: found.letters.append("m9")),
    "the file of a row": ("without_script", lambda found: found.scripts.clear()),
    "the event of a row": ("without_event", lambda found: found.announced.clear()),
    "an event that is owed": ("without_event", lambda found: found.owed.add(1)),
    "an event of no row": ("without_row", lambda found: found.announced.add(9)),
    "an origin": ("without_origin", lambda found: (found.origins or {}).pop((0, 0))),
    "two origins of one row": ("shared", lambda found: (found.origins or {}).update({(1, 9): 1})),
    "a row that waits": ("unfinished", lambda found: found.rows.__setitem__(0, Row(1, "m0", 0, "m0.py"))),
    "a row that failed": ("failed", lambda found: found.rows.__setitem__(0, Row(1, "m0", 4, "m0.py"))),
}


@pytest.mark.parametrize("gap", GAPS)
def test_each_gap_is_seen(gap: str) -> None:
    kind, make = GAPS[gap]
    found = well()
    assert wrong(found) == set()
    make(found)
    assert kind in wrong(found)


def test_an_event_may_be_missing_only_of_a_row_that_was_begun_where_somebody_was_struck() -> None:
    found = well()
    found.announced.clear()
    assert ledger.unheard(found) == {1}
    assert wrong(found, all_heard=False) == set()
    found.begun.clear()
    assert wrong(found, all_heard=False) == {"without_event"}


def test_two_judgements_make_one() -> None:
    found = well()
    found.scripts.clear()
    early, late = ledger.judge(SENT, found), ledger.judge(SENT, well())
    late.add(early)
    assert late.mistakes() == {"without_script": ["m0", "(1 in all)"]}
    assert all(isinstance(getattr(late, one.name), set) for one in fields(late))


def test_runs_at_one_time_and_runs_to_the_end_twice_are_seen(tmp_path: Path) -> None:
    beats = tmp_path / "beats"

    def told(*signs: tuple[str, str, float]) -> None:
        beats.write_text("".join(f"7 {run} {what} {at * 1e9:.0f}\n" for run, what, at in signs))

    told(("a", "start", 1), ("a", "end", 2), ("b", "start", 1.5), ("b", "end", 2.5))
    assert ledger.two_at_once(beats) == ({"7"}, 2)
    told(("a", "start", 1), ("a", "end", 2), ("b", "start", 3), ("b", "end", 4))
    assert ledger.two_at_once(beats) == (set(), 2)
    assert ledger.ended_twice(beats, []) == {"7"}
    assert ledger.ended_twice(beats, [3.9]) == {"7"}
    assert ledger.ended_twice(beats, [2.1]) == set()  # it was ended before its result was kept
    told(("a", "start", 1), ("b", "start", 3), ("b", "end", 4))
    assert ledger.ended_twice(beats, []) == set()
