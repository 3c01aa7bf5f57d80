"""report, finish, nodes: what the holder of a claim writes."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from peachctl.store import Claim, Executor, NodeState, NodeStatus, Status, Store
from tests.store.adapters import Client
from tests.store.conftest import state


@pytest.fixture
def claim(store: Store, file: Callable[..., int], executor: Executor) -> Claim:
    file()
    return store.claim(executor, 1, 30)[0]


def test_progress_and_nodes_are_seen_by_others(store: Store, other: Store, claim: Claim) -> None:
    nodes = [
        NodeState("a", "Split", 2, NodeStatus.SUCCESS, 1.5, 2.25, None, [1, "x", None, {"k": [0.5]}]),
        NodeState("b", "Join", 1, NodeStatus.ERROR, 3.0, 4.0, {"type": "E", "message": "m", "traceback": "t\n"}),
        NodeState("c", "Join", 1, NodeStatus.WAITING),
    ]
    assert store.report(claim, 33, nodes)
    assert other.nodes(claim.id) == nodes
    row = other.get(claim.id)
    assert row is not None and row.progress == 33
    assert store.report(claim, None, [])
    row = other.get(claim.id)
    assert row is not None and row.progress == 33


def test_a_node_is_replaced_and_keeps_its_place(store: Store, claim: Claim) -> None:
    store.report(claim, 0, [state("z"), state("a"), state("m")])
    store.report(claim, 0, [state("m", NodeStatus.RUNNING, started=1.0), state("new"), state("z", NodeStatus.SUCCESS)])
    store.report(claim, 0, [state("m", NodeStatus.SUCCESS, started=1.0, finished=2.0)])
    assert [(one.id, one.status.value) for one in store.nodes(claim.id)] == [
        ("z", "success"), ("a", "waiting"), ("m", "success"), ("new", "waiting"),
    ]  # fmt: skip


def test_node_ids_that_differ_in_case_are_two_nodes(store: Store, claim: Claim) -> None:
    store.report(claim, 0, [state("Node"), state("node"), state("node ")])
    assert [one.id for one in store.nodes(claim.id)] == ["Node", "node", "node "]


@pytest.mark.parametrize("hostile", ["a\0b", "'; --", "\U0001f9e0" * 100, "x" * 400, "\udce4", ""])
def test_hostile_texts_of_nodes_come_back(store: Store, other: Store, claim: Claim, hostile: str) -> None:
    seen = hostile.encode("utf-8", "backslashreplace").decode()
    error = {"type": hostile, "message": hostile, "traceback": hostile}
    store.report(claim, 1, [NodeState(hostile, hostile, 1, NodeStatus.ERROR, error=error, outputs=[hostile])])
    (node,) = other.nodes(claim.id)
    assert (node.id, node.service, node.error, node.outputs) == (seen, seen, error, [hostile])


def test_numbers_that_a_column_cannot_hold_do_not_stop_a_report(store: Store, claim: Claim) -> None:
    odd = [
        NodeState("a", "S", 10**30, NodeStatus.SUCCESS, float("nan"), float("inf"), None, [10**40, float("inf")]),
        NodeState("b", "S", -(10**30), NodeStatus.SUCCESS),
    ]
    assert store.report(claim, 1000, odd)
    a, _ = store.nodes(claim.id)
    assert (a.started, a.finished, a.outputs) == (None, None, [10**40, float("inf")])
    row = store.get(claim.id)
    assert row is not None and row.progress == 100


def test_ten_thousand_nodes_are_cheap(store: Store, claim: Claim) -> None:
    nodes = [state(f"node-{n}") for n in range(10_000)]
    started = time.process_time()
    for batch in range(0, 10_000, 200):
        store.report(claim, 0, nodes[batch : batch + 200])
    store.report(claim, 50, nodes)
    assert time.process_time() - started < 3
    assert store.nodes(claim.id) == nodes


def test_a_success_is_complete(store: Store, other: Store, claim: Claim) -> None:
    nodes = [state("a", NodeStatus.SUCCESS)]
    assert store.finish(claim, Status.SUCCESS, reason=None, output_file="1_workflow_1.tar", nodes=nodes)
    row = other.get(claim.id)
    assert row is not None
    assert (row.status, row.progress, row.output_file, row.reason) == (Status.SUCCESS, 100, "1_workflow_1.tar", None)
    assert row.finished_date is not None and row.finished_date.microsecond == 0
    assert abs(row.finished_date - datetime.now()) < timedelta(seconds=5)
    assert other.nodes(claim.id) == nodes and (row.attempt, row.host) == (1, "host-1")


def test_an_error_keeps_its_progress_and_says_why(store: Store, claim: Claim) -> None:
    store.report(claim, 60, [])
    assert store.finish(claim, Status.ERROR, reason="node b: ValueError", output_file="x.tar")
    row = store.get(claim.id)
    assert row is not None and (row.status, row.progress, row.reason) == (Status.ERROR, 60, "node b: ValueError")


@pytest.mark.parametrize("status", [Status.ERROR, Status.CANCELLED, Status.SUCCESS])
def test_the_last_progress_is_written_with_the_end(store: Store, claim: Claim, status: Status) -> None:
    store.report(claim, 60, [])
    if status is Status.CANCELLED:
        store.cancel(claim.id)
    assert store.finish(claim, status, reason=None, output_file="x.tar", progress=75)
    row = store.get(claim.id)
    assert row is not None and (row.status, row.progress) == (status, 100 if status is Status.SUCCESS else 75)


@pytest.mark.fault("C6")
def test_an_end_is_written_once(store: Store, claim: Claim) -> None:
    assert store.finish(claim, Status.ERROR, reason="first", output_file="a.tar")
    assert not store.finish(claim, Status.SUCCESS, reason=None, output_file="b.tar", nodes=[state("a")])
    assert not store.report(claim, 10, [state("a")])
    assert store.give_back(claim, vanished=True, max_attempts=3, reason="x") is None
    row = store.get(claim.id)
    assert row is not None and (row.status, row.output_file) == (Status.ERROR, "a.tar")
    assert store.nodes(claim.id) == []


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PROCESSING])
def test_an_end_needs_a_status_that_is_one(store: Store, claim: Claim, status: Status) -> None:
    with pytest.raises(ValueError, match="no end"):
        store.finish(claim, status, reason=None, output_file="")


@pytest.mark.parametrize("by", ["operator", "client"])
def test_what_was_cancelled_meanwhile_stays_cancelled_and_gets_its_output(
    store: Store, other: Store, client: Client, claim: Claim, by: str
) -> None:
    if by == "operator":
        assert other.cancel(claim.id) is Status.PROCESSING
    else:
        client.run("UPDATE queue SET status = 2 WHERE id = ?", claim.id)
    assert not store.report(claim, 99, [state("a")])
    assert store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar", nodes=[state("a", NodeStatus.SUCCESS)])
    row = other.get(claim.id)
    assert row is not None and (row.status, row.output_file) == (Status.CANCELLED, "x.tar")
    assert row.finished_date is not None and row.reason is not None and row.progress == 0
    assert [one.status for one in other.nodes(claim.id)] == [NodeStatus.SUCCESS]


@pytest.mark.fault("C6")
@pytest.mark.parametrize("status", [Status.SUCCESS, Status.ERROR])
def test_what_a_client_wrote_as_ended_is_not_written_over(
    store: Store, client: Client, claim: Claim, status: Status
) -> None:
    client.run("UPDATE queue SET status = ?", int(status))
    assert not store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar")
    row = store.get(claim.id)
    assert row is not None and (row.status, row.output_file) == (status, "")


def test_the_end_of_a_deleted_row_makes_no_row(store: Store, client: Client, claim: Claim) -> None:
    client.run("DELETE FROM queue")
    assert not store.report(claim, 1, [state("a")])
    assert not store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar", nodes=[state("a")])
    assert store.rows() == [] and store.nodes(claim.id) == []


def test_nodes_of_nothing_are_none(store: Store) -> None:
    assert store.nodes(1) == [] and store.nodes(10**30) == []
