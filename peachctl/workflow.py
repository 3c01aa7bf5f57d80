"""A workflow as it travels the road: frozen values, what can be wrong with them, and the order of their nodes.

The records follow the Avro record `peach.workflow.dag`; `wire` holds how they are written.
"""

import difflib
import heapq
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias, TypeVar

from peachctl.errors import PeachError

# What a hostile workflow may cost: problems told one by one, nearest names looked for, and among how many.
MOST_PROBLEMS = 1000
MOST_SUGGESTIONS = 50
MOST_CANDIDATES = 1000


class Double(float):
    """A parameter that came as an Avro double (and what a JSON number with a point becomes)."""

    __slots__ = ()


class Float(float):
    """A parameter that came as an Avro float; its value is already rounded to single precision."""

    __slots__ = ()


Parameter: TypeAlias = str | int | Double | Float | None


@dataclass(frozen=True, slots=True)
class ServiceRef:
    """The service that a node runs: its id and version."""

    id: str
    version: int


@dataclass(frozen=True, slots=True)
class Connection:
    """What feeds an input port: output port `port_idx` (>= 0) of node `node_id`, or a literal (port_idx < 0)."""

    port_idx: int
    node_id: str

    @property
    def is_literal(self) -> bool:
        return self.port_idx < 0


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `connections[i]` feeds input port i (None: not connected); `parameters[k]` is parameter k."""

    id: str
    service: ServiceRef
    parameters: tuple[Parameter, ...]
    connections: tuple[Connection | None, ...]


@dataclass(frozen=True, slots=True)
class Workflow:
    """A whole workflow."""

    name: str
    user: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ServiceParameter:
    """One declared parameter of a service; parameter_type 0 text, 1 int, 2 float, 3 long, 4 double, 5 text, 6 bool."""

    key: str
    name: str
    parameter_type: int


@dataclass(frozen=True, slots=True)
class Service:
    """A service as `service.config` and the service list describe it."""

    id: str
    name: str
    version: int
    description: str
    input_ports: tuple[str, ...]
    output_ports: tuple[str, ...]
    params: tuple[ServiceParameter, ...]


Hub: TypeAlias = Mapping[str, Mapping[int, Service]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a workflow. code: stable, such as `cycle`; where: field path or node id."""

    code: str
    where: str
    message: str


def check(workflow: Workflow, hub: Hub | None) -> list[Problem]:
    """All that is wrong with a workflow, in the order of its nodes, then its cycles; an empty list when nothing is.

    hub: services by id and version; None checks the graph alone. `where` of a problem is its field path, such as
    `nodes[3].connections[0]`. The codes stay as they are:

    - `no-nodes`: the workflow has none
    - `empty-id`, `duplicate-id`: a node without an id; an id that an earlier node has
    - `self-loop`: a node fed by itself
    - `dangling`: a connection to a node that does not exist
    - `cycle`: nodes that feed each other, named `a -> b -> a`; once for each knot of cycles, by a shortest one of it
    - `unknown-service`, `unknown-version`: not in the hub
    - `unknown-port`: an output port that the service of the feeding node does not have
    - `extra-connection`, `extra-parameter`: a value beyond what the service declares (nulls beyond are fine)
    - `more`: only the first 1,000 problems are told, this says how many more there are

    Messages show names escaped and cut, and never a value: parameters and literals may carry passwords.
    """
    if not workflow.nodes:
        return [Problem("no-nodes", "nodes", "the workflow has no nodes")]
    ids = _first_of_each_id(workflow.nodes)
    if hub is not None and _is_sound(workflow.nodes, ids, hub):
        return []
    found = _Problems()
    nearest_id = _Nearest(ids)
    nearest_service = _Nearest(hub or ())
    for index, node in enumerate(workflow.nodes):
        _check_id(found, index, node, ids)
        _check_connections(found, index, node, workflow.nodes, ids, hub, nearest_id)
        if hub is not None:
            _check_service(found, index, node, hub, nearest_service)
    # Clients list nodes as they were drawn: most often after those that feed them, and then there is no cycle.
    feeds = [] if _in_order(workflow.nodes, ids) else _feeds(workflow.nodes, ids)
    for knot in _knots(feeds):
        path = _cycle(feeds, knot)
        names = [plain_or_shown(workflow.nodes[index].id) for index in path]
        if len(names) > 12:
            names = [*names[:6], f"({len(names) - 12} more)", *names[-6:]]
        found.add("cycle", f"nodes[{path[0]}]", f"nodes that wait for each other: {' -> '.join(names)}")
    return found.all()


def order(workflow: Workflow) -> list[Node]:
    """The nodes, each after those that feed it; else in the order in which the workflow lists them.

    raises PeachError on a cycle. Connections to nodes that do not exist, or of a node to itself, do not count.
    """
    nodes = workflow.nodes
    ids = _first_of_each_id(nodes)
    if _in_order(nodes, ids):
        return list(nodes)
    feeds = _feeds(nodes, ids)
    fed: list[list[int]] = [[] for _ in nodes]
    for index, sources in enumerate(feeds):
        for source in sources:
            fed[source].append(index)
    waits = [len(sources) for sources in feeds]
    ready = [index for index, count in enumerate(waits) if count == 0]
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(nodes[index])
        for target in fed[index]:
            waits[target] -= 1
            if waits[target] == 0:
                heapq.heappush(ready, target)
    if len(ordered) < len(nodes):
        waiting = next(index for index, count in enumerate(waits) if count)
        raise PeachError(f"node {shown(nodes[waiting].id)} waits for a node that waits for it: there is no order")
    return ordered


def fitted(node: Node, service: Service) -> Node:
    """The node with exactly one connection per input port and one parameter per declared one of its service.

    Missing ones are None, nulls beyond are dropped. raises PeachError where a value stands beyond what is declared.
    """
    connections: tuple[Connection | None, ...] = _fitted(node, node.connections, len(service.input_ports), "input port")
    parameters: tuple[Parameter, ...] = _fitted(node, node.parameters, len(service.params), "parameter")
    return replace(node, connections=connections, parameters=parameters)


def shown(name: str, most: int = 80) -> str:
    """A name in quotes, for people: what does not print is escaped, what is long is cut."""
    return repr(name) if len(name) <= most else repr(name[:most]) + "..."


def plain_or_shown(name: str) -> str:
    """The name as it is when it is an ordinary word, else as `shown` has it."""
    return name if len(name) <= 80 and _ORDINARY.fullmatch(name) else shown(name)


_ORDINARY = re.compile(r"[\w.@+:-]+")

_Item = TypeVar("_Item")


def _fitted(node: Node, given: tuple[_Item | None, ...], declared: int, what: str) -> tuple[_Item | None, ...]:
    if any(item is not None for item in given[declared:]):
        raise PeachError(f"node {shown(node.id)} has a value for {what} {declared}, which its service does not have")
    return given[:declared] + (None,) * (declared - len(given))


class _Problems:
    """Problems told one by one up to a number, and counted beyond it."""

    def __init__(self) -> None:
        self.told: list[Problem] = []
        self.untold = 0

    def add(self, code: str, where: str, message: str) -> None:
        if len(self.told) < MOST_PROBLEMS:
            self.told.append(Problem(code, where, message))
        else:
            self.untold += 1

    def all(self) -> list[Problem]:
        if self.untold:
            self.told.append(Problem("more", "nodes", f"and {self.untold} more problems"))
        return self.told


class _Nearest:
    """The known name that looks most like an unknown one. Gives up after some searches: each costs milliseconds."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = names
        self.by_lower: dict[str, str] | None = None
        self.answers: dict[str, str] = {}

    def hint(self, name: str) -> str:
        """`; the nearest is 'x'`, or an empty text."""
        if name not in self.answers:
            if len(self.answers) >= MOST_SUGGESTIONS:
                return ""
            if self.by_lower is None:
                self.by_lower = {known[:80].lower(): known for known in islice(self.names, MOST_CANDIDATES)}
            close = difflib.get_close_matches(name[:80].lower(), self.by_lower, n=1)
            self.answers[name] = f"; the nearest is {shown(self.by_lower[close[0]])}" if close else ""
        return self.answers[name]


def _first_of_each_id(nodes: Sequence[Node]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, node in enumerate(nodes):
        ids.setdefault(node.id, index)
    return ids


def _is_sound(nodes: Sequence[Node], ids: Mapping[str, int], hub: Hub) -> bool:
    """Whether nothing is wrong with nodes that are listed in their order, which is what almost all messages hold; False
    says nothing. A third of the time of the checks that can name a problem."""
    services: list[Service] = []
    for index, node in enumerate(nodes):
        service = hub.get(node.service.id, {}).get(node.service.version)
        if (
            service is None
            or not node.id
            or ids[node.id] != index
            or len(node.connections) > len(service.input_ports)
            or len(node.parameters) > len(service.params)
        ):
            return False
        for feed in node.connections:
            if feed is None or feed.port_idx < 0:
                continue
            source = ids.get(feed.node_id, index)
            if source >= index or feed.port_idx >= len(services[source].output_ports):
                return False
        services.append(service)
    return True


def _check_id(found: _Problems, index: int, node: Node, ids: Mapping[str, int]) -> None:
    where = f"nodes[{index}].id"
    if not node.id:
        found.add("empty-id", where, "a node with an empty id")
    elif ids[node.id] != index:
        found.add("duplicate-id", where, f"the id {shown(node.id)} is also that of nodes[{ids[node.id]}]")


def _check_connections(
    found: _Problems,
    index: int,
    node: Node,
    nodes: Sequence[Node],
    ids: Mapping[str, int],
    hub: Hub | None,
    nearest: _Nearest,
) -> None:
    for k, feed in enumerate(node.connections):
        if feed is None or feed.is_literal:
            continue
        where = f"nodes[{index}].connections[{k}]"
        if feed.node_id not in ids:
            message = (
                f"input port {k} of node {shown(node.id)} is fed by node {shown(feed.node_id)}, which is not there"
            )
            found.add("dangling", where, message + nearest.hint(feed.node_id))
            continue
        if feed.node_id == node.id:
            found.add("self-loop", where, f"input port {k} of node {shown(node.id)} is fed by the node itself")
        source = nodes[ids[feed.node_id]]
        service = (hub or {}).get(source.service.id, {}).get(source.service.version)
        if service is not None and feed.port_idx >= len(service.output_ports):
            message = f"input port {k} of node {shown(node.id)} is fed by output port {feed.port_idx} of node "
            found.add("unknown-port", where, f"{message}{shown(source.id)}, whose service has {_ports(service)}")


def _check_service(found: _Problems, index: int, node: Node, hub: Hub, nearest: _Nearest) -> None:
    versions = hub.get(node.service.id)
    service = versions.get(node.service.version) if versions else None
    if (
        service is not None
        and len(node.connections) <= len(service.input_ports)
        and len(node.parameters) <= len(service.params)
    ):
        return
    where = f"nodes[{index}].service"
    name = shown(node.service.id)
    if not versions:
        message = f"node {shown(node.id)} runs service {name}, which the hub does not have"
        found.add("unknown-service", f"{where}.id", message + nearest.hint(node.service.id))
        return
    if service is None:
        known = ", ".join(str(version) for version in sorted(versions)[-20:])
        message = f"node {shown(node.id)} runs version {node.service.version} of service {name}; the hub has {known}"
        found.add("unknown-version", f"{where}.version", message)
        return
    declared = (
        ("connections", "extra-connection", "input port", node.connections, len(service.input_ports)),
        ("parameters", "extra-parameter", "parameter", node.parameters, len(service.params)),
    )
    for field, code, what, given, count in declared:
        for k in range(count, len(given)):
            if given[k] is not None:
                message = f"node {shown(node.id)} has a value for {what} {k}, but service {name} has {count or 'none'}"
                found.add(code, f"nodes[{index}].{field}[{k}]", message)


def _ports(service: Service) -> str:
    ports = service.output_ports
    if not ports:
        return "no output ports"
    listed = ", ".join(f"{k} {shown(port, 40)}" for k, port in enumerate(ports[:20]))
    return f"{listed}, ..." if len(ports) > 20 else listed


def _feeds(nodes: Sequence[Node], ids: Mapping[str, int]) -> list[list[int]]:
    """For each node the indexes of those that feed it, each once; one that feeds itself is left out."""
    feeds = []
    for index, node in enumerate(nodes):
        sources = {
            ids[feed.node_id]: None
            for feed in node.connections
            if feed is not None and feed.port_idx >= 0 and feed.node_id in ids
        }
        sources.pop(index, None)
        feeds.append(list(sources))
    return feeds


def _in_order(nodes: Sequence[Node], ids: Mapping[str, int]) -> bool:
    """Whether each node stands behind those that feed it; one that feeds itself does not count."""
    for index, node in enumerate(nodes):
        for feed in node.connections:
            if feed is not None and feed.port_idx >= 0 and ids.get(feed.node_id, index) > index:
                return False
    return True


def _knots(edges: Sequence[Sequence[int]]) -> list[list[int]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm without recursion."""
    unseen = -1
    number = [unseen] * len(edges)
    low = [0] * len(edges)
    open_ = [False] * len(edges)
    stack: list[int] = []
    knots = []
    count = 0
    for root in range(len(edges)):
        if number[root] != unseen:
            continue
        trail = [(root, iter(edges[root]))]
        number[root] = low[root] = count
        count += 1
        stack.append(root)
        open_[root] = True
        while trail:
            here, rest = trail[-1]
            for there in rest:
                if number[there] == unseen:
                    number[there] = low[there] = count
                    count += 1
                    stack.append(there)
                    open_[there] = True
                    trail.append((there, iter(edges[there])))
                    break
                if open_[there]:
                    low[here] = min(low[here], number[there])
            else:
                trail.pop()
                if trail:
                    low[trail[-1][0]] = min(low[trail[-1][0]], low[here])
                if low[here] == number[here]:
                    knot = []
                    while True:
                        member = stack.pop()
                        open_[member] = False
                        knot.append(member)
                        if member == here:
                            break
                    if len(knot) > 1:
                        knots.append(sorted(knot))
    return sorted(knots)


def _cycle(feeds: Sequence[Sequence[int]], knot: Sequence[int]) -> list[int]:
    """A shortest cycle through the first node of a knot, in the direction of the data; first and last are the same."""
    inside = set(knot)
    first = knot[0]
    # Walks against the data, from a node to what feeds it; so the way found, read backwards, runs with it.
    fed_by_way: dict[int, int] = {}
    queue = deque([first])
    while queue:
        here = queue.popleft()
        for source in feeds[here]:
            if source == first:
                path = [first, here]
                while here != first:
                    here = fed_by_way[here]
                    path.append(here)
                return path
            if source in inside and source not in fed_by_way:
                fed_by_way[source] = here
                queue.append(source)
    raise AssertionError("a knot without a cycle")
