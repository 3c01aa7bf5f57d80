"""A workflow as it travels the road: frozen values, what can be wrong with them, and the order of their nodes.

The records follow the Avro record `peach.workflow.dag`; `wire` holds how they are written.
"""

from dataclasses import dataclass
from typing import TypeAlias


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


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a workflow. code: stable, such as `cycle`; where: field path or node id."""

    code: str
    where: str
    message: str
