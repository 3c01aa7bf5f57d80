"""Reports fit their datagrams, whatever is in them."""

import json
import math
import socket

from peachctl.runtime.failure import failure
from peachctl.runtime.report import DATAGRAM, ExecutorReporter, short_id, shown


def heard(connection: socket.socket) -> dict[str, object]:
    raw = connection.recv(1 << 20)
    assert len(raw) <= DATAGRAM
    return dict(json.loads(raw))


def test_hostile_texts_fit_and_long_ids_stay_the_same_in_each_event() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reporter = ExecutorReporter(theirs.detach())
    long = "\x00𝔘" * 40_000
    reporter.graph((f"{long}{index}", "S" * 5000, 1) for index in range(20))
    ids: list[str] = []
    while len(ids) < 20:
        nodes = heard(ours)["nodes"]
        assert isinstance(nodes, list) and len(nodes) <= 200
        ids += [node["id"] for node in nodes]
    assert len(set(ids)) == 20
    reporter.node(f"{long}3", "error", failure("T", "\x01" * 9000, "\x02" * 99_000), shown(["\x03" * 99_000]))
    event = heard(ours)
    assert event["id"] == ids[3] == short_id(f"{long}3")
    reporter.log("n", "info", "\x04" * 90_000)
    assert heard(ours)["event"] == "log"
    ours.close()


def test_a_graph_is_told_in_chunks_of_at_most_200() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ExecutorReporter(theirs.detach()).graph((str(index), "S", 1) for index in range(450))
    sizes = [len(heard(ours)["nodes"]) for _ in range(3)]  # type: ignore[arg-type]
    assert sizes == [200, 200, 50]
    ours.close()


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_outputs_are_json_or_repr_and_cut() -> None:
    circle: list[object] = []
    circle.append(circle)
    values = [1, 2.5, None, True, "x", [1, {"a": "b"}], math.nan, 10**40, {1: 2}, Hostile(), circle, b"raw"]
    told = shown(values)
    assert told[:6] == [1, 2.5, None, True, "x", [1, {"a": "b"}]]
    assert told[6] == "nan" and told[8] == "{1: 2}" and told[9].startswith("<Hostile") and told[11] == "b'raw'"
    assert len(json.dumps(shown(["y" * 100_000, *["z" * 3000] * 50]), allow_nan=False)) <= 8192
    assert len(json.dumps(shown([list(range(100_000))] * 300))) <= 8192
