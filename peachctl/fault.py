"""What can be told of a message that does not decode: how far it goes, what is expected at the spot, and where it is.

The decoders of `wire` and `jsonform` refuse strictly; here the same ones read once more and keep what they have read.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from peachctl import wire
from peachctl.avro import Budget, Cursor, field_parts
from peachctl.errors import WireError
from peachctl.jsonform import Limits, Path, parameter_to_json
from peachctl.workflow import Double

T = TypeVar("T")

_TEXT = "string: its length in bytes (a varint), then as many bytes of UTF-8"
_INT = "int: a zigzag varint of at most 5 bytes (32 bits)"
_UNIONS = {
    5: "union string|int|double|float|null: the index of the branch, one byte 00, 02, 04, 06 or 08",
    2: "union connection|null: the index of the branch, one byte 00 or 02",
}
_NULL = {5: 4, 2: 1}
_IN_JSON = {
    "": "an object with name, user and nodes",
    "name": "text",
    "user": "text",
    "nodes": "a list of nodes",
    "nodes[]": "an object with id, service, parameters and connections",
    "nodes[].id": "text",
    "nodes[].service": "an object with id and version",
    "nodes[].service.id": "text",
    "nodes[].service.version": "a whole number of 32 bits",
    "nodes[].parameters": "a list of texts, numbers and nulls",
    "nodes[].parameters[]": "text, a number or null",
    "nodes[].connections": "a list of connections and nulls",
    "nodes[].connections[]": "an object with port_idx and node_id, or null",
    "nodes[].connections[].port_idx": "a whole number of 32 bits",
    "nodes[].connections[].node_id": "text",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """error: the refusal. decoded: JSON values of what stands before it, None where that is nothing (or JSON that
    does not parse). expected: what the schema wants there. line, column: of the spot in JSON, from 1."""

    error: WireError
    decoded: object = None
    expected: str | None = None
    line: int | None = None
    column: int | None = None


def examine(body: bytes, name: str, limits: Limits = wire.DEFAULT_LIMITS) -> Fault | None:
    """What is wrong with a message, None when nothing is. name: as for `wire.decode_file`."""
    try:
        wire.decode_file(body, name, limits)
    except WireError as error:
        return _in_json(body, error) if wire.may_be_json(name) else _in_avro(body, error, limits)
    return None


def without_indices(field: str) -> str:
    """`nodes[].service.id` of `nodes[3].service.id`: the same fault, wherever it stands."""
    return re.sub(r"\[\d+\]", "[]", field)


# Avro


class _Keeping(Cursor):
    """A cursor that keeps what was read, and knows what it is about to read."""

    __slots__ = ("decoded", "expected")

    def __init__(self, body: bytes, budget: Budget) -> None:
        super().__init__(body, budget)
        self.decoded: dict[str | int, object] = {}
        self.expected = ""

    def read_text(self) -> str:
        self.expected = _TEXT
        return self._kept(super().read_text())

    def read_int(self) -> int:
        self.expected = _INT
        return self._kept(super().read_int())

    def read_double(self) -> float:
        self.expected = "double: 8 bytes, little endian"
        return self._kept(super().read_double())

    def read_float(self) -> float:
        self.expected = "float: 4 bytes, little endian"
        return self._kept(super().read_float())

    def read_branch(self, count: int) -> int:
        self.expected = _UNIONS[count]
        index = super().read_branch(count)
        if index == _NULL[count]:
            self._kept(None)
        return index

    def items(self, budget: Budget, least: int = 1) -> Iterator[int]:
        self._kept([])
        block = f"array of {self.path[-1]}: how many items its next block has (a varint), 00 after the last one"
        items = super().items(budget, least)
        while True:
            self.expected = block
            try:
                index = next(items)
            except StopIteration:
                return
            yield index

    def finish(self, last: str) -> None:
        self.expected = "the end of the message"
        super().finish(last)

    def _kept(self, value: T) -> T:
        place: dict[str | int, object] | list[object] = self.decoded
        for part, inner in zip(self.path, self.path[1:], strict=False):
            fresh: object = [] if isinstance(inner, int) else {}
            if isinstance(place, list):
                if part == len(place):
                    place.append(fresh)
                deeper = place[int(part)]
            else:
                deeper = place.setdefault(part, fresh)
            assert isinstance(deeper, dict | list)
            place = deeper
        shown = parameter_to_json(Double(value)) if isinstance(value, float) else value
        if isinstance(place, list):
            place.append(shown)
        else:
            place[self.path[-1]] = shown
        return value


def _in_avro(body: bytes, error: WireError, limits: Limits) -> Fault:
    cursor = _Keeping(body, Budget("ports and parameters", limits.values))
    try:
        wire.read_workflow(cursor, limits)
    except WireError as seen:
        expected = cursor.expected if seen.offset == error.offset else None
        return Fault(error, cursor.decoded or None, expected)
    return Fault(error, cursor.decoded, f"the end of a message of at most {limits.message_bytes} bytes")


# JSON


def _in_json(body: bytes, error: WireError) -> Fault:
    expected = _IN_JSON.get(without_indices(error.field)) if error.field or error.offset is None else None
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        before = wrong.object[: wrong.start]
        return Fault(error, line=before.count(b"\n") + 1, column=wrong.start - before.rfind(b"\n"))
    try:
        # What is shown must be JSON again, so there are no numbers in it that JSON does not have.
        value = json.loads(text, parse_constant=str, parse_float=_finite)
    except json.JSONDecodeError as wrong:
        return Fault(error, line=wrong.lineno, column=wrong.colno)
    except (ValueError, RecursionError):
        return Fault(error)
    if not _shallow(value):
        return Fault(error)
    parts = field_parts(error.field)
    if not parts:
        return Fault(error, value, expected)
    position = _position(text, parts)
    return Fault(error, value, expected, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _finite(digits: str) -> object:
    value = float(digits)
    return value if math.isfinite(value) else digits


def _shallow(value: object, levels: int = 32) -> bool:
    """Whether a JSON value is nested so little that whatever shows it can follow."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_shallow(item, levels - 1) for item in inner)


_BLANK = re.compile(r"[ \t\r\n]*")
_value_at = json.JSONDecoder().raw_decode


def _position(text: str, path: Path) -> int:
    """Where the value of a path begins in a JSON text that parses; of one that is missing, what should hold it."""
    position = _skip(text, 0)
    for part in path:
        inner = _member(text, position, part)
        if inner is None:
            break
        position = inner
    return position


def _member(text: str, position: int, wanted: str | int) -> int | None:
    """Where an item of the list, or a member of the object, that begins at `position` begins."""
    if text[position] != ("[" if isinstance(wanted, int) else "{"):
        return None
    position = _skip(text, position + 1)
    index = 0
    while text[position] not in "]}":
        key: str | int = index
        if isinstance(wanted, str):
            key, position = _value_at(text, position)
            position = _skip(text, _skip(text, position) + 1)
        if key == wanted:
            return position
        _, position = _value_at(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
        index += 1
    return None


def _skip(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position
