"""Dead letters: filed once, listed, dropped."""

from collections.abc import Callable
from typing import Any

from peachctl.store import Entry, Letter, Status, Store
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


def test_a_letter_of_a_known_origin_is_passed_over(store: Store, other: Store, entry: Callable[..., Entry]) -> None:
    store.file([entry(origin=origin(2))], [letter(origin=origin(1)), letter(origin=origin(1))])
    other.file([], [letter(origin=origin(1)), letter(origin=origin(2))])
    assert len(other.letters()) == 1


def test_letters_without_an_origin_are_each_filed(store: Store) -> None:
    store.file([], [letter(), letter()])
    assert len(store.letters()) == 2


def test_a_refused_workflow_is_a_row_and_a_letter_that_names_it(store: Store, entry: Callable[..., Entry]) -> None:
    refused = entry(origin=origin(1), refused="a cycle")
    (filed,) = store.file([refused], [letter(origin=origin(1))])
    assert [one.queue_id for one in store.letters()] == [filed.id]
    again = entry(origin=origin(1), sha256=refused.sha256, refused="a cycle")
    (known,) = store.file([again], [letter(origin=origin(1))])
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
