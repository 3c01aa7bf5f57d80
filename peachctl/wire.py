"""Messages: Avro bytes to records and back. Workflow, service list, `service.config`, and the id event.

Whatever is refused raises WireError with the byte offset and the path of the field, such as
`nodes[3].connections[0].port_idx`. What is accepted here, the Avro reference implementation accepts with the same
value (tests/test_wire.py).
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from functools import cache
from typing import NoReturn

from peachctl.avro import MAGIC, SYNC_BYTES, Budget, Cursor, Reader, compile_schema, field_path, read_container
from peachctl.errors import WireError
from peachctl.jsonform import (
    DEFAULT_LIMITS,
    INT_LEAST,
    INT_MOST,
    Limits,
    Path,
    service_of,
    services_from_json,
    services_to_json,
    workflow_from_json,
    workflow_json_text,
    workflow_to_json,
)
from peachctl.plainwire import NODE_LEAST_BYTES, Unusual, decode_plain
from peachctl.workflow import (
    Connection,
    Double,
    Float,
    Node,
    Parameter,
    Service,
    ServiceRef,
    Workflow,
)

__all__ = [
    "DEFAULT_LIMITS",
    "Limits",
    "decode_file",
    "decode_id",
    "decode_service_config",
    "decode_services",
    "decode_workflow",
    "encode_id",
    "encode_service_config",
    "encode_services",
    "encode_workflow",
    "services_from_json",
    "services_to_json",
    "workflow_from_json",
    "workflow_json_text",
    "workflow_to_json",
]

SERVICE_LIST_BYTES = 4 << 20
SERVICE_VALUES = 50_000

_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")

_TEXT = "string"
_TEXTS = {"type": "array", "items": "string"}
# Key order is what the reference writes into a file made from the schema of 2017.
SERVICE_SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Service",
        "fields": [
            {"type": _TEXT, "name": "id"},
            {"type": _TEXT, "name": "name"},
            {"type": "int", "name": "version"},
            {"type": _TEXT, "name": "description"},
            {"type": _TEXTS, "name": "inputPorts"},
            {"type": _TEXTS, "name": "outputPorts"},
            {
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Parameter",
                        "fields": [
                            {"type": _TEXT, "name": "key"},
                            {"type": _TEXT, "name": "name"},
                            {"type": "int", "name": "parameterType"},
                        ],
                    },
                },
                "name": "params",
            },
        ],
    }
)


# Workflow ------------------------------------------------------------------------------------------------------------


def decode_workflow(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """The workflow of one Avro record `peach.workflow.dag`, nothing before and nothing after it.

    raises WireError with offset and field: cut or trailing bytes, a union branch that does not exist, a number beyond
    its bits or padded, text that is no UTF-8, a block whose size is wrong, more than the limits allow.
    """
    if len(body) > limits.message_bytes:
        raise WireError(
            f"message of {len(body)} bytes, the limit is {limits.message_bytes}", offset=limits.message_bytes
        )
    try:
        return decode_plain(body, limits)
    except (Unusual, IndexError, UnicodeDecodeError, struct.error):
        pass  # rare or wrong: read once more, slowly, by the reader that knows where it is
    try:
        return decode_any(body, limits)
    except WireError as error:
        error.hint = error.hint or _hint(body, limits)
        raise


def decode_any(body: bytes, limits: Limits) -> Workflow:
    """Reads whatever the specification allows, and knows where it is."""
    cursor = Cursor(body, Budget("ports and parameters", limits.values))
    path = cursor.path

    path.append("name")
    name = cursor.read_text()
    path[-1] = "user"
    user = cursor.read_text()
    path[-1] = "nodes"
    nodes = []
    for _ in cursor.items(Budget("nodes", limits.nodes), NODE_LEAST_BYTES):
        path.append("id")
        node_id = cursor.read_text()
        path[-1] = "service"
        path.append("id")
        service_id = cursor.read_text()
        path[-1] = "version"
        version = cursor.read_int()
        path.pop()
        path[-1] = "parameters"
        parameters = tuple([_any_parameter(cursor) for _ in cursor.items(cursor.budget)])
        path[-1] = "connections"
        connections = tuple([_any_connection(cursor) for _ in cursor.items(cursor.budget)])
        path.pop()
        nodes.append(Node(node_id, ServiceRef(service_id, version), parameters, connections))
    path.pop()
    cursor.finish("nodes")
    return Workflow(name, user, tuple(nodes))


def _any_parameter(cursor: Cursor) -> Parameter:
    branch = cursor.read_branch(5)
    if branch == 0:
        return cursor.read_text()
    if branch == 1:
        return cursor.read_int()
    if branch == 2:
        return Double(cursor.read_double())
    return Float(cursor.read_float()) if branch == 3 else None


def _any_connection(cursor: Cursor) -> Connection | None:
    if cursor.read_branch(2) == 1:
        return None
    cursor.path.append("port_idx")
    port = cursor.read_int()
    cursor.path[-1] = "node_id"
    node_id = cursor.read_text()
    cursor.path.pop()
    return Connection(port, node_id)


def _hint(body: bytes, limits: Limits) -> str | None:
    """What the bytes look like, when they are no workflow."""
    if body.startswith(MAGIC):
        return "this is an Avro container file; a workflow is sent bare (a service.config is shown by --type services)"
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return "this looks like JSON: a file of JSON is named .json or .wf"
    if body.startswith(b"\x1f\x8b"):
        return "this is a gzip file: unpack it first"
    if body[:1] == b"\0" and len(body) > 5:
        try:
            decode_any(body[5:], limits)
        except WireError:
            return None
        return "5 bytes of a schema registry stand before the record: Peach's messages have none"
    return None


def encode_workflow(workflow: Workflow) -> bytes:
    """The Avro record `peach.workflow.dag`, each array in one block, as the reference writes it.

    raises WireError with the field: an int beyond 32 bits, a float beyond single precision, text with half of a
    surrogate pair, a parameter of no known type.
    """
    out = bytearray()
    _put_text(out, workflow.name, ("name",))
    _put_text(out, workflow.user, ("user",))
    _put_count(out, len(workflow.nodes))
    for index, node in enumerate(workflow.nodes):
        path: Path = ("nodes", index)
        _put_text(out, node.id, (*path, "id"))
        _put_text(out, node.service.id, (*path, "service", "id"))
        _put_int(out, node.service.version, (*path, "service", "version"))
        _put_count(out, len(node.parameters))
        for k, value in enumerate(node.parameters):
            _put_parameter(out, value, (*path, "parameters", k))
        if node.parameters:
            out.append(0)
        _put_count(out, len(node.connections))
        for k, feed in enumerate(node.connections):
            if feed is None:
                out.append(2)
                continue
            out.append(0)
            _put_int(out, feed.port_idx, (*path, "connections", k, "port_idx"))
            _put_text(out, feed.node_id, (*path, "connections", k, "node_id"))
        if node.connections:
            out.append(0)
    if workflow.nodes:
        out.append(0)
    return bytes(out)


def _put_parameter(out: bytearray, value: object, path: Path) -> None:
    if value is None:
        out.append(8)
    elif isinstance(value, str):
        out.append(0)
        _put_text(out, value, path)
    elif isinstance(value, Float):
        out.append(6)
        try:
            out += _FLOAT.pack(value)
        except OverflowError:
            _refuse("a number beyond the range of a float", path)
    elif isinstance(value, float):
        out.append(4)
        out += _DOUBLE.pack(value)
    else:
        out.append(2)
        _put_int(out, value, path)


def _put_count(out: bytearray, count: int) -> None:
    _put_number(out, count << 1)


def _put_int(out: bytearray, value: object, path: Path) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(f"a value of type {type(value).__name__}, which the message cannot hold", path)
    if not INT_LEAST <= value <= INT_MOST:
        _refuse("a number that does not fit an int of 32 bits", path)
    _put_number(out, (value << 1) ^ (value >> 31))


def _put_number(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_text(out: bytearray, value: object, path: Path) -> None:
    if not isinstance(value, str):
        _refuse(f"a value of type {type(value).__name__}, where text is expected", path)
    try:
        data = value.encode()
    except UnicodeEncodeError:
        _refuse("text with half of a surrogate pair", path)
    _put_count(out, len(data))
    out += data


def _refuse(problem: str, path: Path) -> NoReturn:
    raise WireError(problem, field=field_path(path))


def may_be_json(name: str) -> bool:
    """Whether `decode_file` may take a file of this name for JSON."""
    return name == "-" or name.lower().endswith((".json", ".wf"))


def decode_file(body: bytes, name: str, limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """The workflow of a file: JSON when its name ends in `.json` or `.wf`, else Avro; `-` may be either.

    raises WireError; also when JSON holds more than a message may, for it would be refused on the road.
    """
    if may_be_json(name) and (name != "-" or body.lstrip(b"\xef\xbb\xbf")[:1] == b"{"):
        return _decode_json_file(body, limits)
    try:
        return decode_workflow(body, limits)
    except WireError:
        if name == "-" and body.lstrip()[:1] == b"{":
            return _decode_json_file(body, limits)
        raise


def _decode_json_file(body: bytes, limits: Limits) -> Workflow:
    try:
        workflow = workflow_from_json(body, limits)
    except WireError as error:
        if body.startswith(MAGIC) or _is_avro(body, limits):
            error.hint = "this is Avro, not JSON: a message is named .bin"
        raise
    size = len(encode_workflow(workflow))
    if size > limits.message_bytes:
        raise WireError(f"a message of {size} bytes, the limit is {limits.message_bytes}")
    return workflow


def _is_avro(body: bytes, limits: Limits) -> bool:
    try:
        decode_workflow(body, limits)
    except WireError:
        return False
    return True


# Services ------------------------------------------------------------------------------------------------------------


@cache
def _service_reader() -> Reader:
    return compile_schema(SERVICE_SCHEMA)


def decode_services(body: bytes) -> list[Service]:
    """The services of a list as it is published: Avro records `Service` one after another. None for no bytes.

    raises WireError with offset and field, such as `[2].inputPorts[0]`.
    """
    if len(body) > SERVICE_LIST_BYTES:
        raise WireError(f"list of {len(body)} bytes, the limit is {SERVICE_LIST_BYTES}", offset=SERVICE_LIST_BYTES)
    cursor = Cursor(body, Budget("services, ports and parameters", SERVICE_VALUES))
    services: list[Service] = []
    try:
        while cursor.pos < cursor.end:
            cursor.path[:] = [len(services)]
            services.append(service_of(_service_reader()(cursor), (len(services),)))
    except WireError as error:
        if body.startswith(MAGIC):
            error.hint = "this is an Avro container file, as a service.config is"
        raise
    return services


def encode_services(services: Iterable[Service]) -> bytes:
    """The Avro records of the services, one after another. raises WireError with the field."""
    out = bytearray()
    for index, service in enumerate(services):
        _put_service(out, service, (index,))
    return bytes(out)


def _put_service(out: bytearray, service: Service, path: Path) -> None:
    _put_text(out, service.id, (*path, "id"))
    _put_text(out, service.name, (*path, "name"))
    _put_int(out, service.version, (*path, "version"))
    _put_text(out, service.description, (*path, "description"))
    for key, ports in (("inputPorts", service.input_ports), ("outputPorts", service.output_ports)):
        _put_count(out, len(ports))
        for k, port in enumerate(ports):
            _put_text(out, port, (*path, key, k))
        if ports:
            out.append(0)
    _put_count(out, len(service.params))
    for k, param in enumerate(service.params):
        _put_text(out, param.key, (*path, "params", k, "key"))
        _put_text(out, param.name, (*path, "params", k, "name"))
        _put_int(out, param.parameter_type, (*path, "params", k, "parameterType"))
    if service.params:
        out.append(0)


def decode_service_config(body: bytes) -> Service:
    """The service of a `service.config`: an Avro container file with one record, by any writer's schema.

    Its fields may stand in any order, have further ones beside them, and be deflated. raises WireError.
    """
    if len(body) > SERVICE_LIST_BYTES:
        raise WireError(f"file of {len(body)} bytes, the limit is {SERVICE_LIST_BYTES}", offset=SERVICE_LIST_BYTES)
    try:
        records = read_container(body, Budget("records, ports and parameters", SERVICE_VALUES), SERVICE_LIST_BYTES)
    except WireError as error:
        if body.lstrip()[:1] == b"{":
            error.hint = "this looks like JSON; a service.config is an Avro container file"
        raise
    if len(records) != 1:
        raise WireError(f"{len(records)} records, where a service.config holds one service")
    return service_of(records[0], ())


def encode_service_config(service: Service) -> bytes:
    """A `service.config`, not compressed. The same service gives the same bytes: its sync marker is a hash of them."""
    record = bytearray()
    _put_service(record, service, ())
    head = bytearray(MAGIC)
    _put_count(head, 2)
    for key, value in (("avro.codec", "null"), ("avro.schema", SERVICE_SCHEMA)):
        _put_text(head, key, ())
        _put_text(head, value, ())
    head.append(0)
    sync = hashlib.sha256(head + record).digest()[:SYNC_BYTES]
    out = head + sync
    _put_count(out, 1)
    _put_count(out, len(record))
    return bytes(out + record + sync)


# The id event --------------------------------------------------------------------------------------------------------

_ID = re.compile(rb"[1-9][0-9]{0,18}")


def encode_id(row: int) -> bytes:
    """The event that a row was filed: its id in decimal ASCII. raises WireError for what is no row's id."""
    body = b"%d" % row
    decode_id(body)
    return body


def decode_id(body: bytes) -> int:
    """The row's id of an event: 1 to 2**63 - 1, decimal ASCII, no sign, blank or leading zero. raises WireError."""
    if not _ID.fullmatch(body) or int(body) > 0x7FFF_FFFF_FFFF_FFFF:
        raise WireError(f"{body[:24]!r} is not the id of a row", field="id", offset=0)
    return int(body)
