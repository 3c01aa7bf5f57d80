"""Dead letters: filed once, listed, dropped."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peachctl.errors import StateError
from peachctl.store import Entry, ExecutionFileTaken, Executor, Letter, Status, Store
from tests.store.adapters import Client
from tests.store.conftest import origin


def letter(**changes: Any) -> Letter:
    values: dict[str, Any] = {
        "reason": "malformed: byte 3",
        "field": "nodes[0].id",
        "byte_offset": 3,
        "origin": None,
        "file": None,
        "size": 4,
        "body": b"\x00\xff'\x80",
        "received": 1500000000.25,
        **changes,
    }
    return Letter(**values)


def test_a_letter_comes_back_as_it_was_filed(store: Store, other: Store) -> None:
    first = letter(origin=origin(1))
    second = letter(file="a \U0001f9e0\0.bin", byte_offset=None, body=b"", field="", reason="x" * 400)
    store.file([], [first, second])
    got = other.letters()
    assert [one.number for one in got] == sorted({one.number for one in got}) and len(got) == 2
    for one, was in zip(got, (first, second), strict=True):
        values = {name: getattr(one, name) for name in Letter.__slots__ if name != "number"}
        assert values == {name: getattr(was, name) for name in values}
        assert other.letter(one.number) == one
    assert other.letters(bodies=False) == [replace(one, body=b"") for one in got]


def test_a_letter_of_a_known_origin_is_passed_over(store: Store, other: Store, entry: Callable[..., Entry]) -> None:
    known = entry(origin=origin(2))
    store.file([known], [letter(origin=origin(1)), letter(origin=origin(1))])
    other.file([], [letter(origin=origin(1)), letter(origin=origin(2), sha256=known.sha256)])
    assert len(other.letters()) == 1


@pytest.mark.parametrize("cut", [False, True])
def test_a_letter_of_another_message_at_a_known_origin_stops_with_its_sentence(
    store: Store, entry: Callable[..., Entry], cut: bool
) -> None:
    """A topic that was made anew. cut: only the beginning of either message is kept."""
    more: dict[str, Any] = {"size": 5000} if cut else {}
    store.file([entry(origin=origin(1))], [letter(origin=origin(2), sha256="a" * 64 if cut else None, **more)])
    for place in (1, 2):
        with pytest.raises(StateError, match="made anew"):
            store.file([], [letter(origin=origin(place), body=b"else", sha256="b" * 64 if cut else None, **more)])
    store.file([], [letter(origin=origin(2), size=5000)])  # of which nobody knows
    assert len(store.letters()) == 1


def test_a_message_whose_letter_was_dropped_stays_known_and_is_not_filed(
    store: Store, other: Store, entry: Callable[..., Entry]
) -> None:
    kept, dropped = entry(origin=origin(1)), entry(origin=origin(2))
    store.file([], [letter(origin=one.origin, sha256=one.sha256) for one in (kept, dropped)])
    [number] = [one.number for one in store.letters() if one.origin == dropped.origin]
    store.drop_letters([number])
    plain = entry()
    filed = other.file([kept, dropped, plain])
    assert [(one.new, one.execution_file) for one in filed] == [
        (True, kept.execution_file),
        (False, ""),
        (True, plain.execution_file),
    ]
    assert filed[1].id == 0 and len(store.rows()) == 2 and store.letters() == []
    refused = entry(origin=origin(2), sha256=dropped.sha256, refused="no such service")
    assert not other.file([refused], [letter(origin=origin(2), sha256=dropped.sha256)])[0].new
    assert len(store.rows()) == 2 and store.letters() == []


def test_letters_without_an_origin_are_each_filed(store: Store) -> None:
    store.file([], [letter(), letter()])
    assert len(store.letters()) == 2


def test_a_refused_workflow_is_a_row_and_a_letter_that_names_it(store: Store, entry: Callable[..., Entry]) -> None:
    refused = entry(origin=origin(1), refused="a cycle")
    (filed,) = store.file([refused], [letter(origin=origin(1))])
    assert [one.queue_id for one in store.letters()] == [filed.id]
    again = entry(origin=origin(1), sha256=refused.sha256, refused="a cycle")
    (known,) = store.file([again], [letter(origin=origin(1), sha256=again.sha256)])
    assert known.id == filed.id and not known.new and len(store.letters()) == 1


def test_a_letter_that_can_be_read_today_becomes_a_row(store: Store, entry: Callable[..., Entry]) -> None:
    import hashlib

    store.file([], [letter(origin=origin(1)), letter(origin=origin(2))])
    same = hashlib.sha256(b"\x00\xff'\x80").hexdigest()
    (filed,) = store.file([entry(origin=origin(1), sha256=same)])
    row = store.get(filed.id)
    assert filed.new and row is not None and row.status is Status.QUEUED
    assert [one.origin for one in store.letters()] == [origin(2)]


def test_a_body_is_cut_at_a_mebibyte(store: Store) -> None:
    store.file([], [letter(body=b"x" * (3 << 20), size=3 << 20)])
    (got,) = store.letters()
    assert len(got.body) == 1 << 20 and got.size == 3 << 20


def test_dropped_letters_are_gone_and_their_origins_stay_known(store: Store) -> None:
    store.file([], [letter(origin=origin(n)) for n in range(4)])
    numbers = [one.number for one in store.letters()]
    assert store.drop_letters([numbers[0], numbers[2], 10**6, 10**30, -1]) == 2
    assert [one.number for one in store.letters()] == [numbers[1], numbers[3]]
    assert store.letter(numbers[0]) is None and store.letter(10**30) is None and store.drop_letters([]) == 0
    store.file([], [letter(origin=origin(0))])
    assert len(store.letters()) == 2


def test_a_number_is_not_given_twice(store: Store) -> None:
    store.file([], [letter()])
    (first,) = store.letters()
    store.drop_letters([first.number])
    store.file([], [letter()])
    assert store.letters()[0].number > first.number


def test_a_letter_without_a_row_becomes_a_workflow_under_the_origin_it_had(
    store: Store, other: Store, entry: Callable[..., Entry]
) -> None:
    store.file([], [letter(origin=origin(3), body=b"bad", size=3)])
    before = store.outcome(origin(3))
    assert before is not None and (before.word, before.queue_id) == ("dead", None)
    [kept] = store.letters()
    filed = other.refile(kept.number, entry("ada", name="mended"))
    row = store.get(filed.id)
    assert filed.new and row is not None and (row.status, row.name) == (Status.QUEUED, "mended")
    assert store.letters() == [] and [one.id for one in store.unannounced(5)] == [filed.id]
    after = store.outcome(origin(3))
    assert after is not None and (after.word, after.queue_id, after.sha256) == ("filed", filed.id, before.sha256)


def test_a_refused_row_becomes_the_workflow_under_its_own_id(
    store: Store, executor: Executor, entry: Callable[..., Entry]
) -> None:
    bad = entry(origin=origin(4), refused="a cycle: a -> b -> a")
    [refused] = store.file([bad], [letter(origin=origin(4), queue_id=None)])
    store.attach(refused.id, "why.tar")
    sent = store.get(refused.id)
    [kept] = store.letters()
    filed = store.refile(kept.number, entry("bob", execution_file="mended.py", priority=7))
    assert filed.id == refused.id and len(store.rows()) == 1 and store.letters() == []
    row = store.get(refused.id)
    assert row is not None and sent is not None
    assert (row.user, row.execution_file, row.priority, row.output_file) == ("bob", "mended.py", 7, "")
    assert (row.status, row.reason, row.sending_date) == (Status.QUEUED, None, sent.sending_date)
    assert row.finished_date is None and store.unpacked(5) == []
    assert [claim.id for claim in store.claim(executor, 5, 30)] == [refused.id]
    # The message comes again: it is known, with the bytes that the topic holds.
    [again] = store.file([bad])
    assert (again.id, again.new) == (refused.id, False)


def test_a_letter_whose_row_was_deleted_makes_a_new_one(
    store: Store, client: Client, entry: Callable[..., Entry]
) -> None:
    [refused] = store.file([entry(origin=origin(5), refused="no")], [letter(origin=origin(5))])
    client.run("DELETE FROM queue")
    filed = store.refile(store.letters()[0].number, entry())
    assert filed.id != refused.id and [row.id for row in store.rows()] == [filed.id]
    outcome = store.outcome(origin(5))
    assert outcome is not None and outcome.queue_id == filed.id


def test_a_letter_that_is_not_there_or_whose_row_runs_is_not_refiled(
    store: Store, executor: Executor, entry: Callable[..., Entry]
) -> None:
    with pytest.raises(StateError, match="no dead letter 9"):
        store.refile(9, entry())
    [refused] = store.file([entry(origin=origin(6), refused="no")], [letter(origin=origin(6))])
    store.retry(refused.id)
    store.claim(executor, 1, 30)
    [kept] = store.letters()
    with pytest.raises(StateError, match=f"workflow {refused.id}"):
        store.refile(kept.number, entry())
    assert store.letters() == [kept] and len(store.rows()) == 1


def test_a_script_name_that_is_taken_leaves_the_letter_where_it_is(store: Store, entry: Callable[..., Entry]) -> None:
    store.file([entry(execution_file="taken.py"), entry(origin=origin(7), refused="no")], [letter(origin=origin(7))])
    [kept] = store.letters()
    with pytest.raises(ExecutionFileTaken):
        store.refile(kept.number, entry(execution_file="taken.py"))
    assert store.letters() == [kept]


def test_a_topic_that_was_made_anew_has_new_messages(store: Store, other: Store, entry: Callable[..., Entry]) -> None:
    first = entry(origin=origin(1))
    [old] = store.file([first])
    with pytest.raises(StateError, match="made anew"):
        store.file([entry(origin=origin(1))])
    assert other.outcome(origin(9)) is None
    assert other.new_epoch("Workflow_ExecuteWorkflow") == 1
    assert store.outcome(origin(1)) is None
    [new] = store.file([entry(origin=origin(1))])
    assert new.new and new.id != old.id
    assert store.new_epoch("Workflow_ExecuteWorkflow") == 2 and store.new_epoch("another") == 1
