"""renew, release, release_expired, give_back: who holds a row, and what becomes of it when nobody does."""

from collections.abc import Callable

import pytest

from peachctl.store import Executor, NodeStatus, Status, Store, Wanted
from tests.store.adapters import Client, Database, ids
from tests.store.conftest import state

Filer = Callable[..., int]


def test_a_renewed_lease_holds_and_one_that_is_not_runs_out(
    store: Store, other: Store, database: Database, file: Filer, executor: Executor
) -> None:
    file(), file()
    kept, lost = store.claim(executor, 2, 30)
    for _ in range(4):
        database.advance(20)
        assert store.renew(executor, [kept], 30) == {kept: Wanted.GO_ON}
        other.release_expired(3)
    row = store.get(lost.id)
    assert row is not None and row.status is Status.QUEUED
    assert row.reason is not None and "host-1" in row.reason
    row = store.get(kept.id)
    assert row is not None and row.status is Status.PROCESSING


def test_a_lease_that_ran_out_is_renewed_while_nobody_took_the_row(
    store: Store, other: Store, database: Database, file: Filer, executor: Executor
) -> None:
    file()
    (claim,) = store.claim(executor, 1, 30)
    database.advance(3600)
    assert store.renew(executor, [claim], 30) == {claim: Wanted.GO_ON}
    assert other.release_expired(3) == []


@pytest.mark.fault("D4")
def test_one_who_lost_the_row_learns_of_it_and_cannot_write(
    store: Store, other: Store, database: Database, file: Filer, executor: Executor, rival: Executor
) -> None:
    id = file()
    (old,) = store.claim(executor, 1, 30)
    database.advance(31)
    (released,) = other.release_expired(3)
    assert (released.id, released.attempt, released.ended, released.host) == (id, 1, False, "host-1")
    assert store.renew(executor, [old], 30) == {old: Wanted.LOST}
    (new,) = other.claim(rival, 1, 30)
    assert (new.attempt, new.resumed) == (2, True) and new.token != old.token
    assert store.renew(executor, [old], 30) == {old: Wanted.LOST}
    assert not store.report(old, 99, [state("a")])
    assert not store.finish(old, Status.SUCCESS, reason=None, output_file="x", nodes=[state("a")])
    assert store.give_back(old, vanished=True, max_attempts=3, reason="x") is None
    assert other.renew(rival, [new], 30) == {new: Wanted.GO_ON}
    row = store.get(id)
    assert row is not None and (row.status, row.progress, row.output_file) == (Status.PROCESSING, 0, "")
    assert row.host == "host-2" and store.nodes(id) == []


def test_a_claim_needs_its_own_executor_and_token(
    store: Store, file: Filer, executor: Executor, rival: Executor
) -> None:
    from dataclasses import replace

    file()
    (claim,) = store.claim(executor, 1, 30)
    forged = replace(claim, token="x")
    assert store.renew(rival, [claim], 30) == {claim: Wanted.LOST}
    assert store.renew(executor, [forged], 30) == {forged: Wanted.LOST}
    assert not store.report(forged, 1, [])
    assert not store.report(replace(claim, attempt=2), 1, [])
    assert store.renew(executor, [], 30) == {}


@pytest.mark.fault("F7")
def test_what_is_wanted_is_told_for_each(
    store: Store, other: Store, client: Client, file: Filer, executor: Executor
) -> None:
    for _ in range(5):
        file()
    going, cancelled, by_client, deleted, gone = store.claim(executor, 5, 30)
    other.cancel(cancelled.id)
    client.run("UPDATE queue SET status = 2 WHERE id = ?", by_client.id)
    other.delete(deleted.id)
    client.run("DELETE FROM queue WHERE id = ?", gone.id)
    assert store.renew(executor, [going, cancelled, by_client, deleted, gone], 30) == {
        going: Wanted.GO_ON,
        cancelled: Wanted.CANCELLED,
        by_client: Wanted.CANCELLED,
        deleted: Wanted.DELETED,
        gone: Wanted.DELETED,
    }


def test_a_dead_executors_rows_are_free_at_once_and_it_is_forgotten(
    store: Store, other: Store, file: Filer, executor: Executor, rival: Executor
) -> None:
    file(), file(), file()
    dead = store.claim(executor, 2, 3600)
    (alive,) = store.claim(rival, 1, 3600)
    released = other.release([executor.token, "unknown"], 3)
    assert sorted(ids(released)) == sorted(ids(dead)) and not any(one.ended for one in released)
    assert other.executors() == [rival]
    assert store.renew(rival, [alive], 30) == {alive: Wanted.GO_ON}
    assert sorted(ids(other.claim(rival, 5, 30))) == sorted(ids(dead))
    assert other.release([], 3) == []


@pytest.mark.fault("A8")
def test_attempts_are_used_up(store: Store, database: Database, file: Filer, executor: Executor) -> None:
    id = file()
    for attempt in (1, 2, 3):
        (claim,) = store.claim(executor, 1, 30)
        assert claim.attempt == attempt
        store.report(claim, 50, [state("a", NodeStatus.SUCCESS), state("b", NodeStatus.RUNNING), state("c")])
        database.advance(31)
        (released,) = store.release_expired(3)
        assert released.ended == (attempt == 3)
    row = store.get(id)
    assert row is not None and row.status is Status.ERROR and row.finished_date is not None
    assert row.reason is not None and "vanished" in row.reason and "host-1" in row.reason
    assert store.claim(executor, 1, 30) == [] and [one.id for one in store.unpacked(5)] == [id]
    states = {one.id: one for one in store.nodes(id)}
    assert [states[name].status for name in "abc"] == [NodeStatus.SUCCESS, NodeStatus.ERROR, NodeStatus.SKIPPED]
    assert states["b"].error is not None and "vanished" in states["b"].error["message"]


def test_a_drain_does_not_count_as_an_attempt(store: Store, file: Filer, executor: Executor) -> None:
    id = file()
    for _ in range(5):
        (claim,) = store.claim(executor, 1, 30)
        released = store.give_back(claim, vanished=False, max_attempts=1, reason="its executor was stopped")
        assert released is not None and not released.ended and released.host == "host-1"
    row = store.get(id)
    assert row is not None and (row.status, row.attempt) == (Status.QUEUED, 5)
    assert row.reason is not None and "its executor was stopped" in row.reason
    (claim,) = store.claim(executor, 1, 30)
    assert claim.row.reason is None
    released = store.give_back(claim, vanished=True, max_attempts=1, reason="frozen")
    assert released is not None and released.ended


def test_a_retry_counts_attempts_anew(store: Store, database: Database, file: Filer, executor: Executor) -> None:
    id = file()
    for _ in range(2):
        (claim,) = store.claim(executor, 1, 30)
        released = store.give_back(claim, vanished=True, max_attempts=2, reason="gone")
    assert released is not None and released.ended
    store.retry(id)
    (claim,) = store.claim(executor, 1, 30)
    assert (claim.attempt, claim.resumed) == (3, True)
    released = store.give_back(claim, vanished=True, max_attempts=2, reason="gone")
    assert released is not None and not released.ended


@pytest.mark.fault("A8")
def test_the_claim_itself_writes_the_first_lease(
    store: Store, database: Database, client: Client, file: Filer, executor: Executor
) -> None:
    file()
    store.claim(executor, 1, 30)
    assert client.run("SELECT beat FROM peach_runs WHERE lease_until IS NOT NULL") == [(1,)]
    database.advance(29)
    assert store.release_expired(3) == []


@pytest.mark.fault("A8")
def test_a_lease_that_is_null_has_run_out(store: Store, client: Client, file: Filer, executor: Executor) -> None:
    id = file()
    store.claim(executor, 1, 3600)
    client.run("UPDATE peach_runs SET lease_until = NULL")
    assert ids(store.release_expired(3)) == [id]


@pytest.mark.fault("D3")
def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs_a_lease(
    store: Store, database: Database, file: Filer, executor: Executor
) -> None:
    id = file()
    store.claim(executor, 1, 30)
    database.jump(10 * 365 * 86400)
    assert store.release_expired(3) == []
    database.jump(-20 * 365 * 86400)
    database.advance(31)
    assert ids(store.release_expired(3)) == [id]


@pytest.mark.parametrize("filed_by", ["peachctl", "others"])
def test_a_row_in_processing_without_a_run_is_freed_if_it_is_ours(
    store: Store, client: Client, file: Filer, executor: Executor, filed_by: str
) -> None:
    if filed_by == "peachctl":
        id = file()
        client.run("UPDATE queue SET status = 1")
    else:
        client.run("INSERT INTO queue (user, execution_file, status) VALUES ('x', 'y.py', 1)")
        ((id,),) = client.run("SELECT id FROM queue")
    released = store.release_expired(3)
    row = store.get(id)
    assert row is not None
    if filed_by == "peachctl":
        assert ids(released) == [id] and row.status is Status.QUEUED
    else:
        assert released == [] and row.status is Status.PROCESSING


def test_a_vanished_executors_cancelled_row_stays_cancelled(
    store: Store, database: Database, file: Filer, executor: Executor
) -> None:
    id = file()
    (claim,) = store.claim(executor, 1, 30)
    store.report(claim, 10, [state("a", NodeStatus.RUNNING), state("b")])
    store.cancel(id)
    database.advance(31)
    assert store.release_expired(1) == []
    row = store.get(id)
    assert row is not None and row.status is Status.CANCELLED
    assert {one.status for one in store.nodes(id)} == {NodeStatus.CANCELLED}
    store.retry(id)
    assert ids(store.claim(executor, 1, 30)) == [id]


def test_a_retried_row_waits_until_its_former_run_is_closed(
    store: Store, other: Store, file: Filer, executor: Executor, rival: Executor
) -> None:
    id = file()
    (claim,) = store.claim(executor, 1, 30)
    other.cancel(id)
    other.retry(id)
    assert other.claim(rival, 1, 30) == [] and other.claim(rival, 1, 30, only=id) == []
    assert store.renew(executor, [claim], 30) == {claim: Wanted.CANCELLED}
    assert not store.finish(claim, Status.CANCELLED, reason="cancelled", output_file="old.tar")
    (again,) = other.claim(rival, 1, 30)
    assert (again.id, again.attempt, again.row.output_file) == (id, 2, "")


def test_what_is_remembered_of_rows_that_clients_deleted_goes_too(
    store: Store, database: Database, client: Client, file: Filer, executor: Executor
) -> None:
    queued, running, there = file(), file(), file("bob")
    (claim,) = store.claim(executor, 1, 30, only=running)
    store.report(claim, 1, [state("a")])
    client.run("DELETE FROM queue WHERE id IN (?, ?)", queued, running)
    store.release_expired(3)
    assert store.renew(executor, [claim], 30) == {claim: Wanted.DELETED}
    assert not store.finish(claim, Status.CANCELLED, reason=None, output_file="")
    for table in ("peach_jobs", "peach_runs", "peach_nodes", "peach_outbox"):
        left = {id for (id,) in client.run(f"SELECT queue_id FROM {table}")}
        assert left <= {there}, table
    assert database.open().rows()[0].id == there
