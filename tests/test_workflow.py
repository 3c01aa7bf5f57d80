"""What can be wrong with a workflow, all at once; the order of nodes; nodes fitted to their services."""

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import peachctl.workflow
from peachctl.errors import PeachError
from peachctl.workflow import (
    Connection,
    Node,
    Problem,
    Service,
    ServiceParameter,
    ServiceRef,
    Workflow,
    check,
    fitted,
    order,
    plain_or_shown,
    shown,
)

MANY = 20_000


def service(name: str, version: int = 1, inputs: int = 1, outputs: int = 1, params: int = 0) -> Service:
    return Service(
        name,
        name,
        version,
        "",
        tuple(f"in{k}" for k in range(inputs)),
        tuple(f"out{k}" for k in range(outputs)),
        tuple(ServiceParameter(f"P{k}", f"P{k}", 0) for k in range(params)),
    )


HUB = {
    "Upper": {1: service("Upper"), 3: service("Upper", 3, inputs=2)},
    "Join": {2: service("Join", 2, inputs=2, params=1)},
    "Sink": {1: service("Sink", outputs=0)},
}


def node(name: str, *feeds: str | Connection | None, run: str = "Upper", version: int = 1, params: tuple = ()) -> Node:
    connections = tuple(Connection(0, feed) if isinstance(feed, str) else feed for feed in feeds)
    return Node(name, ServiceRef(run, version), params, connections)


def workflow(*nodes: Node) -> Workflow:
    return Workflow("w", "u", nodes)


def codes(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in problems]


def test_a_sound_workflow_has_no_problems() -> None:
    sound = workflow(
        node("a", Connection(-1, "a")),  # a literal that is called like the node is no loop
        node("b", "a", None, None),
        node("c", "a", "b", run="Join", version=2, params=("-", None, None)),
        node("d", run="Sink"),
    )
    assert check(sound, HUB) == []
    assert check(sound, None) == []


def test_no_nodes_is_a_problem() -> None:
    assert codes(check(workflow(), HUB)) == [("no-nodes", "nodes")]


def test_ids_that_are_empty_or_used_twice_are_named() -> None:
    problems = check(workflow(node("a"), node(""), node("a"), node("a")), None)
    assert codes(problems) == [
        ("empty-id", "nodes[1].id"),
        ("duplicate-id", "nodes[2].id"),
        ("duplicate-id", "nodes[3].id"),
    ]
    assert "'a' is also that of nodes[0]" in problems[1].message


def test_a_node_that_feeds_itself_is_a_self_loop_and_no_cycle() -> None:
    problems = check(workflow(node("a", None, "a")), None)
    assert codes(problems) == [("self-loop", "nodes[0].connections[1]")]


@pytest.mark.fault("E3")
def test_a_cycle_is_named_in_the_direction_of_the_data() -> None:
    problems = check(workflow(node("x", "c"), node("a", "c"), node("b", "a"), node("c", "b"), node("y", "x")), None)
    assert codes(problems) == [("cycle", "nodes[1]")]
    assert "a -> b -> c -> a" in problems[0].message


def test_each_knot_of_cycles_is_named_once_by_a_shortest_cycle() -> None:
    problems = check(
        workflow(
            node("a", "b", "d"), node("b", "a"), node("c", "b"), node("d", "c"), node("p", "q"), node("q", "p", "a")
        ),
        None,
    )
    assert codes(problems) == [("cycle", "nodes[0]"), ("cycle", "nodes[4]")]
    assert "a -> b -> a" in problems[0].message
    assert "p -> q -> p" in problems[1].message


def test_a_dangling_connection_names_the_nearest_node() -> None:
    problems = check(workflow(node("node_1"), node("target", "Node_l"), node("z", "nothing alike")), None)
    assert codes(problems) == [("dangling", "nodes[1].connections[0]"), ("dangling", "nodes[2].connections[0]")]
    assert "the nearest is 'node_1'" in problems[0].message
    assert "nearest" not in problems[1].message


def test_unknown_services_and_versions_name_what_there_is() -> None:
    problems = check(workflow(node("a", run="upper"), node("b", version=2), node("c", version=-1, run="QQQ")), HUB)
    assert codes(problems) == [
        ("unknown-service", "nodes[0].service.id"),
        ("unknown-version", "nodes[1].service.version"),
        ("unknown-service", "nodes[2].service.id"),
    ]
    assert "the nearest is 'Upper'" in problems[0].message
    assert "the hub has 1, 3" in problems[1].message
    assert "nearest" not in problems[2].message


def test_an_output_port_that_the_feeding_service_does_not_have_is_named() -> None:
    problems = check(
        workflow(node("a"), node("b", Connection(1, "a")), node("s", run="Sink"), node("c", "s"), node("d", "e")), HUB
    )
    assert codes(problems)[:2] == [
        ("unknown-port", "nodes[1].connections[0]"),
        ("unknown-port", "nodes[3].connections[0]"),
    ]
    assert "0 'out0'" in problems[0].message
    assert "no output ports" in problems[1].message


def test_values_beyond_what_the_service_declares_are_problems_and_nulls_are_not() -> None:
    problems = check(
        workflow(
            node("a", None, None, Connection(-1, "x"), params=(None, None)),
            node("b", None, None, None, "a", run="Join", version=2, params=("-", None, "password")),
        ),
        HUB,
    )
    assert codes(problems) == [
        ("extra-connection", "nodes[0].connections[2]"),
        ("extra-connection", "nodes[1].connections[3]"),
        ("extra-parameter", "nodes[1].parameters[2]"),
    ]
    assert not any("password" in problem.message for problem in problems)


def test_all_problems_are_told_at_once_and_without_a_hub_only_those_of_the_graph() -> None:
    wrong = workflow(
        node("a", "b"),
        node("b", "a", "gone", run="Nowhere"),
        node("b", "b"),
        node("", Connection(9, "c"), version=7),
        node("c", None, Connection(-1, "x"), params=("x",)),
    )
    told = {code for code, _ in codes(check(wrong, HUB))}
    assert told == {
        "cycle",
        "dangling",
        "unknown-service",
        "duplicate-id",
        "self-loop",
        "empty-id",
        "unknown-port",
        "unknown-version",
        "extra-connection",
        "extra-parameter",
    }
    assert {code for code, _ in codes(check(wrong, None))} == {
        "cycle",
        "dangling",
        "duplicate-id",
        "self-loop",
        "empty-id",
    }


HOSTILE = [
    "../../x",
    "a\0b",
    "line\nline",
    "'\"",
    "x" * 400,
    "\x1b[31mred",
    "\u202egnp",
    "<script>",
    "a -> b",
    "\ud800",
]


def test_hostile_names_are_safe_to_print() -> None:
    for name in HOSTILE:
        wrong = workflow(node(name, name + "?", run=name), node(name, name), node("b", "c"), node("c", "b"))
        wrong = Workflow(name, name, (*wrong.nodes, node(name + "1", name + "2"), node(name + "2", name + "1")))
        for problem in check(wrong, HUB):
            assert problem.message.isprintable()
            assert problem.where.isprintable()
            assert len(problem.message) < 600


def test_names_in_a_cycle_cannot_be_mistaken_for_arrows() -> None:
    [problem] = check(workflow(node("a -> b", "c"), node("c", "a -> b")), None)
    assert "'a -> b' -> c -> 'a -> b'" in problem.message
    assert plain_or_shown("node_1.x@y") == "node_1.x@y"
    assert shown("x" * 81) == f"'{'x' * 80}'..."


def ring(count: int) -> Workflow:
    return workflow(*[node(f"n{index}", f"n{(index - 1) % count}") for index in range(count)])


@pytest.mark.fault("E6")
def test_twenty_thousand_nodes_are_checked_and_ordered_without_recursion() -> None:
    began = time.process_time()
    backwards = workflow(*[node(f"n{k}", *([f"n{k + 1}"] if k + 1 < MANY else [])) for k in range(MANY)])
    assert check(backwards, HUB) == []
    assert [one.id for one in order(backwards)] == [f"n{k}" for k in reversed(range(MANY))]
    [problem] = check(ring(MANY), HUB)
    assert problem.code == "cycle"
    assert "(19989 more)" in problem.message
    assert len(problem.message) < 300
    assert time.process_time() - began < 10


def test_a_workflow_of_nothing_but_mistakes_costs_no_more_than_a_bounded_report() -> None:
    began = time.process_time()
    nodes = [node("n" * 60 + str(k), *[f"{'m' * 60}{k}.{j}" for j in range(9)], run=f"S{k}") for k in range(MANY)]
    hub = {f"T{k}": HUB["Upper"] for k in range(5000)}
    problems = check(workflow(*nodes), hub)
    assert len(problems) == 1001
    # a node: 9 dangling connections and its service
    assert problems[-1] == Problem("more", "nodes", f"and {MANY * 10 - 1000} more problems")
    assert time.process_time() - began < 15


def test_the_order_is_that_of_the_workflow_where_it_can_be() -> None:
    listed = [node("a"), node("b", "a"), node("c"), node("d", "c", "b")]
    assert order(workflow(*listed)) == listed
    swapped = [listed[3], listed[1], listed[2], listed[0]]
    assert [one.id for one in order(workflow(*swapped))] == ["c", "a", "b", "d"]


def test_the_order_puts_every_node_after_what_feeds_it() -> None:
    rng = random.Random(7)
    for _ in range(50):
        nodes = [node(f"n{k}", *[f"n{rng.randrange(k)}" for _ in range(rng.randrange(4)) if k]) for k in range(40)]
        rng.shuffle(nodes)
        ordered = order(workflow(*nodes))
        place = {one.id: index for index, one in enumerate(ordered)}
        assert sorted(place) == sorted(one.id for one in nodes)
        assert all(place[feed.node_id] < place[one.id] for one in nodes for feed in one.connections if feed)


def test_what_is_dangling_or_feeds_itself_does_not_count_for_the_order() -> None:
    listed = [node("b", "a", "gone"), node("a", "a")]
    assert order(workflow(*listed)) == [listed[1], listed[0]]


def test_a_loop_within_a_cycle_is_told_beside_the_cycle() -> None:
    problems = check(workflow(node("a", "a", "b"), node("b", "a")), None)
    assert codes(problems) == [("self-loop", "nodes[0].connections[0]"), ("cycle", "nodes[0]")]
    assert "a -> b -> a" in problems[1].message


def test_a_cycle_has_no_order() -> None:
    with pytest.raises(PeachError, match="no order"):
        order(workflow(node("z"), node("a", "b"), node("b", "a")))


def test_cycles_found_are_those_that_are_there() -> None:
    rng = random.Random(11)
    for _ in range(200):
        count = rng.randint(2, 8)
        feeds = {k: {rng.randrange(count) for _ in range(rng.randrange(3))} - {k} for k in range(count)}
        nodes = [node(f"n{k}", *[f"n{j}" for j in sorted(feeds[k])]) for k in range(count)]
        reach = {k: set(feeds[k]) for k in range(count)}
        for _ in range(count):
            for k in range(count):
                for j in list(reach[k]):
                    reach[k] |= reach[j]
        knots = {frozenset(j for j in range(count) if j in reach[k] and k in reach[j]) for k in range(count)} - {
            frozenset()
        }
        problems = check(workflow(*nodes), None)
        assert len(problems) == len(knots)
        for problem in problems:
            names = problem.message.partition(": ")[2].split(" -> ")
            path = [int(name[1:]) for name in names]
            assert path[0] == path[-1]
            assert len(set(path)) == len(path) - 1
            assert all(source in feeds[target] for source, target in zip(path, path[1:], strict=False))


def test_a_node_is_fitted_to_what_its_service_declares() -> None:
    join = HUB["Join"][2]
    short = fitted(node("a", "b", run="Join", version=2), join)
    assert short.connections == (Connection(0, "b"), None)
    assert short.parameters == (None,)
    long = fitted(node("a", "b", "c", None, run="Join", version=2, params=("-", None, None)), join)
    assert long.connections == (Connection(0, "b"), Connection(0, "c"))
    assert long.parameters == ("-",)
    with pytest.raises(PeachError, match="input port 2"):
        fitted(node("a", None, None, "c"), join)
    with pytest.raises(PeachError, match="parameter 1"):
        fitted(node("a", params=(None, 0)), join)


_FEEDS = st.none() | st.builds(Connection, st.integers(-1, 1), st.sampled_from("abc"))
_REFS = st.sampled_from([ServiceRef("Upper", 3), ServiceRef("Join", 2), ServiceRef("Sink", 1), ServiceRef("Upper", 2)])
_PARAMETERS = st.lists(st.none() | st.just("1"), max_size=1).map(tuple)


@st.composite
def _nearly_sound(draw: st.DrawFn) -> list[Node]:
    ids = draw(st.sampled_from(["a", "ab", "abc", "aba", ["a", ""]]))
    feeds = [draw(st.lists(_FEEDS, max_size=2).map(tuple)) for _ in ids]
    return [Node(id, draw(_REFS), draw(_PARAMETERS), some) for id, some in zip(ids, feeds, strict=True)]


@given(_nearly_sound())
@example([node("a"), node("b", Connection(1, "a"))])
@settings(max_examples=300)
def test_what_is_passed_at_a_glance_has_no_problem_that_the_checks_would_name(nodes: list[Node]) -> None:
    found = workflow(*nodes)
    at_a_glance = check(found, HUB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peachctl.workflow, "_is_sound", lambda *_: False)
        assert at_a_glance == check(found, HUB)
