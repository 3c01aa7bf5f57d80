"""What goes into columns and what comes out of them, the same for every database.

Rows come from clients and from 2017 as well: whatever a column holds, reading it gives a value and never an error.
"""

import html
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from peachctl.store import Entry, Letter, NodeState, NodeStatus, Origin, Row, Status

NO_DATE = "1000-01-01 00:00:00"
"""What a date column holds where there is no date (contract)."""

SELECT = """SELECT q.id, q.user, q.execution_file, q.workflow_json, q.status, q.progress, q.original_workflow_file,
    q.sending_date, q.finished_date, q.priority, q.output_file,
    j.name, j.hub, j.scheduler, j.attempt, j.reason, r.host, l.queue_id
"""
"""What `row` is made of; `q` is the queue."""

BESIDE = """LEFT JOIN peach_jobs j ON j.queue_id = q.id
LEFT JOIN peach_runs r ON r.queue_id = q.id AND r.attempt = j.attempt
LEFT JOIN peach_left l ON l.queue_id = q.id
"""
"""The tables that it is joined with."""

TITLE_LENGTH = 255
BODY_LENGTH = 1 << 20

_INT64 = 1 << 63
_ENTITY = 6  # characters of `&quot;` and `&#x27;`, the longest that html.escape writes


def text(value: str) -> str:
    """A text that every database takes: lone surrogates (from JSON, from file names) as Python escapes them."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def title(name: str) -> str:
    """`original_workflow_file`: clients put it into their page as HTML. Escaped, then cut to 255 characters, but not
    inside an entity."""
    escaped = html.escape(text(name))
    cut = escaped[:TITLE_LENGTH]
    if len(escaped) > TITLE_LENGTH:
        # Every & of an escaped text begins an entity, so the last one is whole or cut.
        start = cut.rfind("&", TITLE_LENGTH - _ENTITY)
        if start >= 0 and ";" not in cut[start:]:
            cut = cut[:start]
    return cut


def local_time(seconds: float) -> str:
    """Unix seconds as the date columns have them: local time without fractions."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def date(value: object) -> datetime | None:
    """A date column; None for the default and for what is no date."""
    try:
        found = datetime.fromisoformat(_str(value))
    except ValueError:
        return None
    return None if found.year <= 1000 else found.replace(tzinfo=None)


def known_id(id: int) -> bool:
    """Whether a row may have this id; a larger number would be an error of the driver's."""
    return 0 < id < _INT64


def row(values: Sequence[Any]) -> Row:
    """A Row from the 11 columns, then: name, hub, scheduler, attempt, reason (of the job), host, left (or None)."""
    (id, user, execution_file, workflow_json, status, progress, original, sent, finished, priority, output) = values[
        :11
    ]
    name, hub, scheduler, attempt, reason, host, left = values[11:]
    known = status if status in tuple(Status) else None
    if left is not None:
        reason = "it was unfinished when this database was adopted: retry or cancel it"
    elif known is None:
        reason = f"its status in the database is {status!r}, which is none of 0 to 4"
    return Row(
        id=int(id),
        user=_str(user),
        execution_file=_str(execution_file),
        workflow_json=_str(workflow_json),
        status=Status.ERROR if known is None else Status(known),
        progress=_int(progress, 0),
        original_workflow_file=_str(original),
        sending_date=date(sent),
        finished_date=date(finished),
        priority=_int(priority, 1),
        output_file=_str(output),
        name=_name(_str(workflow_json), _str(original)) if name is None else name,
        attempt=attempt or 0,
        host=host,
        reason=reason,
        hub=hub,
        scheduler=scheduler,
    )


def begun(row: Row, attempt: int, host: str) -> Row:
    """The row as it is once an attempt of it has begun."""
    return replace(
        row,
        status=Status.PROCESSING,
        progress=0,
        finished_date=None,
        output_file="",
        attempt=attempt,
        host=host,
        reason=None,
    )


def holds_json(workflow_json: str) -> bool:
    """Whether the column still holds a workflow: in rows of 2017 backslashes were eaten and long texts cut."""
    try:
        found = json.loads(workflow_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("nodes"), list)


def node_values(state: NodeState) -> tuple[Any, ...]:
    """id, service, version, status, started, finished, error, outputs."""
    return (
        text(state.id),
        text(state.service),
        max(-_INT64, min(_INT64 - 1, state.version)),
        state.status.value,
        _seconds(state.started),
        _seconds(state.finished),
        None if state.error is None else json.dumps(state.error),
        None if state.outputs is None else json.dumps(state.outputs),
    )


def node(values: Sequence[Any]) -> NodeState:
    """The reverse of `node_values`."""
    id, service, version, status, started, finished, error, outputs = values
    return NodeState(
        id,
        service,
        version,
        NodeStatus(status),
        started,
        finished,
        None if error is None else json.loads(error),
        None if outputs is None else json.loads(outputs),
    )


def letter_values(letter: Letter, queue_id: int | None) -> tuple[Any, ...]:
    """reason, field, byte_offset, topic, part, off, file, size, body, received, queue_id."""
    origin = letter.origin
    return (
        text(letter.reason),
        text(letter.field),
        letter.byte_offset,
        None if origin is None else text(origin.topic),
        None if origin is None else origin.partition,
        None if origin is None else origin.offset,
        None if letter.file is None else text(letter.file),
        letter.size,
        letter.body[:BODY_LENGTH],
        letter.received,
        queue_id,
    )


def letter(values: Sequence[Any]) -> Letter:
    """A Letter from its number and the values of `letter_values`."""
    number, reason, field, byte_offset, topic, part, off, file, size, body, received, queue_id = values
    return Letter(
        reason=reason,
        field=field,
        byte_offset=byte_offset,
        origin=None if topic is None else Origin(topic, part, off),
        file=file,
        size=size,
        body=bytes(body),
        received=received,
        queue_id=queue_id,
        number=number,
    )


def queue_values(entry: Entry, status: Status, sent: str, finished: str) -> tuple[Any, ...]:
    """user, execution_file, workflow_json, status, original_workflow_file, sending_date, finished_date, priority."""
    return (
        text(entry.user),
        text(entry.execution_file),
        text(entry.workflow_json),
        int(status),
        title(entry.name),
        sent,
        finished,
        entry.priority,
    )


def _name(workflow_json: str, original: str) -> str:
    try:
        found = json.loads(workflow_json)
        if isinstance(found, dict) and isinstance(found.get("name"), str):
            return str(found["name"])
    except (ValueError, RecursionError):
        pass
    return html.unescape(original)


def _str(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _int(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _seconds(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
