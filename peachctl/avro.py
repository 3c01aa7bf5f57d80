"""Avro, read strictly: primitives with byte offset and field path, any writer's schema, container files.

After the Avro 1.12 specification, sections "Binary Encoding" and "Object Container Files". Stricter than the reference
where that costs no honest writer anything: an int fits 32 bits, a number has one spelling (no padding), the byte size
of a sized block is right, a boolean is 0 or 1, and nothing follows the end. All input is hostile: each array item and
each record is paid from a budget, so that neither a bloated message nor a schema that repeats itself costs more than
its limit.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, TypeAlias

from peachctl.errors import WireError

Reader: TypeAlias = "Callable[[Cursor], object]"

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
SCHEMA_BYTES = 1 << 16
DEPTH = 32

_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")


class Budget:
    """How many of something may still be read. name: what is counted, in the plural, as the refusal says it."""

    __slots__ = ("left", "limit", "name")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.left = limit


class Cursor:
    """A place in bytes, with the path of the field that is being read there.

    body[start:end] is what may be read; offsets in errors count from the start of body. `budget` pays for array items
    and records.
    """

    __slots__ = ("body", "budget", "depth", "end", "path", "pos")

    def __init__(self, body: bytes, budget: Budget, start: int = 0, end: int | None = None) -> None:
        self.body = body
        self.budget = budget
        self.pos = start
        self.end = len(body) if end is None else end
        self.path: list[str | int] = []
        self.depth = 0

    def refuse(self, problem: str, offset: int) -> NoReturn:
        """Raises the WireError that names this field and that byte."""
        raise WireError(problem, field=field_path(self.path), offset=offset)

    def read_long(self) -> int:
        """A zigzag number of at most 64 bits in its shortest spelling."""
        body, end, pos = self.body, self.end, self.pos
        start = pos
        value = shift = 0
        while True:
            if pos >= end:
                self.refuse("the input ends where a number is expected", start)
            byte = body[pos]
            pos += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift == 70:
                self.refuse("number of more than 10 bytes", start)
        if value >> 64:
            self.refuse("number of more than 64 bits", start)
        if byte == 0 and shift:
            self.refuse("number padded with empty bytes", start)
        self.pos = pos
        return (value >> 1) ^ -(value & 1)

    def read_int(self) -> int:
        """A number that fits 32 bits."""
        start = self.pos
        value = self.read_long()
        if not -0x8000_0000 <= value <= 0x7FFF_FFFF:
            self.refuse(f"{value} does not fit an int of 32 bits", start)
        return value

    def read_raw(self, size: int, what: str, start: int) -> bytes:
        """The next `size` bytes; start: offset that a refusal names."""
        if size < 0:
            self.refuse(f"{what} of negative length {size}", start)
        stop = self.pos + size
        if stop > self.end:
            self.refuse(f"{what} of {size} bytes, but only {self.end - self.pos} are left", start)
        data = self.body[self.pos : stop]
        self.pos = stop
        return data

    def read_bytes(self) -> bytes:
        start = self.pos
        return self.read_raw(self.read_long(), "bytes", start)

    def read_text(self) -> str:
        start = self.pos
        data = self.read_raw(self.read_long(), "text", start)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            self.refuse("text that is not UTF-8", self.pos - len(data) + error.start)

    def read_float(self) -> float:
        value: float = _FLOAT.unpack(self.read_raw(4, "float", self.pos))[0]
        return value

    def read_double(self) -> float:
        value: float = _DOUBLE.unpack(self.read_raw(8, "double", self.pos))[0]
        return value

    def read_boolean(self) -> bool:
        start = self.pos
        byte = self.read_raw(1, "boolean", start)[0]
        if byte > 1:
            self.refuse(f"boolean of value {byte}", start)
        return byte == 1

    def read_branch(self, count: int) -> int:
        """Index of a union branch, below count."""
        start = self.pos
        index = self.read_long()
        if not 0 <= index < count:
            self.refuse(f"union branch {index}, where branches 0 to {count - 1} exist", start)
        return index

    def items(self, budget: Budget, least: int = 1) -> Iterator[int]:
        """Indexes of an array's items (or a map's entries), block by block; the caller reads one item at each step.

        least: bytes that the smallest item takes, 0 if it may be empty.
        """
        index = 0
        while True:
            start = self.pos
            count = self.read_long()
            if count == 0:
                return
            stop = None
            if count < 0:
                count = -count
                size = self.read_long()
                if not 0 <= size <= self.end - self.pos:
                    self.refuse(f"block of {size} bytes, but {self.end - self.pos} are left", start)
                stop = self.pos + size
            if count * least > self.end - self.pos:
                self.refuse(f"block of {count} items, but only {self.end - self.pos} bytes are left", start)
            if count > budget.left:
                self.refuse(f"more {budget.name} than the limit of {budget.limit}", start)
            budget.left -= count
            for _ in range(count):
                self.path.append(index)
                yield index
                self.path.pop()
                index += 1
            if stop is not None and self.pos != stop:
                self.refuse(f"block whose items end at byte {self.pos}, not at byte {stop} as it says", start)

    def spend(self) -> None:
        """Pays for one record; refuses the one beyond the limit."""
        self.budget.left -= 1
        if self.budget.left < 0:
            self.refuse(f"more {self.budget.name} than the limit of {self.budget.limit}", self.pos)

    def finish(self, last: str) -> None:
        """Refuses bytes that follow the end. last: name of the last field, to say after what they come."""
        if self.pos != self.end:
            self.refuse(f"{self.end - self.pos} bytes too many after the last field, {last}", self.pos)


def field_path(parts: list[str | int] | tuple[str | int, ...]) -> str:
    """`nodes[3].connections[0].port_idx` of ("nodes", 3, "connections", 0, "port_idx")."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_PARTS = re.compile(r"(?:\A|(?<=.)\.)([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]{1,9})\]")


def field_parts(path: str) -> tuple[str | int, ...] | None:
    """`("nodes", 3, "id")` of `nodes[3].id`, the reverse of `field_path`; () of an empty one, None of what is none."""
    parts: list[str | int] = []
    position = 0
    while position < len(path):
        found = _PARTS.match(path, position)
        if found is None:
            return None
        parts.append(found[1] if found[2] is None else int(found[2]))
        position = found.end()
    return tuple(parts)


# Schemas -------------------------------------------------------------------------------------------------------------

_PRIMITIVES: dict[str, Reader] = {
    "null": lambda _cursor: None,
    "boolean": Cursor.read_boolean,
    "int": Cursor.read_int,
    "long": Cursor.read_long,
    "float": Cursor.read_float,
    "double": Cursor.read_double,
    "bytes": Cursor.read_bytes,
    "string": Cursor.read_text,
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # section "Names"
_SOME_BYTES = frozenset({"boolean", "int", "long", "float", "double", "bytes", "string", "array", "map"})


def compile_schema(text: str | bytes) -> Reader:
    """The reader of what a schema (JSON) describes: dict for a record or map, list for an array, the value for a union.

    raises WireError, field `avro.schema`, when the schema is none.
    """
    if len(text) > SCHEMA_BYTES:
        raise _bad_schema(f"longer than {SCHEMA_BYTES} bytes")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad_schema("not JSON") from None
    return _compile(schema, {}, "", 0)


def _bad_schema(problem: str) -> WireError:
    return WireError(f"the writer's schema: {problem}", field="avro.schema")


def _compile(schema: object, names: dict[str, Reader], space: str, depth: int) -> Reader:
    if depth > DEPTH:
        raise _bad_schema(f"nested deeper than {DEPTH}")
    if isinstance(schema, str):
        return _named(schema, names, space)
    if isinstance(schema, list):
        return _union([_compile(branch, names, space, depth + 1) for branch in schema])
    if not isinstance(schema, dict):
        raise _bad_schema("a type that is neither a name nor a description")
    kind = schema.get("type")
    if isinstance(kind, dict | list):
        return _compile(kind, names, space, depth + 1)
    if kind in ("record", "error", "enum", "fixed"):
        return _definition(schema, str(kind), names, space, depth)
    if kind in ("array", "map"):
        member = schema.get("items" if kind == "array" else "values")
        inner = _compile(member, names, space, depth + 1)
        least = int(_takes_bytes(member))
        return _array(inner, least) if kind == "array" else _map(inner)
    return _named(kind, names, space)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _takes_bytes(schema: object) -> bool:
    """Whether no value of the schema is empty; False where that takes more than a look."""
    kind = schema.get("type") if isinstance(schema, dict) else schema
    return isinstance(kind, list) or (isinstance(kind, str) and kind in _SOME_BYTES)


def _named(name: object, names: Mapping[str, Reader], space: str) -> Reader:
    if not isinstance(name, str):
        raise _bad_schema("a type without a name")
    if name in _PRIMITIVES:
        return _PRIMITIVES[name]
    full = name if "." in name or not space else f"{space}.{name}"
    if full not in names:
        raise _bad_schema(f"unknown type {name[:80]!r}")
    return names[full]


def _definition(schema: Mapping[str, object], kind: str, names: dict[str, Reader], space: str, depth: int) -> Reader:
    name = schema.get("name")
    given = schema.get("namespace", space)
    if not isinstance(name, str) or not isinstance(given, str):
        raise _bad_schema(f"a type {kind} without a name")
    full = name if "." in name or not given else f"{given}.{name}"
    if not all(_NAME.fullmatch(part) for part in full.split(".")) or full in _PRIMITIVES:
        raise _bad_schema(f"{full[:80]!r} is no name for a type")
    if full in names:
        raise _bad_schema(f"type {full[:80]!r} defined twice")
    if kind == "fixed":
        size = schema.get("size")
        if type(size) is not int or size < 0:
            raise _bad_schema(f"fixed type {full[:80]!r} without a size")
        names[full] = _fixed(size)
    elif kind == "enum":
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
            raise _bad_schema(f"enum {full[:80]!r} without symbols")
        names[full] = _enum(symbols)
    else:
        fields: list[tuple[str, Reader]] = []
        names[full] = _record(fields)  # before its fields are known: a record may contain itself
        entries = schema.get("fields")
        if not isinstance(entries, list):
            raise _bad_schema(f"record {full[:80]!r} without fields")
        for entry in entries:
            if not isinstance(entry, dict) or "type" not in entry or not _is_name(entry.get("name")):
                raise _bad_schema(f"record {full[:80]!r} with a field that has no name or no type")
            if any(entry["name"] == known for known, _ in fields):
                raise _bad_schema(f"record {full[:80]!r} with two fields {entry['name'][:80]!r}")
            inner_space = full.rpartition(".")[0]
            fields.append((entry["name"], _compile(entry["type"], names, inner_space, depth + 1)))
    return names[full]


def _record(fields: list[tuple[str, Reader]]) -> Reader:
    def read(cursor: Cursor) -> object:
        cursor.spend()
        if cursor.depth == DEPTH:
            cursor.refuse(f"records nested deeper than {DEPTH}", cursor.pos)
        cursor.depth += 1
        record: dict[str, object] = {}
        for name, reader in fields:
            cursor.path.append(name)
            record[name] = reader(cursor)
            cursor.path.pop()
        cursor.depth -= 1
        return record

    return read


def _array(inner: Reader, least: int) -> Reader:
    return lambda cursor: [inner(cursor) for _ in cursor.items(cursor.budget, least)]


def _map(inner: Reader) -> Reader:
    def read(cursor: Cursor) -> object:
        found: dict[str, object] = {}
        for _ in cursor.items(cursor.budget):
            key = cursor.read_text()
            found[key] = inner(cursor)
        return found

    return read


def _union(branches: list[Reader]) -> Reader:
    return lambda cursor: branches[cursor.read_branch(len(branches))](cursor)


def _fixed(size: int) -> Reader:
    return lambda cursor: cursor.read_raw(size, "fixed", cursor.pos)


def _enum(symbols: list[str]) -> Reader:
    return lambda cursor: symbols[cursor.read_branch(len(symbols))]


# Container files -----------------------------------------------------------------------------------------------------


def read_container(body: bytes, budget: Budget, inflated_bytes: int) -> list[object]:
    """The records of a container file, read with the schema that its writer put into it.

    budget: array items and records of the whole file; inflated_bytes: most bytes that its deflated blocks may make.
    raises WireError when it is no container, is compressed otherwise than by `deflate`, or is damaged.
    """
    if not body.startswith(MAGIC):
        raise WireError("no Avro container file: it does not begin with `Obj` and a 1", offset=0)
    cursor = Cursor(body, budget, start=len(MAGIC))
    head = _head(cursor)
    codec = head.get("avro.codec", b"null")
    if codec not in (b"null", b"deflate"):
        shown = codec[:40].decode("ascii", "replace")
        raise WireError(f"compressed by {shown!r}; only null and deflate are read", field="avro.codec")
    if "avro.schema" not in head:
        raise WireError("the file names no schema", field="avro.schema")
    reader = compile_schema(head["avro.schema"])
    sync = cursor.read_raw(SYNC_BYTES, "sync marker", cursor.pos)
    records: list[object] = []
    while cursor.pos < cursor.end:
        start = cursor.pos
        count, size = cursor.read_long(), cursor.read_long()
        if count < 0 or not 0 <= size <= cursor.end - cursor.pos:
            cursor.refuse(f"block of {count} records in {size} bytes, where {cursor.end - cursor.pos} are left", start)
        if count > budget.left:
            cursor.refuse(f"more {budget.name} than the limit of {budget.limit}", start)
        budget.left -= count
        if codec == b"null":
            records += _block(Cursor(body, budget, cursor.pos, cursor.pos + size), reader, count)
            cursor.pos += size
        else:
            data = _inflate(cursor.read_raw(size, "block", start), inflated_bytes, start)
            inflated_bytes -= len(data)
            try:
                records += _block(Cursor(data, budget), reader, count)
            except WireError as error:
                problem = f"{error.problem} (byte {error.offset} of the unpacked block)"
                raise WireError(problem, field=error.field, offset=start) from None
        if cursor.read_raw(SYNC_BYTES, "sync marker", cursor.pos) != sync:
            cursor.refuse("block that does not end with the file's sync marker", cursor.pos - SYNC_BYTES)
    return records


def _head(cursor: Cursor) -> dict[str, bytes]:
    head: dict[str, bytes] = {}
    for _ in cursor.items(cursor.budget, 2):
        key = cursor.read_text()
        head[key] = cursor.read_bytes()
    return head


def _block(cursor: Cursor, reader: Reader, count: int) -> list[object]:
    records = [reader(cursor) for _ in range(count)]
    if cursor.pos != cursor.end:
        cursor.refuse(f"{cursor.end - cursor.pos} bytes too many at the end of the block", cursor.pos)
    return records


def _inflate(data: bytes, most: int, offset: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=-15)  # raw deflate, no zlib header: section "Required Codecs"
    try:
        plain = unpacker.decompress(data, most + 1)
    except zlib.error:
        raise WireError("block that does not unpack", offset=offset) from None
    if len(plain) > most:
        raise WireError("blocks that unpack to more than the limit", offset=offset)
    # The reference's Python writer cuts zlib's frame off one byte only of the checksum: the rest of it may follow.
    checksum = zlib.adler32(plain).to_bytes(4, "big")
    if not unpacker.eof or not checksum.startswith(unpacker.unused_data):
        raise WireError("block that does not unpack to its end", offset=offset)
    return plain
