"""What is told of a message that does not decode: what stands before the fault, what is expected there, and where."""

import json
from pathlib import Path
from typing import Any

import pytest

from peachctl import wire
from peachctl.fault import examine, without_indices
from peachctl.workflow import Double, Node, ServiceRef, Workflow
from tests.conftest import DIAMOND, node, workflow

GOLDEN = Path(__file__).parent / "golden"
ALL_KINDS = Workflow("w", "u", (Node("a", ServiceRef("S", 2), ("t", 7, Double(1.5), None, Double("inf")), (None,)),))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Each value that holds no others, by its field path."""
    if isinstance(value, dict) and value:
        pairs = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for inner, item in pairs for name, leaf in leaves(item, inner).items()}


@pytest.mark.parametrize("whole", [wire.workflow_from_json(DIAMOND), ALL_KINDS], ids=["diamond", "all kinds"])
def test_wherever_a_message_is_cut_what_stands_before_is_told(whole: Workflow) -> None:
    body = wire.encode_workflow(whole)
    full = leaves(wire.workflow_to_json(whole))
    told = -1
    for size in range(len(body)):
        fault = examine(body[:size], "x.bin")
        assert fault is not None and fault.expected
        known = leaves(fault.decoded) if fault.decoded else {}
        for path, value in known.items():
            # An array or a node of which nothing has come yet stands there empty.
            assert value == full[path] if path in full else value in ([], {}), (size, path)
        complete = sum(path in full for path in known)
        assert complete >= told or body[size - 1] == 0
        told = complete
    assert examine(body, "x.bin") is None
    trailing = examine(body + b"x", "x.bin")
    assert trailing is not None and leaves(trailing.decoded) == full
    assert trailing.expected == "the end of the message"


@pytest.mark.parametrize("name", ["diamond.bin", "param_types.bin", "sized_blocks.bin"])
def test_whatever_a_byte_is_changed_to_the_fault_is_where_the_decoder_says(name: str) -> None:
    body = (GOLDEN / name).read_bytes()
    for position in range(len(body)):
        for change in (0x00, 0x01, 0x03, 0x7F, 0x80, 0xFF):
            changed = body[:position] + bytes([change]) + body[position + 1 :]
            fault = examine(changed, "")
            if fault is None:
                wire.decode_workflow(changed)
            else:
                assert fault.expected and fault.error.offset is not None, (position, change)
                assert json.loads(json.dumps(fault.decoded), parse_constant=pytest.fail) == fault.decoded


@pytest.mark.parametrize(
    ("name", "expected", "decoded"),
    [
        ("bad_union", "union string|int|double|float|null", {"parameters": ["text"]}),
        ("bad_utf8", "string: ", None),
        ("huge_block", "array of nodes: ", {"nodes": []}),
        ("truncated", "string: ", {"user": "ada@hospital"}),
        ("empty", "string: ", None),
    ],
)
def test_malformed_messages_say_what_the_schema_expects(name: str, expected: str, decoded: Any) -> None:
    fault = examine((GOLDEN / f"malformed_{name}.bin").read_bytes(), "")
    assert fault is not None and fault.expected is not None
    assert fault.expected.startswith(expected)
    if decoded is None:
        assert fault.decoded is None
    else:
        assert leaves(decoded).items() <= {k.split("].", 1)[-1]: v for k, v in leaves(fault.decoded).items()}.items()


@pytest.mark.parametrize(
    ("change", "limits", "expected"),
    [
        (b"\xff" * 6, wire.Limits(), "int: "),
        (b"", wire.Limits(nodes=1), "array of nodes: "),
        (b"", wire.Limits(message_bytes=60), "the end of a message of at most 60 bytes"),
    ],
)
def test_numbers_and_limits_say_what_is_expected_too(change: bytes, limits: wire.Limits, expected: str) -> None:
    body = wire.encode_workflow(wire.workflow_from_json(DIAMOND))
    version = body.index(b"Split") + 5
    fault = examine(body[:version] + change + body[version:], "", limits)
    assert fault is not None and fault.expected is not None and fault.expected.startswith(expected)


def test_a_field_of_a_json_file_is_found_by_line_and_column() -> None:
    """Every leaf in turn becomes something that it must not be: the place that is told is where it stands."""
    whole = workflow(node("a", "S", ["p", 'q"{', None], ["lit"], "b"), node("b", "S", [], None), name='{"nodes": [1]}')
    paths = [path for path, value in leaves(whole).items() if value != []]
    for path in paths:
        broken = json.loads(json.dumps(whole))
        place: Any = broken
        parts = [int(part) if part.isdigit() else part for part in path.replace("[", ".").replace("]", "").split(".")]
        for part in parts[:-1]:
            place = place[part]
        place[parts[-1]] = {"wrong": "HERE"}
        for indent in (None, 2):
            text = json.dumps(broken, indent=indent)
            fault = examine(text.encode(), "x.json")
            assert fault is not None and fault.line and fault.column and fault.expected
            line = text.split("\n")[fault.line - 1]
            # A connection is an object, so what is told of is the first field that it lacks: the object's own place.
            assert line[fault.column - 1 :].startswith("{"), (path, indent)
            assert "HERE" in text.split("\n", fault.line - 1)[-1][fault.column - 1 :][:40]
            assert fault.decoded == broken


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"name": "x",\n "user" "y"}', 2, 9),
        (b'\xef\xbb\xbf{"name": "x",\n "user": "\xff"}', 2, 11),
        (b'{"name": "x", "user": "y"}', None, None),
        (b'{"name": NaN}', None, None),
        (b"[" * 100_000, None, None),
        (b"", 1, 1),
    ],
)
def test_json_that_does_not_parse_says_where(body: bytes, line: int | None, column: int | None) -> None:
    fault = examine(body, "x.wf")
    assert fault is not None
    if line is None:
        assert fault.line in (None, 1)
    else:
        assert (fault.line, fault.column) == (line, column)
    if fault.error.offset is not None:
        assert body[fault.error.offset : fault.error.offset + 1] == b"\xff"


def test_the_same_fault_elsewhere_is_the_same_cause() -> None:
    assert without_indices("nodes[3].connections[12].port_idx") == "nodes[].connections[].port_idx"
