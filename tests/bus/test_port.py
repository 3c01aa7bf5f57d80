"""What holds for every transport (`peachctl.bus.Bus`)."""

import pytest

from peachctl.bus import Message
from tests.bus.conftest import LIMIT, Rig, take


def bodies(messages: list[Message]) -> list[bytes]:
    return [message.body for message in messages]


def test_no_message_is_a_value(rig: Rig) -> None:
    assert rig.open().poll(0, 10) == []
    assert rig.open().poll(0.05, 10) == []


def test_messages_come_in_their_order_and_no_more_than_asked(rig: Rig) -> None:
    for number in range(5):
        rig.put(b"%d" % number)
    bus = rig.open()
    first = bus.poll(2, 2)
    assert len(first) <= 2
    rest = take(bus, 5 - len(first))
    assert bodies(first + rest) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_message_put_while_the_bus_waits_comes_at_once(rig: Rig) -> None:
    bus = rig.open()
    assert bus.poll(0, 10) == []
    rig.put(b"late")
    assert bodies(take(bus, 1)) == [b"late"]


def test_what_was_polled_is_not_polled_again(rig: Rig) -> None:
    rig.put(b"one")
    bus = rig.open()
    take(bus, 1)
    assert bus.poll(0.5, 10) == []


def test_origins_are_unique_and_equal_bodies_are_two_messages(rig: Rig) -> None:
    rig.put(b"same")
    rig.put(b"same")
    messages = take(rig.open(), 2)
    assert len({message.origin for message in messages}) == 2


def test_acknowledged_messages_do_not_come_again(rig: Rig) -> None:
    rig.put(b"one")
    bus = rig.open()
    bus.ack(take(bus, 1))
    rig.crash(bus)
    assert rig.open().poll(0.5, 10) == []


@pytest.mark.fault("B1")
def test_unacknowledged_messages_come_again_with_the_same_origin_and_body(rig: Rig) -> None:
    for number in range(3):
        rig.put(b"%d" % number)
    bus = rig.open()
    first, second, third = take(bus, 3)
    bus.ack([first])
    rig.crash(bus)
    again = take(rig.open(), 2)
    assert [(one.origin, one.body) for one in again] == [(one.origin, one.body) for one in (second, third)]


def test_what_came_again_and_was_not_acknowledged_comes_once_more(rig: Rig) -> None:
    rig.put(b"one")
    origins = []
    for _ in range(3):
        bus = rig.open()
        origins += [message.origin for message in take(bus, 1)]
        rig.crash(bus)
    assert len(origins) == 3
    assert len(set(origins)) == 1


def test_each_message_goes_to_one_of_two_consumers(rig: Rig) -> None:
    one, two = rig.open(), rig.open()
    for number in range(40):
        rig.put(b"%d" % number)
    got: list[Message] = []
    while len(got) < 40:
        got += one.poll(0.1, 3) + two.poll(0.1, 3)
    assert sorted(int(body) for body in bodies(got)) == list(range(40))
    assert one.poll(0.5, 10) + two.poll(0.5, 10) == []


def test_a_consumer_goes_on_with_what_another_left_when_it_died(rig: Rig) -> None:
    one, two = rig.open(), rig.open()
    rig.put(b"left")
    [message] = take(one, 1)
    assert two.poll(0.5, 10) == []
    rig.crash(one)
    assert take(two, 1) == [message]


def test_a_rejected_message_is_set_aside_beside_its_reason_and_does_not_come_again(rig: Rig) -> None:
    rig.put(b"bad")
    bus = rig.open()
    [message] = take(bus, 1)
    bus.reject(message, "malformed: byte 0")
    bus.ack([message])
    assert rig.put_aside() == {b"bad": "malformed: byte 0\n"}
    rig.crash(bus)
    assert rig.open().poll(0.5, 10) == []


def test_acknowledging_twice_and_what_was_rejected_is_no_error(rig: Rig) -> None:
    rig.put(b"one")
    bus = rig.open()
    messages = take(bus, 1)
    bus.ack(messages)
    bus.ack(messages)
    bus.reject(messages[0], "too late")
    assert bus.poll(0.3, 10) == []


@pytest.mark.fault("B11")
def test_a_message_beyond_the_limit_is_not_read_whole(rig: Rig) -> None:
    rig.put(b"x" * (LIMIT + 500))
    rig.put(b"x" * LIMIT)
    large, fits = take(rig.open(), 2)
    assert (len(large.body), large.size) == (LIMIT + 1, LIMIT + 500)
    assert (len(fits.body), fits.size) == (LIMIT, None)


def test_published_ids_are_acknowledged(rig: Rig) -> None:
    assert rig.open().publish([3, 1, 2]) == [3, 1, 2]
    assert rig.open().publish([]) == []
