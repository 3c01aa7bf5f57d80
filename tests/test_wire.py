"""Messages: the golden ones, what is refused and where, JSON, files, the id event."""

import json
import math
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_wire import encode_in_blocks, exact, number
from peachctl import wire
from peachctl.errors import WireError
from peachctl.workflow import Connection, Double, Float, Node, Service, ServiceParameter, ServiceRef, Workflow

GOLDEN = Path(__file__).parent / "golden"
WORKFLOWS = sorted(
    path.stem for path in GOLDEN.glob("*.bin") if path.stem != "service_list" and not path.stem.startswith("malformed")
)


def text(value: str) -> bytes:
    return number(len(value.encode())) + value.encode()


def one_node(*, version: bytes = b"\x02", parameters: bytes = b"\0", connections: bytes = b"\0") -> bytes:
    """A message with one node (its nodes begin at byte 4), parts of it as they are given."""
    return text("n") + text("u") + number(1) + text("a") + text("S") + version + parameters + connections + b"\0"


def refused(body: bytes, limits: wire.Limits = wire.DEFAULT_LIMITS) -> WireError:
    with pytest.raises(WireError) as caught:
        wire.decode_workflow(body, limits)
    return caught.value


# Golden --------------------------------------------------------------------------------------------------------------


def test_there_are_golden_messages() -> None:
    assert len(WORKFLOWS) == 6


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_golden_message_decodes_to_its_json(name: str) -> None:
    workflow = wire.decode_workflow((GOLDEN / f"{name}.bin").read_bytes())
    expected = json.loads((GOLDEN / f"{name}.json").read_bytes())
    assert wire.workflow_to_json(workflow) == expected
    assert json.loads(wire.workflow_json_text(workflow)) == expected
    assert list(wire.workflow_to_json(workflow)) == ["name", "user", "nodes"]


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name != "sized_blocks"])
def test_a_plainly_written_golden_message_is_encoded_to_the_same_bytes(name: str) -> None:
    body = (GOLDEN / f"{name}.bin").read_bytes()
    assert wire.encode_workflow(wire.decode_workflow(body)) == body


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in ("sized_blocks", "param_types")])
def test_a_golden_message_without_floats_survives_the_way_through_json(name: str) -> None:
    body = (GOLDEN / f"{name}.bin").read_bytes()
    as_json = wire.workflow_json_text(wire.decode_workflow(body))
    assert wire.encode_workflow(wire.workflow_from_json(as_json)) == body
    assert wire.decode_file(as_json.encode(), "x.json") == wire.decode_workflow(body)


def test_the_types_of_parameters_are_told_apart() -> None:
    workflow = wire.decode_workflow((GOLDEN / "param_types.bin").read_bytes())
    assert [type(value) for value in workflow.nodes[0].parameters] == [str, int, Double, Float, type(None), str]
    again = wire.workflow_from_json(wire.workflow_json_text(workflow))
    assert [type(value) for value in again.nodes[0].parameters] == [str, int, Double, Double, type(None), str]


@pytest.mark.fault("F9")
@pytest.mark.parametrize(
    ("name", "offset", "field"),
    [
        ("bad_union", 27, "nodes[0].parameters[1]"),
        ("bad_utf8", 1, "name"),
        ("empty", 0, "name"),
        ("huge_block", 4, "nodes"),
        ("huge_length", 0, "name"),
        ("json_not_avro", 0, "name"),
        ("trailing", 101, ""),
        ("truncated", 45, "nodes[1].service.id"),
    ],
)
def test_a_malformed_message_is_refused_with_offset_and_field(name: str, offset: int, field: str) -> None:
    error = refused((GOLDEN / f"malformed_{name}.bin").read_bytes())
    assert (error.offset, error.field) == (offset, field)
    assert f"byte {offset}" in error.message
    assert "\n" not in error.message


def test_every_malformed_golden_message_is_in_the_table_above() -> None:
    assert len(list(GOLDEN.glob("malformed_*"))) == 8


# Refusals ------------------------------------------------------------------------------------------------------------

TOO_LARGE = number(1 << 31)
FLOAT = struct.pack("<f", 1.0)


@pytest.mark.fault("E2", "E10")
@pytest.mark.parametrize(
    ("body", "offset", "field", "problem"),
    [
        (one_node(version=TOO_LARGE), 9, "nodes[0].service.version", "32 bits"),
        (one_node(version=number(-(1 << 31) - 1)), 9, "nodes[0].service.version", "32 bits"),
        (one_node(version=b"\x80" * 10 + b"\x01"), 9, "nodes[0].service.version", "more than 10 bytes"),
        (one_node(version=b"\xff" * 9 + b"\x03"), 9, "nodes[0].service.version", "more than 64 bits"),
        (one_node(version=b"\x82\x00"), 9, "nodes[0].service.version", "padded"),
        (one_node(parameters=b"\x02\x0a\0"), 11, "nodes[0].parameters[0]", "branch 5"),
        (one_node(parameters=b"\x02\x01\0"), 11, "nodes[0].parameters[0]", "branch -1"),
        (one_node(parameters=b"\x04\x08\x02" + TOO_LARGE + b"\0"), 13, "nodes[0].parameters[1]", "32 bits"),
        (one_node(parameters=b"\x02\x00\x04\xc3\x28\0"), 13, "nodes[0].parameters[0]", "UTF-8"),
        (one_node(parameters=b"\x02\x00\x06\xed\xa0\x80\0"), 13, "nodes[0].parameters[0]", "UTF-8"),
        (one_node(connections=b"\x02\x04\0"), 12, "nodes[0].connections[0]", "branch 2"),
        (one_node(connections=b"\x02\x01\0"), 12, "nodes[0].connections[0]", "branch -1"),
        (
            one_node(connections=b"\x04\x02\x00" + TOO_LARGE + b"\x02b\0"),
            14,
            "nodes[0].connections[1].port_idx",
            "32 bits",
        ),
        (one_node(connections=b"\x02\x00\x00\x03b\0"), 14, "nodes[0].connections[0].node_id", "negative length -2"),
        (one_node(parameters=b"\x01\x04\x08\x00\0"), 10, "nodes[0].parameters", "not at byte 14"),
        (one_node(parameters=b"\x01\x7e\x08\0"), 10, "nodes[0].parameters", "block of 63 bytes"),
        (one_node(parameters=b"\x01\x03\x08\0"), 10, "nodes[0].parameters", "block of -2 bytes"),
        (one_node(parameters=number(-(1 << 63)) + b"\0"), 10, "nodes[0].parameters", "9223372036854775808 items"),
        (one_node(parameters=b"\x02\x04" + b"\0" * 3)[:-2], 12, "nodes[0].parameters[0]", "double of 8 bytes"),
        (one_node() + b"\0", 13, "", "1 bytes too many after the last field, nodes"),
        (b"\0\0\x80", 2, "nodes", "ends where a number"),
    ],
)
def test_what_is_wrong_is_refused_at_its_byte_and_field(body: bytes, offset: int, field: str, problem: str) -> None:
    error = refused(body)
    assert problem in error.problem
    assert (error.offset, error.field) == (offset, field)


@pytest.mark.fault("E1")
def test_every_cut_of_a_message_is_refused() -> None:
    for path in GOLDEN.glob("*.bin"):
        if path.stem in WORKFLOWS:
            body = path.read_bytes()
            for end in range(len(body)):
                error = refused(body[:end])
                assert error.field
                assert error.offset is not None
                assert error.offset <= end


def test_blocks_with_their_size_and_several_blocks_are_read() -> None:
    # parameters in three blocks, two of them with their size in bytes
    body = one_node(parameters=b"\x01\x02\x08" + b"\x02\x02\x0e" + b"\x03\x0a\x00\x02x\x06" + b"")
    body = one_node(parameters=b"\x01\x02\x08" + b"\x02\x02\x0e" + b"\x03\x10\x00\x02x\x06" + FLOAT + b"\0")
    assert wire.decode_workflow(body).nodes[0].parameters == (None, 7, "x", 1.0)


def test_the_smallest_and_largest_int_are_read() -> None:
    for value in (-(2**31), 2**31 - 1):
        assert wire.decode_workflow(one_node(version=number(value))).nodes[0].service.version == value


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("E7")
def test_a_message_beyond_the_limit_of_bytes_is_refused_unread() -> None:
    body = (GOLDEN / "diamond.bin").read_bytes()
    assert wire.decode_workflow(body, wire.Limits(message_bytes=len(body)))
    assert "the limit is 100" in refused(body, wire.Limits(message_bytes=100)).problem


@pytest.mark.fault("E7")
def test_nodes_beyond_the_limit_are_refused() -> None:
    body = (GOLDEN / "diamond.bin").read_bytes()
    assert wire.decode_workflow(body, wire.Limits(nodes=4))
    error = refused(body, wire.Limits(nodes=3))
    assert (error.field, error.offset) == ("nodes", 21)
    with pytest.raises(WireError, match="the limit is 3"):
        wire.workflow_from_json((GOLDEN / "diamond.json").read_text(), wire.Limits(nodes=3))


EMPTY_NODE = b"\0\0\0\0\0"
NULLS = b"\0\0\0" + number(5000) + b"\x08" * 5000 + b"\0" + number(5000) + b"\x02" * 5000 + b"\0"
BLOATED = {
    "empty nodes": b"\0\0" + number(200_000) + EMPTY_NODE * 200_000 + b"\0",
    "empty nodes, a block for each": b"\0\0" + (b"\x02" + EMPTY_NODE) * 170_000 + b"\0",
    "nulls": one_node(parameters=number(1_000_000) + b"\x08" * 1_000_000 + b"\0"),
    "nulls, a block for each": one_node(parameters=b"\x02\x08" * 500_000 + b"\0"),
    "nulls spread over nodes": b"\0\0" + number(100) + NULLS * 100 + b"\0",
}


@pytest.mark.fault("F8")
@pytest.mark.parametrize("name", BLOATED)
def test_a_bloated_message_is_refused_early(name: str) -> None:
    assert len(BLOATED[name]) <= wire.DEFAULT_LIMITS.message_bytes
    began = time.process_time()
    assert "than the limit of" in refused(BLOATED[name]).problem
    assert time.process_time() - began < 3


@pytest.mark.fault("F8")
def test_a_message_as_dense_as_can_be_costs_a_bounded_multiple_of_its_size_in_memory() -> None:
    body = one_node(connections=number(20_000) + b"\0\xfe\x7f\0" * 20_000 + b"\0")
    tracemalloc.start()
    workflow = wire.decode_workflow(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(workflow.nodes[0].connections) == 20_000
    assert most < 60 * len(body)


def test_what_was_decoded_within_the_limits_can_be_read_back_from_its_json() -> None:
    limits = wire.Limits(message_bytes=1 << 12)
    for body in (
        b"\0\0" + number(818) + EMPTY_NODE * 818 + b"\0",
        text("\x01" * 4000) + b"\0\0",
        one_node(parameters=number(4000) + b"\x08" * 4000 + b"\0"),
        one_node(connections=number(1350) + b"\0\0\0" * 1350 + b"\0"),
    ):
        workflow = wire.decode_workflow(body, limits)
        assert wire.workflow_from_json(wire.workflow_json_text(workflow), limits) == workflow


# Round trips ---------------------------------------------------------------------------------------------------------

ints = st.integers(-(2**31), 2**31 - 1)
texts = st.text(max_size=80)
parameters = st.one_of(
    st.none(), texts, ints, st.floats(allow_nan=False).map(Double), st.floats(width=32, allow_nan=False).map(Float)
)
nodes = st.builds(
    Node,
    texts,
    st.builds(ServiceRef, texts, ints),
    st.lists(parameters, max_size=5).map(tuple),
    st.lists(st.none() | st.builds(Connection, ints, texts), max_size=5).map(tuple),
)
workflows = st.builds(Workflow, texts, texts, st.lists(nodes, max_size=5).map(tuple))
services = st.builds(
    Service,
    texts,
    texts,
    ints,
    texts,
    st.lists(texts, max_size=4).map(tuple),
    st.lists(texts, max_size=4).map(tuple),
    st.lists(st.builds(ServiceParameter, texts, texts, ints), max_size=4).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(workflows, st.randoms(use_true_random=False))
def test_decoding_gives_back_what_was_encoded_in_whatever_blocks(workflow: Workflow, rng: object) -> None:
    assert exact(wire.decode_workflow(wire.encode_workflow(workflow))) == exact(workflow)
    assert exact(wire.decode_workflow(encode_in_blocks(rng, workflow))) == exact(workflow)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(workflows)
def test_the_json_text_is_ascii_and_is_the_json_of_the_workflow(workflow: Workflow) -> None:
    written = wire.workflow_json_text(workflow)
    assert written.isascii()
    assert "\n" not in written
    assert json.loads(written) == wire.workflow_to_json(workflow)
    again = wire.workflow_from_json(written)
    assert wire.workflow_json_text(again) == written
    assert wire.workflow_from_json(wire.workflow_to_json(workflow)) == again


@settings(max_examples=100, deadline=None)
@given(st.lists(services, max_size=4))
def test_services_survive_list_config_and_json(listed: list[Service]) -> None:
    assert wire.decode_services(wire.encode_services(listed)) == listed
    assert wire.services_from_json(json.dumps(wire.services_to_json(listed))) == listed
    for service in listed:
        assert wire.decode_service_config(wire.encode_service_config(service)) == service


@pytest.mark.parametrize(
    ("node", "field"),
    [
        (Node("\ud800", ServiceRef("S", 1), (), ()), "nodes[0].id"),
        (Node("a", ServiceRef("S", 1 << 31), (), ()), "nodes[0].service.version"),
        (Node("a", ServiceRef("S", 1), (None, True), ()), "nodes[0].parameters[1]"),
        (Node("a", ServiceRef("S", 1), (Float(1e300),), ()), "nodes[0].parameters[0]"),
        (Node("a", ServiceRef("S", 1), (b"x",), ()), "nodes[0].parameters[0]"),  # type: ignore[arg-type]
        (Node("a", ServiceRef("S", 1), (), (Connection(-(1 << 40), "b"),)), "nodes[0].connections[0].port_idx"),
        (Node("a", ServiceRef("S", 1), (), (Connection(0, 7),)), "nodes[0].connections[0].node_id"),  # type: ignore[arg-type]
    ],
)
def test_what_the_wire_cannot_hold_is_not_encoded(node: Node, field: str) -> None:
    with pytest.raises(WireError) as caught:
        wire.encode_workflow(Workflow("n", "u", (node,)))
    assert caught.value.field == field


# JSON ----------------------------------------------------------------------------------------------------------------


def json_parameters(*values: object) -> tuple[object, ...]:
    node = {"id": "a", "service": {"id": "S", "version": 1}, "parameters": list(values), "connections": []}
    return wire.workflow_from_json({"name": "", "user": "", "nodes": [node]}).nodes[0].parameters


def text_of(*values: object) -> str:
    workflow = Workflow("", "", (Node("a", ServiceRef("S", 1), values, ()),))  # type: ignore[arg-type]
    return wire.workflow_json_text(workflow).partition('"parameters": [')[2].partition("]")[0]


def test_an_int_has_no_point_and_a_double_or_float_has_one() -> None:
    assert text_of(7, Double(7), Float(0.5), Double(1e22), Double(5e-324), Double(-0.0), Double(0.1)) == (
        "7, 7.0, 0.5, 1.0e+22, 5.0e-324, -0.0, 0.1"
    )
    values = wire.workflow_from_json(
        '{"name":"","user":"","nodes":[{"id":"","service":{"id":"","version":1},'
        '"parameters":[7, 7.0, 1.0e+22, 1e5, "7"],"connections":[]}]}'
    )
    assert [type(value) for value in values.nodes[0].parameters] == [int, Double, Double, Double, str]


@pytest.mark.fault("E9")
def test_numbers_that_are_not_finite_are_texts_and_stay_texts() -> None:
    assert text_of(Double(math.nan), Double(math.inf), Float(-math.inf)) == '"NaN", "Infinity", "-Infinity"'
    assert json_parameters("NaN", "Infinity") == ("NaN", "Infinity")


DIAMOND = (GOLDEN / "diamond.json").read_text()


def changed(**parts: object) -> dict[str, object]:
    """The diamond with parts of its node 1 changed; `...` takes a part away."""
    value = json.loads(DIAMOND)
    for key, part in parts.items():
        if part is ...:
            del value["nodes"][1][key]
        else:
            value["nodes"][1][key] = part
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("value", "field", "problem"),
    [
        (changed(id=...), "nodes[1].id", "missing"),
        (changed(id=7), "nodes[1].id", "a number where text"),
        (changed(id="\ud800"), "nodes[1].id", "surrogate"),
        (changed(service="S"), "nodes[1].service", "text where a JSON object"),
        (changed(service={"id": "S"}), "nodes[1].service.version", "missing"),
        (changed(service={"id": "S", "version": "1"}), "nodes[1].service.version", "text where a whole number"),
        (changed(service={"id": "S", "version": True}), "nodes[1].service.version", "true or false where"),
        (changed(service={"id": "S", "version": 1.0}), "nodes[1].service.version", "a number where a whole number"),
        (changed(service={"id": "S", "version": 1 << 31}), "nodes[1].service.version", "32 bits"),
        (changed(parameters=None), "nodes[1].parameters", "null where a list"),
        (changed(parameters=["", -(1 << 31) - 1]), "nodes[1].parameters[1]", "32 bits"),
        (changed(parameters=[True]), "nodes[1].parameters[0]", "true or false"),
        (changed(parameters=[{"secret": 1}]), "nodes[1].parameters[0]", "an object"),
        (changed(parameters=[math.nan]), "nodes[1].parameters[0]", "beyond the range"),
        (changed(connections={}), "nodes[1].connections", "an object where a list"),
        (changed(connections=[None, {}]), "nodes[1].connections[1].port_idx", "missing"),
        (changed(connections=[{"port_idx": 0}]), "nodes[1].connections[0].node_id", "missing"),
        ([], "nodes", ""),
        ({"nodes": []}, "name", "missing"),
        ({"name": "", "nodes": []}, "user", "missing"),
        ({"name": "", "user": "", "nodes": [None]}, "nodes[0]", "null where a JSON object"),
    ],
)
def test_wrong_json_is_refused_with_the_path_of_the_field(value: object, field: str, problem: str) -> None:
    for form in (value, json.dumps(value)):
        if "NaN" in str(form):
            continue  # as text it is no JSON at all: the test below
        with pytest.raises(WireError) as caught:
            wire.workflow_from_json(form)
        if value == []:
            assert "a list where a JSON object" in caught.value.problem
            continue
        assert caught.value.field == field
        assert problem in caught.value.problem


def test_a_refusal_does_not_show_the_value() -> None:
    with pytest.raises(WireError) as caught:
        wire.workflow_from_json(changed(id=["hunter2"]))
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("", "no JSON"),
        ("{", "no JSON: .* at line 1, column 2"),
        ("[" * 200_000, "nested too deep"),
        ('{"a": ' * 200_000, "nested too deep"),
        ('{"x": ' + "9" * 5000 + "}", "thousands of digits"),
        ('{"x": NaN}', "NaN stands outside quotes"),
        ('{"x": -Infinity}', "outside quotes"),
        (b'{"name": "\xff"}', "not UTF-8"),
        ("7", "a number where a JSON object"),
        (DIAMOND.replace("[]", "[1e999]", 1), "beyond the range"),
        (DIAMOND.replace('"user"', '"name": "x", "user"', 1), "more than once"),
    ],
)
def test_what_is_no_json_of_a_workflow_is_refused(written: str | bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        wire.workflow_from_json(written)


def test_json_beyond_the_limits_is_refused() -> None:
    with pytest.raises(WireError, match="the limit is 18496"):
        wire.workflow_from_json(" " * 20_000 + DIAMOND, wire.Limits(message_bytes=1024))
    with pytest.raises(WireError, match=r"nodes\[1\]: more ports and parameters than the limit of 200000"):
        wire.workflow_from_json(changed(parameters=[None] * 200_000))


def test_unknown_keys_are_ignored_whatever_is_in_them() -> None:
    value = changed(position={"x": [1, 2], "deep": {"k": None}}, width=10**30)
    assert wire.workflow_from_json(value) == wire.workflow_from_json(DIAMOND)
    twice = DIAMOND.replace('"user"', '"zoom": 1, "zoom": 2, "user"', 1)
    assert wire.workflow_from_json(twice) == wire.workflow_from_json(DIAMOND)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_by_its_name_and_standard_input_by_its_look() -> None:
    body, as_json = (GOLDEN / "diamond.bin").read_bytes(), DIAMOND.encode()
    workflow = wire.decode_workflow(body)
    for name, form in (
        ("a.bin", body),
        ("folder/a", body),
        ("a.json", as_json),
        ("a.WF", as_json),
        ("a.json", b"\xef\xbb\xbf" + as_json),
        ("-", body),
        ("-", as_json),
        ("-", b"\n " + as_json),
    ):
        assert wire.decode_file(form, name) == workflow
    named_like_json = Workflow("{abcd", "u", ())  # its first bytes are a line feed and a brace
    assert wire.decode_file(wire.encode_workflow(named_like_json), "-") == named_like_json


@pytest.mark.parametrize(
    ("name", "body", "hint"),
    [
        ("a.bin", DIAMOND.encode(), "looks like JSON"),
        ("a.bin", b"\n\n" + DIAMOND.encode(), "looks like JSON"),
        ("a.bin", (GOLDEN / "service.config").read_bytes(), "container file"),
        ("a.bin", b"\0\0\0\0\x07" + (GOLDEN / "diamond.bin").read_bytes(), "schema registry"),
        ("a.bin", b"\x1f\x8b\x08\x00", "gzip"),
        ("a.json", (GOLDEN / "diamond.bin").read_bytes(), "Avro, not JSON"),
        ("a.json", (GOLDEN / "service.config").read_bytes(), "Avro, not JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_a_hint(name: str, body: bytes, hint: str) -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_file(body, name)
    assert hint in (caught.value.hint or "")


def test_a_json_file_that_no_message_could_hold_is_refused() -> None:
    node = {"id": "a", "service": {"id": "S", "version": 1}, "parameters": ["x" * 2000], "connections": []}
    body = json.dumps({"name": "", "user": "", "nodes": [node]}).encode()
    assert wire.decode_file(body, "a.json")
    with pytest.raises(WireError, match="the limit is 1024"):
        wire.decode_file(body, "a.json", wire.Limits(message_bytes=1024))


# Services ------------------------------------------------------------------------------------------------------------


def test_the_golden_service_list_decodes_to_its_json_and_back() -> None:
    body = (GOLDEN / "service_list.bin").read_bytes()
    listed = wire.decode_services(body)
    expected = json.loads((GOLDEN / "service_list.json").read_bytes())
    assert wire.services_to_json(listed) == expected
    assert wire.encode_services(listed) == body
    assert wire.services_from_json(expected) == listed
    assert wire.services_from_json(expected[0]) == listed[:1]
    assert wire.decode_services(b"") == []


def test_the_golden_service_config_is_the_service_of_the_list_and_is_written_the_same() -> None:
    body = (GOLDEN / "service.config").read_bytes()
    service = wire.decode_service_config(body)
    assert service == wire.decode_services((GOLDEN / "service_list.bin").read_bytes())[1]
    written = wire.encode_service_config(service)
    assert written == wire.encode_service_config(service)
    # all but the sync marker, which the reference draws by lot
    assert written.replace(written[-16:], b"") == body.replace(body[-16:], b"")


def test_a_cut_or_wrong_service_list_is_refused_with_offset_and_field() -> None:
    body = (GOLDEN / "service_list.bin").read_bytes()
    with pytest.raises(WireError) as caught:
        wire.decode_services(body[:-1])
    assert caught.value.field == "[2].params"
    assert caught.value.offset == len(body) - 1
    with pytest.raises(WireError) as caught:
        wire.decode_services((GOLDEN / "service.config").read_bytes())
    assert "container file" in (caught.value.hint or "")


def test_a_bloated_service_list_is_refused() -> None:
    for body in (b"\0" * (4 << 20), b"\0" * ((4 << 20) + 1)):
        with pytest.raises(WireError, match="the limit"):
            wire.decode_services(body)


@pytest.mark.parametrize("key", ["id", "version", "description", "inputPorts", "params"])
def test_a_service_in_json_without_a_field_is_refused(key: str) -> None:
    value = json.loads((GOLDEN / "service_list.json").read_bytes())
    del value[1][key]
    with pytest.raises(WireError) as caught:
        wire.services_from_json(value)
    assert caught.value.field == f"[1].{key}"


# The id event --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [1, 42, 2**31 - 1, 2**63 - 1])
def test_an_id_is_written_in_decimal_and_read_back(row: int) -> None:
    assert wire.encode_id(row) == str(row).encode()
    assert wire.decode_id(wire.encode_id(row)) == row


@pytest.mark.parametrize(
    "body", [b"", b"0", b"042", b"-1", b"+1", b" 1", b"1\n", b"1_0", b"1.0", "٣".encode(), b"9" * 19, b"9" * 9999]
)
def test_what_is_no_id_is_refused(body: bytes) -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_id(body)
    assert len(caught.value.message) < 200


def test_no_row_has_an_id_below_one() -> None:
    for row in (0, -5):
        with pytest.raises(WireError):
            wire.encode_id(row)
