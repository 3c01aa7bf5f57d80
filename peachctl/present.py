"""Rows, nodes and dead letters as the JSON that scripts rely on (docs/cli.md). Keys are only ever added."""

from datetime import datetime
from pathlib import Path
from typing import Any

from peachctl.masking import mask, mask_value
from peachctl.store import Letter, NodeState, Row, Status


def when(moment: datetime | None) -> str | None:
    """A naive local time of the table as ISO 8601 with offset."""
    return None if moment is None else moment.astimezone().isoformat()


def at(seconds: float | None) -> str | None:
    """Unix seconds as ISO 8601 with the local offset."""
    return None if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat()


def row(one: Row, *, reveal: bool = False) -> dict[str, Any]:
    """A workflow of the queue."""
    shown = (lambda text: text) if reveal else mask
    return {
        "id": one.id,
        "user": shown(one.user),
        "name": shown(one.name),
        "status": one.status.word,
        "progress": one.progress,
        "priority": one.priority,
        "sending_date": when(one.sending_date),
        "finished_date": when(one.finished_date),
        "execution_file": one.execution_file,
        "output_file": one.output_file,
        "attempt": one.attempt,
        "host": one.host,
        "reason": None if one.reason is None else shown(one.reason),
    }


def node(one: NodeState, *, reveal: bool = False) -> dict[str, Any]:
    """One node of a workflow."""
    body = {
        "id": one.id,
        "service": one.service,
        "version": one.version,
        "status": one.status.value,
        "started": at(one.started),
        "finished": at(one.finished),
        "error": one.error,
        "outputs": one.outputs or [],
    }
    return body if reveal else mask_value(body)


def detail(one: Row, nodes: list[NodeState], download_files: Path, *, reveal: bool = False) -> dict[str, Any]:
    """What `run` and `queue show` tell: the workflow, where its output lies, and its nodes."""
    path = str(download_files / one.output_file) if one.output_file else None
    return {
        **row(one, reveal=reveal),
        "output_path": path,
        "nodes": [node(state, reveal=reveal) for state in nodes],
    }


def letter(one: Letter) -> dict[str, Any]:
    """A dead letter of the list."""
    return {
        "number": one.number,
        "reason": mask(one.reason),
        "field": one.field or None,
        "topic": one.origin.topic if one.origin and one.file is None else None,
        "partition": one.origin.partition if one.origin and one.file is None else None,
        "offset": one.origin.offset if one.origin and one.file is None else None,
        "file": one.file,
        "size": one.size,
        "received": at(one.received),
        "code": one.reason.partition(":")[0],
        "id": one.queue_id,
    }


def status_of(word: str) -> Status:
    """The status that a word of the command line names. Raises ValueError."""
    return Status[word.upper()]
