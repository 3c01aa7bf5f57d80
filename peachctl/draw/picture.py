"""What there is to draw in a workflow, before anybody decides where or in which language.

All texts of a picture are masked and printable (no control characters), but not yet escaped for the language that
they are written in.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from peachctl.masking import mask
from peachctl.names import printable
from peachctl.workflow import Connection, Hub, Node, Service, Workflow

# Beyond this many nodes pictures show nodes and connections only; nobody reads ports at that size.
SIMPLE_FROM = 500
_TEXT = 2000
_MOST_PORTS = 40
_MOST_LOOKED_AT = 20_000


@dataclass(slots=True)
class Port:
    """A port of a node. connected: whether something is attached. wrong: whether the service has no such port."""

    index: int
    label: str
    connected: bool = False
    wrong: bool = False


@dataclass(slots=True)
class Box:
    """One thing in the picture: a node, a literal, or what a dangling connection names.

    parameters: (name, value or None where it is not set). layer: longest way from a source. problem: what is wrong
    with it, or ''. id: the node's id as it is in the workflow (for the states of a run), '' for the others.
    """

    kind: Literal["node", "literal", "missing"]
    title: str
    subtitle: str = ""
    tooltip: str = ""
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    parameters: list[tuple[str, str | None]] = field(default_factory=list)
    layer: int = 0
    problem: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """A connection: rows of ports (places in `outputs` and `inputs`) of two boxes (places in `boxes`).

    kind: `flow` between nodes, `literal`, `missing` (the source is not there), `cycle` (closes a circle).
    """

    source: int
    out: int
    target: int
    into: int
    kind: Literal["flow", "literal", "missing", "cycle"]


@dataclass(slots=True)
class Picture:
    """A workflow, ready to be drawn. boxes: the nodes in the workflow's order, then literals and what is missing."""

    title: str
    user: str
    nodes: int
    boxes: list[Box]
    edges: list[Edge]
    simple: bool


def picture(workflow: Workflow, services: Hub | None, *, reveal: bool = False) -> Picture:
    """Everything of a workflow that a drawing shows. services: versions of services by name, None if not known."""
    say = _Say(reveal)
    simple = (
        len(workflow.nodes) > SIMPLE_FROM or sum(len(node.connections) for node in workflow.nodes) > 4 * SIMPLE_FROM
    )
    place: dict[str, int] = {}
    for position, node in enumerate(workflow.nodes):
        place.setdefault(node.id, position)
    used: list[set[int]] = [set() for _ in workflow.nodes]
    for node in workflow.nodes:
        for connection in node.connections:
            if connection and not connection.is_literal and connection.node_id in place:
                used[place[connection.node_id]].add(connection.port_idx)
    twice = {node_id for node_id, many in Counter(node.id for node in workflow.nodes).items() if many > 1}
    boxes = [
        _node_box(node, ports, _service(services, node), say, node.id in twice)
        for node, ports in zip(workflow.nodes, used, strict=True)
    ]
    edges = _edges(workflow, place, boxes, say, simple=simple)
    _layers(boxes, edges, len(workflow.nodes))
    return Picture(say(workflow.name), say(workflow.user), len(workflow.nodes), boxes, edges, simple)


class _Say:
    """Texts of the workflow as they may be shown."""

    def __init__(self, reveal: bool) -> None:
        self.reveal = reveal

    def __call__(self, text: str, limit: int = _TEXT) -> str:
        # Masked before it is cut: what is left of a cut password would not be recognised as one.
        cut = text[:_MOST_LOOKED_AT]
        return printable(cut if self.reveal else mask(cut), limit)

    def literal(self, text: str) -> tuple[str, str]:
        """A short form of a literal, and what is said below it: of a URI of 2017 the file and the server."""
        if not self.reveal and text[:1] == "{" and len(text) < _MOST_LOOKED_AT:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict) and isinstance(value.get("server"), str) and isinstance(value.get("root"), str):
                server = value["server"].rsplit("@", 1)[-1].split("//", 1)[-1].strip("/")
                return self(value["root"].rstrip("/").rsplit("/", 1)[-1]), self(server)
        return self(text), ""


def _service(services: Hub | None, node: Node) -> Service | None:
    return (services or {}).get(node.service.id, {}).get(node.service.version)


def _node_box(node: Node, used: set[int], service: Service | None, say: _Say, twice: bool) -> Box:
    title = say(node.id)
    subtitle = f"{say(node.service.id)} v{node.service.version}"
    connections = node.connections
    names = service.input_ports if service else ()
    shown = len(connections)
    while service and shown > len(names) and connections[shown - 1] is None:
        shown -= 1  # clients list nulls for the ports of a newer version (contract)
    inputs = [
        Port(
            index,
            say(names[index]) if index < len(names) and names[index] else f"in {index}",
            index < len(connections) and connections[index] is not None,
            service is not None and index >= len(names),
        )
        for index in range(max(shown, len(names)))
    ]
    names = service.output_ports if service else ()
    outputs = [
        Port(
            index,
            say(names[index]) if index < len(names) and names[index] else f"out {index}",
            index in used,
            service is not None and index >= len(names),
        )
        for index in sorted(used | set(range(len(names))))
    ]
    values = [None if value is None else say(str(value)) for value in node.parameters]
    params = service.params if service else ()
    while service and len(values) > len(params) and values[-1] is None:
        values.pop()
    parameters = [
        (
            say(params[index].name or params[index].key) if index < len(params) else f"param {index}",
            values[index] if index < len(values) else None,
        )
        for index in range(max(len(values), len(params)))
    ]
    tooltip = f"{title}: {subtitle}"
    if service and service.description:
        tooltip += f", {say(service.description, 300)}"
    return Box(
        "node",
        title,
        subtitle,
        tooltip,
        inputs,
        outputs,
        parameters,
        problem="this id stands more than once" if twice else "",
        id=node.id,
    )


def _edges(workflow: Workflow, place: dict[str, int], boxes: list[Box], say: _Say, *, simple: bool) -> list[Edge]:
    """The connections; adds the boxes of literals and of what is missing. A simple picture marks the node instead."""
    edges: list[Edge] = []
    rows = [{port.index: row for row, port in enumerate(box.outputs)} for box in boxes]
    closing = _closing(workflow, place)
    missing: dict[tuple[str, int], int] = {}
    for target, node in enumerate(workflow.nodes):
        for into, connection in enumerate(node.connections):
            if connection is None:
                continue
            if connection.is_literal:
                if not simple:
                    boxes.append(_literal_box(connection, say))
                    edges.append(Edge(len(boxes) - 1, 0, target, into, "literal"))
                continue
            source = place.get(connection.node_id)
            if source is not None:
                kind: Literal["cycle", "flow"] = "cycle" if (source, target) in closing else "flow"
                edges.append(Edge(source, rows[source][connection.port_idx], target, into, kind))
                continue
            boxes[target].problem = boxes[target].problem or f"there is no node {say(connection.node_id, 100)!r}"
            if simple:
                continue
            key = (connection.node_id, connection.port_idx)
            if key not in missing:
                missing[key] = len(boxes)
                boxes.append(
                    Box(
                        "missing",
                        say(connection.node_id),
                        f"no such node, out {connection.port_idx}",
                        f"there is no node {say(connection.node_id)!r}",
                        problem="missing",
                    )
                )
            edges.append(Edge(missing[key], 0, target, into, "missing"))
    return edges


def _literal_box(connection: Connection, say: _Say) -> Box:
    title, below = say.literal(connection.node_id)
    return Box("literal", title, below, tooltip=f"literal {say(connection.node_id)}")


def _closing(workflow: Workflow, place: dict[str, int]) -> set[tuple[int, int]]:
    """The connections (source, target) that close a circle: those a walk along the flow finds on its own way."""
    follow: list[list[int]] = [[] for _ in workflow.nodes]
    waits = [0] * len(workflow.nodes)
    for target, node in enumerate(workflow.nodes):
        for connection in node.connections:
            if connection and not connection.is_literal and (source := place.get(connection.node_id)) is not None:
                follow[source].append(target)
                waits[target] += 1
    ready = deque(position for position, many in enumerate(waits) if not many)
    left = len(waits)
    while ready:
        left -= 1
        for target in follow[ready.popleft()]:
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    if not left:
        return set()
    closing: set[tuple[int, int]] = set()
    state = bytearray(len(follow))  # 0 not seen, 1 on the way, 2 done
    for start in range(len(follow)):
        if state[start]:
            continue
        way = [(start, iter(follow[start]))]
        state[start] = 1
        while way:
            position, rest = way[-1]
            for target in rest:
                if state[target] == 1:
                    closing.add((position, target))
                elif not state[target]:
                    state[target] = 1
                    way.append((target, iter(follow[target])))
                    break
            else:
                state[position] = 2
                way.pop()
    return closing


def _layers(boxes: list[Box], edges: list[Edge], nodes: int) -> None:
    """Longest-path layers of the nodes; literals and what is missing stand one before what they feed."""
    follow: list[list[int]] = [[] for _ in range(nodes)]
    waits = [0] * nodes
    for edge in edges:
        if edge.kind == "flow":
            follow[edge.source].append(edge.target)
            waits[edge.target] += 1
    ready = deque(position for position in range(nodes) if not waits[position])
    while ready:
        position = ready.popleft()
        for target in follow[position]:
            boxes[target].layer = max(boxes[target].layer, boxes[position].layer + 1)
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    first: dict[int, int] = {}
    for edge in edges:
        if edge.source >= nodes:
            layer = boxes[edge.target].layer - 1
            first[edge.source] = min(layer, first.get(edge.source, layer))
    for position, layer in first.items():
        boxes[position].layer = layer


def ports_shown(ports: list[Port]) -> tuple[list[Port], int]:
    """The ports that a box has room for, and how many more there are."""
    return (ports, 0) if len(ports) <= _MOST_PORTS else (ports[: _MOST_PORTS - 1], len(ports) - _MOST_PORTS + 1)
