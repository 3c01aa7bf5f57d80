"""Container files of other writers, schemas of theirs, and the oracle: what we accept, the Avro reference accepts."""

import io
import json
import time
import zlib

import avro.datafile
import avro.io
import avro.schema
import pytest

from benchmarks.fuzz_wire import GOLDEN, Broken, Tally, campaign, number, try_workflow
from peachctl import plainwire, wire
from peachctl.avro import Budget, Cursor, compile_schema, field_parts, field_path, read_container
from peachctl.errors import WireError

SERVICE = wire.decode_service_config((GOLDEN / "service.config").read_bytes())
RECORD = wire.services_to_json([SERVICE])[0]


def text(value: str | bytes) -> bytes:
    body = value if isinstance(value, bytes) else value.encode()
    return number(len(body)) + body


def container(
    schema: object, block: bytes, *, count: int = 1, codec: bytes = b"null", sync: bytes = b"s" * 16
) -> bytes:
    written = schema if isinstance(schema, str) else json.dumps(schema)
    head = b"Obj\x01" + number(2) + text("avro.schema") + text(written) + text("avro.codec") + text(codec) + b"\0"
    return head + b"s" * 16 + number(count) + text(block) + sync


def reference_file(schema: object, *records: object, codec: str = "null") -> bytes:
    out = io.BytesIO()
    writer = avro.datafile.DataFileWriter(out, avro.io.DatumWriter(), avro.schema.parse(json.dumps(schema)), codec)
    for record in records:
        writer.append(record)
    writer.flush()
    return out.getvalue()


def fields() -> list[dict[str, object]]:
    return json.loads(wire.SERVICE_SCHEMA)["fields"]  # type: ignore[no-any-return]


# The oracle ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F9")
def test_what_we_accept_of_mutated_messages_the_reference_accepts_alike() -> None:
    tallies = campaign(10_000, seed=20170401)
    for tally in tallies.values():
        assert tally.accepted > 50
        assert tally.refused > 500
    assert tallies["workflow"].slowest < 2
    assert tallies["workflow"].ours_alone.keys() >= {"padded with empty bytes", "does not fit an int of 32 bits"}


def test_the_oracle_notices_a_decoder_that_accepts_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    body = (GOLDEN / "malformed_bad_union.bin").read_bytes()
    try_workflow(body, Tally())
    sound = wire.decode_workflow((GOLDEN / "diamond.bin").read_bytes())
    monkeypatch.setattr(wire, "decode_plain", lambda _body, _limits: sound)
    with pytest.raises(Broken):
        try_workflow(body, Tally())
    with pytest.raises(Broken):
        try_workflow((GOLDEN / "chain.bin").read_bytes(), Tally())


def test_plain_messages_take_the_fast_way_and_sized_blocks_do_not() -> None:
    for name in ("chain", "diamond", "optional", "param_types", "source_without_inputs"):
        plainwire.decode_plain((GOLDEN / f"{name}.bin").read_bytes(), wire.DEFAULT_LIMITS)
    with pytest.raises(plainwire.Unusual):
        plainwire.decode_plain((GOLDEN / "sized_blocks.bin").read_bytes(), wire.DEFAULT_LIMITS)


# service.config of other writers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_config_of_the_reference_is_read_in_any_codec_of_the_two(codec: str) -> None:
    body = reference_file(json.loads(wire.SERVICE_SCHEMA), RECORD, codec=codec)
    assert wire.decode_service_config(body) == SERVICE


def test_fields_in_another_order_and_further_ones_are_read() -> None:
    further: list[dict[str, object]] = [
        {"name": "icon", "type": ["null", {"type": "fixed", "name": "Icon", "size": 4}]},
        {"name": "tags", "type": {"type": "map", "values": ["int", "string"]}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "done", "type": "boolean"},
        {"name": "raw", "type": "bytes"},
        {"name": "size", "type": "double"},
        {"name": "weight", "type": "float"},
        {"name": "nothing", "type": {"type": "array", "items": "null"}},
    ]
    schema = {
        "type": "record",
        "name": "Service",
        "namespace": "peach.v2",
        "fields": further + list(reversed(fields())),
    }
    extra = {
        "icon": b"abcd",
        "tags": {"a": 1, "b": "x"},
        "kind": "B",
        "done": True,
        "raw": b"\xff",
        "size": 1.5,
        "weight": 0.5,
        "nothing": [None, None],
    }
    assert wire.decode_service_config(reference_file(schema, RECORD | extra, codec="deflate")) == SERVICE


def test_longs_and_named_types_used_again_are_read() -> None:
    changed = fields()
    changed[2]["type"] = "long"
    changed.append({"name": "more", "type": ["null", {"type": "array", "items": "Parameter"}]})
    schema = {"type": "record", "name": "Service", "fields": changed}
    more = [{"key": "k", "name": "n", "parameterType": 0}]
    assert wire.decode_service_config(reference_file(schema, RECORD | {"more": more})) == SERVICE
    with pytest.raises(WireError) as caught:
        wire.decode_service_config(reference_file(schema, RECORD | {"more": None, "version": 1 << 40}))
    assert caught.value.field == "version"


def test_what_we_write_the_reference_reads() -> None:
    with avro.datafile.DataFileReader(io.BytesIO(wire.encode_service_config(SERVICE)), avro.io.DatumReader()) as reader:
        assert list(reader) == [RECORD]


def test_a_config_without_a_field_of_a_service_is_refused_with_its_name() -> None:
    schema = {"type": "record", "name": "Service", "fields": [one for one in fields() if one["name"] != "outputPorts"]}
    record = {key: value for key, value in RECORD.items() if key != "outputPorts"}
    with pytest.raises(WireError) as caught:
        wire.decode_service_config(reference_file(schema, record))
    assert caught.value.field == "outputPorts"


def test_a_config_holds_one_service() -> None:
    schema = json.loads(wire.SERVICE_SCHEMA)
    for records in ((), (RECORD, RECORD)):
        with pytest.raises(WireError, match=f"{len(records)} records"):
            wire.decode_service_config(reference_file(schema, *records))


def test_every_cut_of_a_config_is_refused() -> None:
    body = (GOLDEN / "service.config").read_bytes()
    for end in range(len(body)):
        with pytest.raises(WireError):
            wire.decode_service_config(body[:end])


def test_a_config_of_json_is_refused_with_a_hint() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_service_config(json.dumps(RECORD).encode())
    assert "JSON" in (caught.value.hint or "")


# Damaged and hostile containers --------------------------------------------------------------------------------------


def read(body: bytes) -> list[object]:
    return read_container(body, Budget("values", 10_000), 1 << 20)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


def test_a_container_made_by_hand_is_read() -> None:
    assert read(container('"string"', text("a") + text("b"), count=2)) == ["a", "b"]
    assert read(container('"string"', deflated(text("a")), codec=b"deflate")) == ["a"]


def test_what_the_reference_leaves_of_a_checksum_behind_a_deflated_block_is_no_rubbish() -> None:
    left = zlib.compress(text("a"))[2:-1]
    assert read(container('"string"', left, codec=b"deflate")) == ["a"]
    with pytest.raises(WireError, match="does not unpack to its end"):
        read(container('"string"', left[:-1] + b"?", codec=b"deflate"))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (container('"int"', b"\x02", codec=b"snappy"), "'snappy'; only null and deflate"),
        (container('"int"', b"\x02", sync=b"t" * 16), "sync marker"),
        (container('"int"', b"\x02\x02"), "1 bytes too many at the end of the block"),
        (container('"int"', b"\x02", count=2), "ends where a number"),
        (container('"int"', b"\x02", count=-1), "block of -1 records"),
        (container('"null"', b"", count=1 << 40), "more values than the limit"),
        (container('"int"', b"garbage", codec=b"deflate"), "does not unpack"),
        (container('"int"', deflated(b"\x02") + b"x", codec=b"deflate"), "does not unpack to its end"),
        (container('"int"', deflated(b"\x02")[:-1], codec=b"deflate"), "does not unpack to its end"),
        (container('"int"', deflated(b"\x02\x02"), codec=b"deflate"), "byte 1 of the unpacked block"),
        (container('"bytes"', deflated(b"\0" * (1 << 24)), codec=b"deflate"), "more than the limit"),
        (container('"boolean"', b"\x02"), "boolean of value 2"),
        (b"Obj\x01\0" + b"s" * 16, "names no schema"),
        (b"Obj\x02", "no Avro container file"),
        (b"", "no Avro container file"),
    ],
)
def test_a_damaged_container_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        read(body)


@pytest.mark.parametrize(
    "schema",
    [
        "no json",
        "7",
        '"unheard"',
        '{"name": "x"}',
        '{"type": {"type": {"type": 7}}}',
        '{"type": "array"}',
        '{"type": "array", "items": {"type": {"a": 1}}}',
        '{"type": "record", "name": "R"}',
        '{"type": "record", "fields": []}',
        '{"type": "record", "name": "R", "fields": [{"name": "a"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a b", "type": "int"}]}',
        '{"type": "record", "name": "int", "fields": []}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}',
        '["int", {"type": "fixed", "name": "F", "size": -1}]',
        '["int", {"type": "enum", "name": "E", "symbols": []}]',
        "[" * 60 + "]" * 60,
        "[" * 30_000,
        '"' + "x" * 70_000 + '"',
    ],
)
def test_what_is_no_schema_is_refused(schema: str) -> None:
    with pytest.raises(WireError) as caught:
        read(container(schema, b""))
    assert caught.value.field == "avro.schema"
    assert len(caught.value.message) < 200


def test_a_record_that_contains_itself_is_read_and_ends_somewhere() -> None:
    schema = '{"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]}'
    assert read(container(schema, b"\x02\x02\0")) == [{"next": {"next": {"next": None}}}]
    endless = '{"type": "record", "name": "R", "fields": [{"name": "next", "type": "R"}]}'
    for body in (container(schema, b"\x02" * 500 + b"\0"), container(endless, b"")):
        with pytest.raises(WireError, match="nested deeper"):
            read(body)


def test_a_schema_that_doubles_itself_costs_no_more_than_the_budget() -> None:
    kind: object = {"type": "record", "name": "R0", "fields": []}
    for level in range(1, 15):
        again = f"R{level - 1}"
        pair = [{"name": "a", "type": kind}, {"name": "b", "type": again}]
        kind = {"type": "record", "name": f"R{level}", "fields": pair}
    began = time.process_time()
    with pytest.raises(WireError, match="more values than the limit"):
        read(container(kind, b""))
    assert time.process_time() - began < 2


def test_an_array_of_nothing_costs_no_more_than_the_budget() -> None:
    cursor = Cursor(number(1 << 40) + b"\0", Budget("values", 1000))
    with pytest.raises(WireError, match="more values than the limit of 1000"):
        compile_schema('{"type": "array", "items": "null"}')(cursor)


@pytest.mark.parametrize("path", ["", "name", "nodes[3].connections[0].port_idx", "[2].inputPorts[0]"])
def test_a_field_path_is_taken_apart_as_it_was_made(path: str) -> None:
    parts = field_parts(path)
    assert parts is not None and field_path(parts) == path


@pytest.mark.parametrize(
    "path", ["nodes[", "nodes[-1]", "nodes[x]", ".name", "a..b", "a b", "nodes[1]x", "nodes[1].", "ü"]
)
def test_what_is_no_field_path_is_none(path: str) -> None:
    assert field_parts(path) is None
