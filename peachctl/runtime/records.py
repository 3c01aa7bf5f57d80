"""What a workflow script is made of: small records that say what feeds what. Nothing here runs anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Literal:
    """A text that is handed to the service as it is; never taken for the name of a node."""

    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """What output port `port` (0 is the first) of node `node` returned."""

    node: str
    port: int


Input: TypeAlias = Literal | Output | None


@dataclass(frozen=True, slots=True)
class Call:
    """One node: the service it runs, what feeds its input ports, and its parameters (texts, or None: not set)."""

    service: str
    version: int
    inputs: tuple[Input, ...]
    parameters: tuple[str | None, ...]


Graph: TypeAlias = Mapping[str, Call]


def literal(text: str) -> Literal:
    """A literal (a path, a URI) for an input port."""
    return Literal(text)


def output(node: str, port: int) -> Output:
    """Output port `port` of node `node`, for an input port of another node."""
    return Output(node, port)


def node(service: str, version: int, inputs: Sequence[Input], parameters: Sequence[str | None]) -> Call:
    """A node that runs `service` at `version`. An input or a parameter that is None is not connected, or not set."""
    return Call(service, version, tuple(inputs), tuple(parameters))
