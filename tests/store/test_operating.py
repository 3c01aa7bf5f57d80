"""get, find, rows, counts, cancel, retry, delete, prioritise, unpacked, attach: what operators and commands do."""

from collections.abc import Callable

import pytest

from peachctl.errors import PeachError, StateError
from peachctl.store import Entry, Executor, NodeStatus, Status, Store
from tests.store.adapters import Client, ids
from tests.store.conftest import origin, state

Filer = Callable[..., int]

NOBODY = [0, -1, 999, 10**30, -(10**30)]


def end(store: Store, executor: Executor, id: int, status: Status, output: str = "x.tar") -> None:
    (claim,) = store.claim(executor, 1, 30, only=id)
    assert store.finish(claim, status, reason="why", output_file=output)


@pytest.mark.parametrize("id", NOBODY)
def test_a_row_that_is_not_there(store: Store, id: int) -> None:
    assert store.get(id) is None and store.find("no.py") is None
    store.attach(id, "x.tar")
    for verb in (store.cancel, store.retry, store.delete, lambda one: store.prioritise(one, 1)):
        with pytest.raises(StateError, match="no workflow"):
            verb(id)


def test_rows_are_listed_newest_first_and_filtered(store: Store, file: Filer, executor: Executor) -> None:
    made = [file(user) for user in ("ada", "bob", "ada", "bob", "ada")]
    end(store, executor, made[4], Status.ERROR)
    assert ids(store.rows()) == made[::-1]
    assert ids(store.rows(limit=2)) == made[:2:-1] and store.rows(limit=0) == []
    assert ids(store.rows(user="ADA")) == [made[4], made[2], made[0]]
    assert ids(store.rows(status=Status.ERROR)) == [made[4]]
    assert ids(store.rows(user="ada", status=Status.QUEUED, limit=1)) == [made[2]]
    assert store.rows(user="a%") == []
    assert store.counts() == {
        Status.QUEUED: 4, Status.PROCESSING: 0, Status.CANCELLED: 0, Status.SUCCESS: 0, Status.ERROR: 1,
    }  # fmt: skip


def test_rows_of_2017_and_of_clients_are_read_whatever_they_hold(store: Store, client: Client) -> None:
    client.run(
        "INSERT INTO queue (user, execution_file, workflow_json, status, original_workflow_file, sending_date)"
        " VALUES ('x', 'torn.py', ?, 4, 'a &lt;b&gt;', '2017-05-06 07:08:09')",
        '{"name": "eaten "quote", "nodes": [',
    )
    client.run("INSERT INTO queue (execution_file, workflow_json, status) VALUES ('odd.py', '[1, 2]', 9)")
    client.run(
        "INSERT INTO queue (execution_file, user, workflow_json, status, progress, original_workflow_file, priority,"
        " output_file) VALUES ('null.py', NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
    )
    client.run("INSERT INTO queue (execution_file, workflow_json, status) VALUES ('deep.py', ?, 3)", "[" * 100_000)
    torn, odd, null = (store.find(name) for name in ("torn.py", "odd.py", "null.py"))
    assert torn is not None and torn.name == "a <b>" and str(torn.sending_date) == "2017-05-06 07:08:09"
    assert torn.finished_date is None and torn.reason is None
    assert odd is not None and odd.reason is not None and "9" in odd.reason
    assert null is not None and (null.user, null.progress, null.priority, null.output_file) == ("", 0, 1, "")
    assert len(store.rows()) == 4


def test_cancelling_what_waits(store: Store, other: Store, file: Filer, executor: Executor) -> None:
    id = file()
    assert store.cancel(id) is Status.QUEUED
    row = other.get(id)
    assert row is not None and row.status is Status.CANCELLED and row.finished_date is not None
    assert row.reason == "it was cancelled"
    assert store.claim(executor, 1, 30) == []
    with pytest.raises(StateError, match="cancelled"):
        store.cancel(id)


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.ERROR])
def test_what_has_ended_cannot_be_cancelled(store: Store, file: Filer, executor: Executor, status: Status) -> None:
    id = file()
    end(store, executor, id, status)
    with pytest.raises(StateError, match="ended already"):
        store.cancel(id)
    row = store.get(id)
    assert row is not None and row.status is status


def test_retry_queues_what_failed_and_keeps_what_is_done(store: Store, file: Filer, executor: Executor) -> None:
    id = file()
    (claim,) = store.claim(executor, 1, 30)
    failed = state("b", NodeStatus.ERROR, started=1.0, error={"type": "E", "message": "m", "traceback": ""})
    nodes = [state("a", NodeStatus.SUCCESS, outputs=[1]), failed, state("c", NodeStatus.SKIPPED)]
    store.finish(claim, Status.ERROR, reason="b failed", output_file="x.tar", nodes=nodes)
    store.retry(id)
    row = store.get(id)
    assert row is not None and (row.status, row.progress, row.output_file) == (Status.QUEUED, 0, "")
    assert (row.reason, row.finished_date, row.attempt) == (None, None, 1)
    assert store.nodes(id) == [nodes[0], state("b"), state("c")]
    (claim,) = store.claim(executor, 1, 30)
    assert (claim.attempt, claim.resumed) == (2, True)


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.ERROR, Status.CANCELLED])
def test_retry_from_the_start_takes_anything_that_ended(
    store: Store, file: Filer, executor: Executor, status: Status
) -> None:
    id = file()
    (claim,) = store.claim(executor, 1, 30)
    store.finish(claim, status, reason=None, output_file="x", nodes=[state("a", NodeStatus.SUCCESS)])
    store.retry(id, from_start=True)
    assert store.nodes(id) == []
    store.cancel(id)
    store.retry(id)
    (claim,) = store.claim(executor, 1, 30)
    assert (claim.attempt, claim.resumed) == (2, False), "that it starts anew outlasts a retry before the start"


def test_what_succeeded_waits_or_runs_is_not_retried(store: Store, file: Filer, executor: Executor) -> None:
    id = file()
    for from_start in (False, True):
        with pytest.raises(StateError, match="queued"):
            store.retry(id, from_start=from_start)
    (claim,) = store.claim(executor, 1, 30)
    with pytest.raises(StateError, match="processing"):
        store.retry(id, from_start=True)
    store.finish(claim, Status.SUCCESS, reason=None, output_file="x")
    with pytest.raises(StateError, match="success") as caught:
        store.retry(id)
    assert caught.value.hint is not None and "--from-start" in caught.value.hint


def test_a_row_whose_json_is_torn_must_be_sent_again(store: Store, client: Client, file: Filer) -> None:
    id = file()
    store.cancel(id)
    for torn in ('{"name": "eaten "quote"}', '{"nodes": [', "", "[]", '"x"', None):
        client.run("UPDATE queue SET workflow_json = ?", torn)
        with pytest.raises(StateError, match="cannot be read") as caught:
            store.retry(id, from_start=True)
        assert caught.value.hint is not None and "sent again" in caught.value.hint


def test_delete_removes_the_row_and_all_that_is_remembered(
    store: Store, client: Client, file: Filer, executor: Executor
) -> None:
    id = file()
    (claim,) = store.claim(executor, 1, 30)
    store.report(claim, 1, [state("a")])
    store.delete(id)
    assert store.get(id) is None and store.nodes(id) == [] and store.unannounced(5) == []
    for table in ("queue", "peach_jobs", "peach_runs", "peach_nodes"):
        assert client.run(f"SELECT count(*) FROM {table}") == [(0,)]
    with pytest.raises(StateError):
        store.delete(id)


def test_a_deleted_message_stays_known(store: Store, file: Filer, entry: Callable[..., Entry]) -> None:
    store.delete(file(origin=origin(4), sha256="a" * 64))
    assert not store.file([entry(origin=origin(4), sha256="a" * 64)])[0].new


def test_priority_moves_a_row_ahead(store: Store, file: Filer, executor: Executor) -> None:
    file()
    second = file()
    store.prioritise(second, 8)
    row = store.get(second)
    assert row is not None and row.priority == 8
    assert ids(store.claim(executor, 1, 30)) == [second]
    with pytest.raises(PeachError, match="priority"):
        store.prioritise(second, 1 << 31)


def test_what_ended_in_error_without_an_output_is_to_be_packed(
    store: Store, other: Store, client: Client, file: Filer, executor: Executor
) -> None:
    refused = file(refused="a cycle")
    packed, success, bare, again = (file() for _ in range(4))
    end(store, executor, packed, Status.ERROR)
    end(store, executor, success, Status.SUCCESS, "")
    end(store, executor, bare, Status.ERROR, "")
    end(store, executor, again, Status.ERROR, "")
    store.retry(again)
    client.run("INSERT INTO queue (user, execution_file, status) VALUES ('x', 'of-a-client.py', 4)")
    assert ids(other.unpacked(10)) == [refused, bare] and ids(other.unpacked(1)) == [refused]
    other.attach(refused, "why.tar")
    other.attach(packed, "another.tar")
    other.attach(again, "another.tar")
    rows = [store.get(id) for id in (refused, packed, again)]
    assert [row.output_file for row in rows if row] == ["why.tar", "x.tar", ""]
    assert ids(store.unpacked(10)) == [bare]
