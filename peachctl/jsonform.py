"""Workflows and services as JSON: what the column `workflow_json`, `.wf` files and `decode -o json` hold.

Fields stand in the order and under the names of the wire. An int is a number without a point, a double or float one
with a point (read again it is a double), a not finite one the text "NaN", "Infinity" or "-Infinity". The text is ASCII
only, so that a column of any character set holds it unchanged. Read strictly, but unknown keys are ignored.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from peachctl.avro import field_path
from peachctl.errors import WireError
from peachctl.workflow import (
    Connection,
    Double,
    Node,
    Parameter,
    Service,
    ServiceParameter,
    ServiceRef,
    Workflow,
)

Path: TypeAlias = tuple[str | int, ...]

INT_LEAST, INT_MOST = -0x8000_0000, 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a message may be before it is refused.

    message_bytes: of the Avro message (Kafka's default of 1 MiB). nodes: of one workflow.
    """

    message_bytes: int = 1 << 20
    nodes: int = 20_000

    @property
    def values(self) -> int:
        """Most ports and parameters of all nodes together, nulls included: no byte of bloat is cheaper than a null."""
        return max(200_000, 10 * self.nodes)

    @property
    def json_bytes(self) -> int:
        """Most bytes as JSON, so that what was decoded can be read back: 5 bytes of an empty node become 86 there."""
        return 18 * self.message_bytes + 64


DEFAULT_LIMITS = Limits()


class _Twice(dict[str, object]):
    """A JSON object in which keys stood more than once: refused only where such a key is read."""

    keys_twice: frozenset[str] = frozenset()


def workflow_to_json(workflow: Workflow) -> dict[str, object]:
    """The workflow as JSON values, fields as on the wire. For the exact text use `workflow_json_text`."""
    return {
        "name": workflow.name,
        "user": workflow.user,
        "nodes": [
            {
                "id": node.id,
                "service": {"id": node.service.id, "version": node.service.version},
                "parameters": [parameter_to_json(value) for value in node.parameters],
                "connections": [
                    None if feed is None else {"port_idx": feed.port_idx, "node_id": feed.node_id}
                    for feed in node.connections
                ],
            }
            for node in workflow.nodes
        ],
    }


def workflow_json_text(workflow: Workflow) -> str:
    """The JSON text of the workflow, exactly what the column `workflow_json` holds: one line, ASCII, deterministic."""
    # Written by hand: json.dumps writes 1e22 without a point, and an int when it is read again would be no double.
    text = _quoted
    nodes = []
    for node in workflow.nodes:
        parameters = ", ".join([_number_or_text(value) for value in node.parameters])
        connections = ", ".join(
            [
                "null" if feed is None else f'{{"port_idx": {feed.port_idx}, "node_id": {text(feed.node_id)}}}'
                for feed in node.connections
            ]
        )
        nodes.append(
            f'{{"id": {text(node.id)}, "service": {{"id": {text(node.service.id)}, "version": {node.service.version}}},'
            f' "parameters": [{parameters}], "connections": [{connections}]}}'
        )
    return f'{{"name": {text(workflow.name)}, "user": {text(workflow.user)}, "nodes": [{", ".join(nodes)}]}}'


_quoted = json.encoder.encode_basestring_ascii


def parameter_to_json(value: Parameter) -> object:
    """A parameter as a JSON value."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value)
    return value


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _number_or_text(value: Parameter) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return f'"{_not_finite(value)}"'
    digits = float.__repr__(value)
    return digits if "." in digits else digits.replace("e", ".0e")


def workflow_from_json(value: object, limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """The workflow of a JSON text (str or bytes), or of the values that one was parsed to.

    A number with a point or an exponent becomes a Double; texts stay texts, "NaN" too. raises WireError with the
    field's path: no JSON, a key missing or given twice, a wrong type, an int beyond 32 bits, a lone surrogate, more
    than the limits allow.
    """
    if isinstance(value, str | bytes):
        value = parse_json(value, limits.json_bytes)
    entries = _list(value, "nodes", ())
    if len(entries) > limits.nodes:
        raise WireError(f"{len(entries)} nodes, the limit is {limits.nodes}", field="nodes")
    left = limits.values
    nodes = []
    for index, entry in enumerate(entries):
        path: Path = ("nodes", index)
        service, beneath = _member(entry, "service", path), (*path, "service")
        parameters, connections = _list(entry, "parameters", path), _list(entry, "connections", path)
        left -= len(parameters) + len(connections)
        if left < 0:
            raise WireError(f"more ports and parameters than the limit of {limits.values}", field=field_path(path))
        nodes.append(
            Node(
                _text(entry, "id", path),
                ServiceRef(_text(service, "id", beneath), _int(service, "version", beneath)),
                tuple([_parameter(item, (*path, "parameters", k)) for k, item in enumerate(parameters)]),
                tuple([_connection(item, (*path, "connections", k)) for k, item in enumerate(connections)]),
            )
        )
    return Workflow(_text(value, "name", ()), _text(value, "user", ()), tuple(nodes))


def services_to_json(services: Sequence[Service]) -> list[dict[str, object]]:
    """The services as JSON values, keys as on the wire (`inputPorts`, `outputPorts`, `params`, `parameterType`)."""
    return [
        {
            "id": service.id,
            "name": service.name,
            "version": service.version,
            "description": service.description,
            "inputPorts": list(service.input_ports),
            "outputPorts": list(service.output_ports),
            "params": [
                {"key": param.key, "name": param.name, "parameterType": param.parameter_type}
                for param in service.params
            ],
        }
        for service in services
    ]


def services_from_json(value: object, limits: Limits = DEFAULT_LIMITS) -> list[Service]:
    """The services of a JSON text (str or bytes) or of parsed values: a list of them, or a single one.

    raises WireError with the field's path, such as `[1].params[0].key`.
    """
    if isinstance(value, str | bytes):
        value = parse_json(value, limits.json_bytes)
    if isinstance(value, Mapping):
        return [service_of(value, ())]
    if not isinstance(value, list):
        raise _mistyped("a list of services", value, ())
    return [service_of(entry, (index,)) for index, entry in enumerate(value)]


def service_of(record: object, path: Path) -> Service:
    """The service that JSON values, or a record read with a writer's own schema, describe. path: where it stands."""
    params = []
    for index, entry in enumerate(_list(record, "params", path)):
        where: Path = (*path, "params", index)
        params.append(
            ServiceParameter(
                _text(entry, "key", where), _text(entry, "name", where), _int(entry, "parameterType", where)
            )
        )
    return Service(
        id=_text(record, "id", path),
        name=_text(record, "name", path),
        version=_int(record, "version", path),
        description=_text(record, "description", path),
        input_ports=_texts(record, "inputPorts", path),
        output_ports=_texts(record, "outputPorts", path),
        params=tuple(params),
    )


def parse_json(text: str | bytes, most: int) -> object:
    """The values of a JSON text; bytes are UTF-8 with or without a byte order mark. most: characters or bytes.

    raises WireError: too long, no UTF-8, no JSON, nested too deep, NaN or Infinity outside quotes.
    """
    if len(text) > most:
        raise WireError(f"JSON of {len(text)} bytes, the limit is {most}")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value: object = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        # Python counts from behind the byte order mark.
        raise WireError("text that is not UTF-8", offset=error.start + len(text) - len(error.object)) from None
    except json.JSONDecodeError as error:
        raise WireError(
            f"no JSON: {error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise WireError("JSON nested too deep") from None
    except ValueError:
        raise WireError("JSON with a number of thousands of digits") from None  # int() refuses to read such a one
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    twice = _Twice(plain)
    counts = Counter(key for key, _ in pairs)
    twice.keys_twice = frozenset(key for key, count in counts.items() if count > 1)
    return twice


def _constant(name: str) -> object:
    raise WireError(f'no JSON: {name} stands outside quotes; write "{name}"')


def _member(record: object, key: str, path: Path) -> object:
    if not isinstance(record, Mapping):
        raise _mistyped("a JSON object", record, path)
    if key not in record:
        raise WireError("this field is missing", field=field_path((*path, key)))
    if isinstance(record, _Twice) and key in record.keys_twice:
        raise WireError("this field stands there more than once", field=field_path((*path, key)))
    return record[key]


def _list(record: object, key: str, path: Path) -> list[object]:
    value = _member(record, key, path)
    if not isinstance(value, list):
        raise _mistyped("a list", value, (*path, key))
    return value


def _text(record: object, key: str, path: Path) -> str:
    return _checked_text(_member(record, key, path), (*path, key))


def _texts(record: object, key: str, path: Path) -> tuple[str, ...]:
    return tuple([_checked_text(item, (*path, key, index)) for index, item in enumerate(_list(record, key, path))])


def _checked_text(value: object, path: Path) -> str:
    if not isinstance(value, str):
        raise _mistyped("text", value, path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise WireError("text with half of a surrogate pair", field=field_path(path)) from None
    return value


def _int(record: object, key: str, path: Path) -> int:
    return _checked_int(_member(record, key, path), (*path, key))


def _checked_int(value: object, path: Path) -> int:
    if type(value) is not int:  # a bool is an int in Python, and no int in JSON
        raise _mistyped("a whole number", value, path)
    if not INT_LEAST <= value <= INT_MOST:
        raise WireError("a number that does not fit an int of 32 bits", field=field_path(path))
    return value


def _parameter(value: object, path: Path) -> Parameter:
    if value is None:
        return None
    if isinstance(value, str):
        return _checked_text(value, path)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WireError("a number beyond the range of a double", field=field_path(path))
        return Double(value)
    if type(value) is int:
        return _checked_int(value, path)
    raise _mistyped("text, a number or null", value, path)


def _connection(value: object, path: Path) -> Connection | None:
    return None if value is None else Connection(_int(value, "port_idx", path), _text(value, "node_id", path))


def _mistyped(wanted: str, value: object, path: Path) -> WireError:
    # The type only: the value may be a URI that carries a password.
    kinds = {dict: "an object", _Twice: "an object", list: "a list", str: "text", bool: "true or false"}
    got = "null" if value is None else kinds.get(type(value), "a number")
    return WireError(f"{got} where {wanted} is expected", field=field_path(path))
