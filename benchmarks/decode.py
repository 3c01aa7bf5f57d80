"""What decoding a workflow message costs: our strict decoder, and fastavro with a pass over its result.

    python benchmarks/decode.py [--rounds 7]

For each message, in the same run and interleaved: the floor (fastavro alone, dicts, nothing checked that it does not
check), fastavro with the pass that makes our records out of it and checks what fastavro lets pass, our decoder, our
careful decoder (used for the rare forms and for errors), and the Avro reference. The figure is the best of the rounds,
per message; the ratio is to the floor. The pass can give neither byte offset nor the size of blocks: fastavro has
thrown them away.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import fastavro

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.fuzz_wire import GOLDEN, WORKFLOW_SCHEMA
from peachctl.errors import WireError
from peachctl.jsonform import DEFAULT_LIMITS
from peachctl.wire import decode_any, decode_workflow, encode_workflow
from peachctl.workflow import Connection, Double, Node, ServiceRef, Workflow

_SCHEMA = fastavro.parse_schema(json.loads(WORKFLOW_SCHEMA))
_REFERENCE = avro.io.DatumReader(avro.schema.parse(WORKFLOW_SCHEMA))


def floor(body: bytes) -> Any:
    """fastavro alone."""
    return fastavro.schemaless_reader(io.BytesIO(body), _SCHEMA, None)


def with_pass(body: bytes) -> Workflow:
    """fastavro, then records of ours, with the checks that can still be made on its result."""
    if len(body) > DEFAULT_LIMITS.message_bytes:
        raise WireError("too long")
    stream = io.BytesIO(body)
    found: Any = fastavro.schemaless_reader(stream, _SCHEMA, None, return_named_type=False, return_record_name=False)
    if stream.read(1):
        raise WireError("trailing bytes")
    nodes = []
    for index, node in enumerate(found["nodes"]):
        service = node["service"]
        if not -0x8000_0000 <= service["version"] <= 0x7FFF_FFFF:
            raise WireError("too large", field=f"nodes[{index}].service.version")
        for k, value in enumerate(node["parameters"]):
            if isinstance(value, int) and not -0x8000_0000 <= value <= 0x7FFF_FFFF:
                raise WireError("too large", field=f"nodes[{index}].parameters[{k}]")
        feeds: list[Connection | None] = []
        for k, feed in enumerate(node["connections"]):
            if feed is None:
                feeds.append(None)
                continue
            if not -0x8000_0000 <= feed["port_idx"] <= 0x7FFF_FFFF:
                raise WireError("too large", field=f"nodes[{index}].connections[{k}].port_idx")
            feeds.append(Connection(feed["port_idx"], feed["node_id"]))
        # fastavro does not say whether it read a float or a double: all become doubles here.
        parameters = tuple([Double(value) if isinstance(value, float) else value for value in node["parameters"]])
        nodes.append(Node(node["id"], ServiceRef(service["id"], service["version"]), parameters, tuple(feeds)))
    return Workflow(found["name"], found["user"], tuple(nodes))


def reference(body: bytes) -> Any:
    """The Avro reference implementation."""
    return _REFERENCE.read(avro.io.BinaryDecoder(io.BytesIO(body)))


def careful(body: bytes) -> Workflow:
    """Our decoder that knows where it is."""
    return decode_any(body, DEFAULT_LIMITS)


def drawn(count: int) -> bytes:
    """A message of `count` nodes as a client draws them: three inputs, four parameters as text, nulls among them."""
    nodes = [
        Node(
            f"GaussianSmoothing_{index}",
            ServiceRef("GaussianSmoothing", 2),
            ("2.5", "true", None, "/data/subject_017/anat.nii.gz"),
            (Connection(0, f"GaussianSmoothing_{max(index - 1, 0)}"), Connection(-1, "/data/mask.nii.gz"), None),
        )
        for index in range(count)
    ]
    return encode_workflow(Workflow("Smoothing of a cohort", "muessema@ad", tuple(nodes)))


def best_of(rounds: int, ways: dict[str, Callable[[bytes], Any]], body: bytes) -> dict[str, float]:
    """Seconds per message of each way, the best of the rounds; the ways take turns in each round."""
    turns = {}
    for name, way in ways.items():
        began = time.perf_counter()
        way(body)
        turns[name] = max(1, int(0.04 / max(time.perf_counter() - began, 1e-7)))
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            for _ in range(turns[name]):
                way(body)
            best[name] = min(best[name], (time.perf_counter() - began) / turns[name])
    return best


def main() -> None:
    """Prints a table: a line per message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    ways: dict[str, Callable[[bytes], Any]] = {
        "fastavro alone": floor,
        "fastavro + pass": with_pass,
        "ours": decode_workflow,
        "ours, careful": careful,
        "avro reference": reference,
    }
    messages = {path.stem: path.read_bytes() for path in (GOLDEN / "diamond.bin", GOLDEN / "optional.bin")}
    messages |= {f"drawn {count}": drawn(count) for count in (10, 100, 1000)}
    print("microseconds per message (ratio to fastavro alone)")
    print(f"{'message':<12}{'bytes':>8}" + "".join(f"{name:>20}" for name in ways))
    for name, body in messages.items():
        best = best_of(rounds, ways, body)
        cells = [f"{best[way] * 1e6:.1f} ({best[way] / best['fastavro alone']:.2f})" for way in ways]
        print(f"{name:<12}{len(body):>8}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
