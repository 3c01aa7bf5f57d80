"""Mutated messages, read by peachctl and by the Avro reference implementation: what we accept, it accepts alike.

    python benchmarks/fuzz_wire.py [--count 400000] [--seed 1]

Holds for each message: nothing but WireError is raised; the fast and the careful decoder agree; the reference accepts
what we accept, with the same value; what only we refuse, we refuse for one of the reasons that are ours. Exit status 1
at the first message that breaks one of these; it is printed as hex.
"""

import argparse
import io
import math
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import avro.datafile
import avro.io
import avro.schema

sys.path.insert(0, str(Path(__file__).parent.parent))

from peachctl.errors import WireError
from peachctl.jsonform import DEFAULT_LIMITS
from peachctl.plainwire import Unusual, decode_plain
from peachctl.wire import (
    SERVICE_SCHEMA,
    decode_any,
    decode_service_config,
    decode_services,
    decode_workflow,
    encode_service_config,
    encode_services,
    encode_workflow,
    services_to_json,
    workflow_from_json,
    workflow_json_text,
)
from peachctl.workflow import (
    Connection,
    Double,
    Float,
    Node,
    Parameter,
    Service,
    ServiceParameter,
    ServiceRef,
    Workflow,
)

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"

WORKFLOW_SCHEMA = """{"type": "record", "namespace": "peach.workflow", "name": "dag", "fields": [
 {"name": "name", "type": "string"}, {"name": "user", "type": "string"},
 {"name": "nodes", "type": {"type": "array", "items": {"type": "record", "name": "node", "fields": [
  {"name": "id", "type": "string"},
  {"name": "service", "type": {"type": "record", "name": "service", "fields": [
   {"name": "id", "type": "string"}, {"name": "version", "type": "int"}]}},
  {"name": "parameters", "type": {"type": "array", "items": ["string", "int", "double", "float", "null"]}},
  {"name": "connections", "type": {"type": "array", "items": [{"type": "record", "name": "connection", "fields": [
   {"name": "port_idx", "type": "int"}, {"name": "node_id", "type": "string"}]}, "null"]}}]}}}]}"""

# Refusals that the reference does not share: it lets these pass.
OURS = (
    "does not fit an int of 32 bits",
    "padded with empty bytes",
    "than the limit of",
    "block whose items end",
    "block of",  # a block's size that the input cannot hold; the reference skips the number
    "bytes too many",
)


@dataclass
class Tally:
    """What became of the messages: accepted by both, refused by both, refused by us alone (by reason)."""

    accepted: int = 0
    refused: int = 0
    ours_alone: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


class Broken(Exception):
    """A message for which the promise does not hold."""

    def __init__(self, what: str, body: bytes) -> None:
        super().__init__(f"{what}: {body.hex()}")


# Seeds ---------------------------------------------------------------------------------------------------------------

_TEXTS = ["", "a", "node_1", "ct.dcm", "Überblick 検査 🜁", "x" * 70, "\0", '{"user": "u", "password": "p"}', "NaN"]
_NUMBERS = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, 2**31 - 1, -(2**31)]
_REALS = [0.0, -0.0, 1.0, 0.1, 1e22, 5e-324, math.inf, -math.inf, math.nan]


def random_workflow(rng: random.Random) -> Workflow:
    """A workflow of up to five nodes out of awkward values."""

    def parameter() -> Parameter:
        kind = rng.randrange(5)
        if kind == 0:
            return rng.choice(_TEXTS)
        if kind == 1:
            return rng.choice(_NUMBERS)
        real = rng.choice(_REALS)
        if kind == 2:
            return Double(real)
        return Float(struct.unpack("<f", struct.pack("<f", real))[0]) if kind == 3 else None

    def connection() -> Connection | None:
        return None if rng.random() < 0.3 else Connection(rng.choice([0, 1, -1, 70, 2**31 - 1]), rng.choice(_TEXTS))

    nodes = [
        Node(
            rng.choice(_TEXTS),
            ServiceRef(rng.choice(_TEXTS), rng.choice(_NUMBERS)),
            tuple(parameter() for _ in range(rng.randrange(5))),
            tuple(connection() for _ in range(rng.randrange(5))),
        )
        for _ in range(rng.randrange(5))
    ]
    return Workflow(rng.choice(_TEXTS), rng.choice(_TEXTS), tuple(nodes))


def number(value: int) -> bytes:
    """A zigzag number of any size."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def in_blocks(rng: random.Random, items: list[bytes]) -> bytes:
    """An array of encoded items, cut into blocks at random, some of them with their size in bytes."""
    out = b""
    while items:
        count = rng.randint(1, len(items))
        block, items = b"".join(items[:count]), items[count:]
        out += number(-count) + number(len(block)) + block if rng.random() < 0.5 else number(count) + block
    return out + b"\0"


def encode_in_blocks(rng: random.Random, workflow: Workflow) -> bytes:
    """The workflow in one of the many forms that the specification allows beside the plain one."""

    def text(value: str) -> bytes:
        return number(len(value.encode())) + value.encode()

    def parameter(value: Parameter) -> bytes:
        if isinstance(value, str):
            return number(0) + text(value)
        if isinstance(value, Float):
            return number(3) + struct.pack("<f", value)
        if isinstance(value, float):
            return number(2) + struct.pack("<d", value)
        return number(4) if value is None else number(1) + number(value)

    def connection(feed: Connection | None) -> bytes:
        return number(1) if feed is None else number(0) + number(feed.port_idx) + text(feed.node_id)

    nodes = [
        text(node.id)
        + text(node.service.id)
        + number(node.service.version)
        + in_blocks(rng, [parameter(value) for value in node.parameters])
        + in_blocks(rng, [connection(feed) for feed in node.connections])
        for node in workflow.nodes
    ]
    return text(workflow.name) + text(workflow.user) + in_blocks(rng, nodes)


def random_service(rng: random.Random) -> Service:
    """A service out of awkward values."""
    ports = [tuple(rng.choice(_TEXTS) for _ in range(rng.randrange(4))) for _ in range(2)]
    params = [
        ServiceParameter(rng.choice(_TEXTS), rng.choice(_TEXTS), rng.randrange(7)) for _ in range(rng.randrange(3))
    ]
    texts = [rng.choice(_TEXTS) for _ in range(3)]
    return Service(texts[0], texts[1], rng.choice(_NUMBERS), texts[2], ports[0], ports[1], tuple(params))


_BYTES = [0, 1, 2, 3, 4, 6, 8, 9, 10, 0x7F, 0x80, 0xC0, 0xED, 0xFE, 0xFF]


def mutate(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """The message after one to four small accidents: bits, bytes, cuts, copies, numbers put in, a piece of another."""
    out = bytearray(body)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(10)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice(_BYTES)
        elif kind == 2:
            out[at:at] = bytes(rng.choice(_BYTES) for _ in range(rng.randint(1, 4)))
        elif kind == 3:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        elif kind == 6:
            out[at:at] = number(rng.choice((1, -1)) * (1 << rng.randrange(63)))
        elif kind == 7:
            start = rng.randrange(len(other) + 1)
            out[at:] = other[start:]
        elif kind == 8 and at < len(out) and out[at] < 0x80:  # the same number, padded
            out[at : at + 1] = bytes([out[at] | 0x80]) + b"\x80" * rng.randrange(10) + b"\0"
        elif kind == 9 and at < len(out):  # another small number
            out[at] = (out[at] + rng.choice((-2, -1, 1, 2))) & 0x7F
    return bytes(out)


# The reference -------------------------------------------------------------------------------------------------------

_DAG = avro.io.DatumReader(avro.schema.parse(WORKFLOW_SCHEMA))
_SERVICE = avro.io.DatumReader(avro.schema.parse(SERVICE_SCHEMA))


def reference_workflow(body: bytes) -> object:
    """What the reference makes of the whole of the bytes; raises whatever it raises, ValueError for trailing bytes."""
    stream = io.BytesIO(body)
    value = _DAG.read(avro.io.BinaryDecoder(stream))
    if stream.read(1):
        raise ValueError("trailing bytes")
    return value


def reference_services(body: bytes) -> list[object]:
    """The reference on a list of services."""
    stream = io.BytesIO(body)
    services = []
    while stream.tell() < len(body):
        services.append(_SERVICE.read(avro.io.BinaryDecoder(stream)))
    return services


def reference_file(body: bytes) -> list[object]:
    """The reference on a container file."""
    with avro.datafile.DataFileReader(io.BytesIO(body), avro.io.DatumReader()) as reader:
        return list(reader)


def exact(value: object) -> object:
    """A workflow in a form that compares all: types, the sign of zero, NaN equal to itself."""
    if isinstance(value, Workflow):
        return (value.name, value.user, [exact(node) for node in value.nodes])
    if isinstance(value, Node):
        feeds = [None if feed is None else (feed.port_idx, feed.node_id) for feed in value.connections]
        return (value.id, value.service.id, value.service.version, [exact(item) for item in value.parameters], feeds)
    return (type(value).__name__, repr(value))


def exact_reference(value: dict) -> object:  # type: ignore[type-arg]
    """The reference's value of a workflow in the form of `exact`, but float and double alike."""
    nodes = []
    for node in value["nodes"]:
        feeds = [None if feed is None else (feed["port_idx"], feed["node_id"]) for feed in node["connections"]]
        parameters = [(type(item).__name__, repr(item)) for item in node["parameters"]]
        nodes.append((node["id"], node["service"]["id"], node["service"]["version"], parameters, feeds))
    return (value["name"], value["user"], nodes)


def _floats_alike(value: object) -> object:
    if isinstance(value, tuple) and len(value) == 2 and value[0] in ("Double", "Float"):
        return ("float", value[1])
    if isinstance(value, tuple):
        return tuple(_floats_alike(item) for item in value)
    return [_floats_alike(item) for item in value] if isinstance(value, list) else value


# The promises --------------------------------------------------------------------------------------------------------


def try_workflow(body: bytes, tally: Tally) -> None:
    """Holds the promises for one message. raises Broken."""
    refusal: WireError | None = None
    workflow = None
    began = time.perf_counter()
    try:
        workflow = decode_workflow(body)
    except WireError as error:
        refusal = error
    tally.slowest = max(tally.slowest, time.perf_counter() - began)
    try:
        plain = decode_plain(body, DEFAULT_LIMITS)
    except (Unusual, IndexError, UnicodeDecodeError, struct.error):
        plain = None
    try:
        careful = decode_any(body, DEFAULT_LIMITS)
    except WireError:
        careful = None
    if (plain is not None and careful is None) or (plain and careful and exact(plain) != exact(careful)):
        raise Broken("the fast decoder accepts what the careful one does not", body)
    if (workflow is None) != (careful is None):
        raise Broken("decode_workflow and the careful decoder differ", body)
    try:
        value = reference_workflow(body)
    except Exception as error:
        value = error
    if refusal is not None:
        if refusal.offset is None or not 0 <= refusal.offset <= len(body):
            raise Broken(f"refused without a place in the message ({refusal})", body)
        _count_refusal(refusal, value, OURS, tally, body)
        return
    if isinstance(value, Exception):
        raise Broken(f"accepted, but the reference says {value!r}", body)
    assert workflow is not None
    assert isinstance(value, dict)
    if _floats_alike(exact(workflow)) != exact_reference(value):
        raise Broken("accepted with another value than the reference's", body)
    again = encode_workflow(workflow)
    if len(again) > len(body) or exact(decode_workflow(again)) != exact(workflow):
        raise Broken("written again it is another workflow", body)
    text = workflow_json_text(workflow)
    if workflow_json_text(workflow_from_json(text)) != text:
        raise Broken("as JSON it is another workflow", body)
    tally.accepted += 1


def _count_refusal(refusal: WireError, value: object, ours: tuple[str, ...], tally: Tally, body: bytes) -> None:
    if isinstance(value, Exception):
        tally.refused += 1
        return
    reason = next((reason for reason in ours if reason in refusal.problem), None)
    if reason is None:
        raise Broken(f"refused ({refusal}), but the reference accepts it", body)
    tally.ours_alone[reason] += 1


def try_services(body: bytes, tally: Tally) -> None:
    """The same for a list of services."""
    try:
        value: object = reference_services(body)
    except Exception as error:
        value = error
    try:
        services = decode_services(body)
    except WireError as refusal:
        _count_refusal(refusal, value, OURS, tally, body)
        return
    if services_to_json(services) != value:
        raise Broken(f"service list accepted, the reference has {value!r:.300}", body)
    if decode_services(encode_services(services)) != services:
        raise Broken("written again it is another list", body)
    tally.accepted += 1


def try_config(body: bytes, tally: Tally) -> None:
    """The same for a `service.config`."""
    try:
        value: object = reference_file(body)
    except Exception as error:
        value = error
    try:
        service = decode_service_config(body)
    except WireError as refusal:
        # The reference reads on over wrong block sizes and lost sync markers: any reason is ours.
        _count_refusal(refusal, value, ("",), tally, body)
        return
    if isinstance(value, Exception):
        raise Broken(f"service.config accepted, the reference says {value!r:.300}", body)
    assert isinstance(value, list)
    known = services_to_json([service])[0]
    if len(value) != 1 or known != {key: item for key, item in value[0].items() if key in known}:
        raise Broken("service.config accepted with another value than the reference's", body)
    if decode_service_config(encode_service_config(service)) != service:
        raise Broken("written again it is another service", body)
    tally.accepted += 1


def campaign(count: int, seed: int, kinds: str = "wsc") -> dict[str, Tally]:
    """Tries `count` messages; of ten, eight are workflows, one is a list of services, one a service.config.

    kinds: letters of what is tried. raises Broken at the first that breaks a promise. Same seed, same messages.
    """
    rng = random.Random(seed)
    workflows = [path.read_bytes() for path in sorted(GOLDEN.glob("*.bin")) if path.name != "service_list.bin"]
    lists = [(GOLDEN / "service_list.bin").read_bytes()]
    configs = [(GOLDEN / "service.config").read_bytes()]
    tallies = {"workflow": Tally(), "service list": Tally(), "service.config": Tally()}
    chosen = [letter for letter in "wwwwwwwwsc" if letter in kinds]
    for turn in range(count):
        if turn % 50 == 0:
            made = random_workflow(rng)
            workflows[12:] = workflows[-40:] if len(workflows) > 60 else workflows[12:]
            workflows += [encode_workflow(made), encode_in_blocks(rng, made)]
            lists[1:] = [encode_services([random_service(rng) for _ in range(rng.randrange(3))])]
            configs[1:] = [encode_service_config(random_service(rng))]
        kind = rng.choice(chosen)
        seeds = {"w": workflows, "s": lists, "c": configs}[kind]
        body = rng.choice(seeds)
        if rng.random() < 0.95:
            body = mutate(rng, body, rng.choice(seeds))
        if kind == "w":
            try_workflow(body, tallies["workflow"])
        elif kind == "s":
            try_services(body, tallies["service list"])
        else:
            try_config(body, tallies["service.config"])
    return tallies


def main() -> int:
    """Runs a campaign and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="wsc", help="letters: w workflows, s service lists, c service.config")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        tallies = campaign(options.count, options.seed, options.kinds)
    except Broken as broken:
        print(f"seed {options.seed}: {broken}", file=sys.stderr)
        return 1
    print(f"{options.count} mutated messages, seed {options.seed}, {time.monotonic() - began:.0f} s")
    for name, tally in tallies.items():
        alone = sum(tally.ours_alone.values())
        print(f"{name}: {tally.accepted} accepted by both, {tally.refused} refused by both, {alone} by us alone")
        for reason, times in tally.ours_alone.most_common():
            print(f"    {times:7}  {reason or 'for any reason'}")
        if tally.slowest:
            print(f"    slowest {tally.slowest * 1000:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
