"""claim: who is next, and what a claim is."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from peachctl.store import Claim, Entry, Executor, NodeStatus, Status, Store
from tests.store.adapters import Client, ids
from tests.store.conftest import state


def test_a_claimed_row_is_in_processing_and_nobody_elses(
    store: Store, other: Store, file: Callable[..., int], executor: Executor, rival: Executor
) -> None:
    id = file()
    (claim,) = store.claim(executor, 5, 30)
    assert (claim.id, claim.attempt, claim.resumed) == (id, 1, False)
    assert (claim.row.status, claim.row.progress, claim.row.host) == (Status.PROCESSING, 0, "host-1")
    assert other.claim(rival, 5, 30) == []
    assert other.get(id) == claim.row


def test_higher_priority_comes_first_then_age(store: Store, file: Callable[..., int], executor: Executor) -> None:
    low, first, second, high, negative = (file(priority=p) for p in (1, 5, 5, 9, -3))
    order = [ids(store.claim(executor, 1, 30))[0] for _ in range(5)]
    assert order == [high, first, second, low, negative]


def test_many_at_once_are_those_that_single_claims_would_take(
    store: Store, file: Callable[..., int], executor: Executor
) -> None:
    made = [file(user, priority=p) for user, p in (("a", 1), ("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 1))]
    assert ids(store.claim(executor, 10, 30)) == [made[n] for n in (3, 2, 4, 0, 5, 1)]


def test_the_user_with_the_least_running_comes_first(
    store: Store, file: Callable[..., int], executor: Executor
) -> None:
    ada = [file("ada") for _ in range(3)]
    bob = [file("bob") for _ in range(2)]
    cyd = [file("cyd")]
    order = [ids(store.claim(executor, 1, 30))[0] for _ in range(6)]
    assert order == [ada[0], bob[0], cyd[0], ada[1], bob[1], ada[2]]


def test_an_ended_run_counts_for_nothing(store: Store, file: Callable[..., int], executor: Executor) -> None:
    file("ada")
    second = file("ada")
    file("bob")
    (claim,) = store.claim(executor, 1, 30)
    store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar")
    assert ids(store.claim(executor, 1, 30)) == [second]


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_claims_is_that_of_the_plain_rule(
    store: Store, entry: Callable[..., Entry], executor: Executor, seed: int
) -> None:
    chance = random.Random(seed)
    users = [f"user{n}" for n in range(chance.randint(1, 6))]
    limit = chance.choice([None, None, 1, 2])
    waiting = [entry(chance.choice(users), priority=chance.choice([1, 1, 2])) for _ in range(30)]
    rows = {filed.id: one for filed, one in zip(store.file(waiting), waiting, strict=True)}
    running: Counter[str] = Counter()
    held: list[Claim] = []

    def next_one() -> int | None:
        free = [id for id, one in rows.items() if limit is None or running[one.user] < limit]
        return min(free, key=lambda id: (-rows[id].priority, running[rows[id].user], id), default=None)

    while rows:
        most = chance.randint(1, 4)
        expected: list[int] = []
        while len(expected) < most and (id := next_one()) is not None:
            expected.append(id)
            running[rows.pop(id).user] += 1
        claims = store.claim(executor, most, 30, per_user=limit)
        assert ids(claims) == expected
        held += claims
        for claim in chance.sample(held, chance.randint(not expected, len(held))):
            held.remove(claim)
            running[claim.row.user] -= 1
            store.finish(claim, Status.SUCCESS, reason=None, output_file="x")


def test_one_who_filed_a_thousand_does_not_stand_before_the_others(
    store: Store, entry: Callable[..., Entry], executor: Executor
) -> None:
    greedy = ids(store.file([entry("greedy") for _ in range(1000)]))
    modest = ids(store.file([entry(f"user{n}") for n in range(20)]))
    assert ids(store.claim(executor, 1, 30)) == greedy[:1]
    assert ids(store.claim(executor, 22, 30)) == [*modest, greedy[1], greedy[2]]
    assert ids(store.claim(executor, 2, 30)) == greedy[3:5]


def test_users_are_the_same_in_upper_and_lower_case(store: Store, file: Callable[..., int], executor: Executor) -> None:
    first, second, third = file("Ada"), file("ADA"), file("bob")
    assert ids(store.claim(executor, 3, 30)) == [first, third, second]
    assert [row.id for row in store.rows(user="aDa")] == [second, first]


def test_nobody_gets_more_than_per_user(
    store: Store, file: Callable[..., int], executor: Executor, rival: Executor
) -> None:
    ada = [file("ada", priority=9) for _ in range(3)]
    bob = [file("bob") for _ in range(3)]
    claims = store.claim(executor, 10, 30, per_user=2)
    assert ids(claims) == [ada[0], ada[1], bob[0], bob[1]]
    assert store.claim(rival, 10, 30, per_user=2) == []
    assert store.claim(rival, 1, 30, only=ada[2], per_user=2) == []
    store.finish(claims[0], Status.ERROR, reason="x", output_file="")
    assert ids(store.claim(rival, 10, 30, per_user=2)) == [ada[2]]
    assert store.claim(rival, 10, 30, per_user=0) == []


def test_only_one_row_may_be_asked_for(store: Store, file: Callable[..., int], executor: Executor) -> None:
    file()
    second = file()
    assert ids(store.claim(executor, 5, 30, only=second)) == [second]
    assert store.claim(executor, 5, 30, only=second) == []
    for nothing in (0, -1, 999, 10**30):
        assert store.claim(executor, 5, 30, only=nothing) == []
    assert store.claim(executor, 0, 30) == []


def test_nothing_is_claimed_while_the_queue_is_held(
    store: Store, other: Store, file: Callable[..., int], executor: Executor
) -> None:
    id = file()
    assert not store.held()
    other.hold(True)
    assert store.held() and store.claim(executor, 1, 30) == [] and store.claim(executor, 1, 30, only=id) == []
    other.hold(False)
    assert not store.held() and ids(store.claim(executor, 1, 30)) == [id]


def test_a_row_that_a_client_inserted_is_run_like_any_other(
    store: Store, client: Client, executor: Executor, file: Callable[..., int]
) -> None:
    file("bob")
    client.run("INSERT INTO queue (user, execution_file, workflow_json, status) VALUES ('Ada', 'c.py', '{}', 0)")
    client.run(
        "INSERT INTO queue (user, execution_file, workflow_json, status, progress, original_workflow_file, priority,"
        " output_file) VALUES (?, ?, ?, 0, 0, ?, 7, NULL)",
        "cyd",
        "d.py",
        '{"name": "of a client"}',
        "x",
    )
    names = [claim.row.execution_file for claim in store.claim(executor, 5, 30)]
    assert names == ["d.py", "1.py", "c.py"]
    row = store.find("d.py")
    assert row is not None and (row.name, row.attempt, row.output_file) == ("of a client", 1, "")


def test_a_row_without_user_and_priority_is_run_too(store: Store, client: Client, executor: Executor) -> None:
    for name in ("a.py", "b.py"):
        client.run("INSERT INTO queue (user, execution_file, status, priority) VALUES (NULL, ?, 0, NULL)", name)
    assert [claim.row.execution_file for claim in store.claim(executor, 1, 30)] == ["a.py"]
    assert [claim.row.execution_file for claim in store.claim(executor, 1, 30)] == ["b.py"]
    row = store.find("b.py")
    assert row is not None and (row.user, row.priority, row.name) == ("", 1, "")


def test_a_row_that_a_client_deleted_is_not_claimed(
    store: Store, client: Client, file: Callable[..., int], executor: Executor
) -> None:
    gone, there = file(), file()
    client.run("DELETE FROM queue WHERE id = ?", gone)
    assert ids(store.claim(executor, 5, 30)) == [there]


def test_the_id_of_a_deleted_row_is_not_given_again(store: Store, client: Client, file: Callable[..., int]) -> None:
    gone = file()
    client.run("DELETE FROM queue WHERE id = ?", gone)
    assert file() > gone


@pytest.mark.parametrize("status", [Status.PROCESSING, Status.CANCELLED, Status.SUCCESS, Status.ERROR])
def test_only_queued_rows_are_claimed(
    store: Store, client: Client, file: Callable[..., int], executor: Executor, status: Status
) -> None:
    file()
    client.run("UPDATE queue SET status = ?", int(status))
    assert store.claim(executor, 5, 30) == []


def test_a_second_attempt_goes_on_and_one_from_the_start_does_not(
    store: Store, file: Callable[..., int], executor: Executor
) -> None:
    id = file()
    (claim,) = store.claim(executor, 1, 30)
    store.report(claim, 40, [state("a", NodeStatus.SUCCESS), state("b", NodeStatus.RUNNING, started=5.0)])
    store.give_back(claim, vanished=False, max_attempts=3, reason="stopped")
    (claim,) = store.claim(executor, 1, 30)
    assert (claim.attempt, claim.resumed, claim.row.progress) == (2, True, 0)
    assert [(one.id, one.status) for one in store.nodes(id)] == [
        ("a", NodeStatus.SUCCESS),
        ("b", NodeStatus.WAITING),
    ]
    store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar")
    store.retry(id, from_start=True)
    (claim,) = store.claim(executor, 1, 30)
    assert (claim.attempt, claim.resumed, claim.row.output_file) == (3, False, "")
    assert store.nodes(id) == []


def test_executors_sign_on_and_off(store: Store, other: Store, file: Callable[..., int]) -> None:
    made = Executor("t", "host \U0001f9e0", '{"x": "\'"}')
    store.join(made)
    store.join(made)
    assert other.executors() == [made]
    file()
    (claim,) = store.claim(made, 1, 30)
    store.leave(made)
    assert other.executors() == [made], "one that holds a claim is not forgotten"
    store.finish(claim, Status.SUCCESS, reason=None, output_file="")
    store.leave(made)
    assert other.executors() == []
