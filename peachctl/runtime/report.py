"""What a run says while it runs: node states, progress and log lines, to the executor or to a terminal.

To the executor: one JSON object per datagram on a SOCK_SEQPACKET socket that all processes of the run share, each
at most 64 KiB:

    {"event":"graph","nodes":[{"id","service","version"}, ...]}   first, in topological order, at most 200 a datagram
    {"event":"node","id","status":"running|success|error|skipped|reused","at","error","outputs"}
    {"event":"progress","percent"}
    {"event":"log","node","level","message"}
    {"event":"end","failed"}

`at` is in seconds since 1970, `error` null or {"type","message","traceback"}, `outputs` null or a list of JSON values.
An id of more than 1,000 bytes is reported cut, the same way in each event.
"""

import hashlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterable
from reprlib import Repr
from typing import Any, NoReturn, Protocol

from peachctl.masking import mask
from peachctl.names import printable
from peachctl.runtime.failure import Failure, cut

DATAGRAM = 64 << 10
CHUNK = 200
OUTPUTS_BYTES = 8192

_ID_BYTES = 1000
_PLAIN_ITEMS = 200
_SETTLED = {"success": "32", "reused": "32", "error": "31", "skipped": "33"}

_short = Repr()
_short.maxstring = _short.maxother = 400


class Reporter(Protocol):
    """Where a run reports to. Any process and thread of the run may call; nothing is raised when nobody listens."""

    def graph(self, nodes: Iterable[tuple[str, str, int]]) -> None:
        """The nodes in topological order: (id, service, version)."""
        ...

    def node(self, id: str, status: str, error: Failure | None = None, outputs: list[Any] | None = None) -> None:
        """A node has this status now."""
        ...

    def progress(self, percent: int) -> None:
        """What a service says of the whole workflow, 0 to 100."""
        ...

    def log(self, node: str, level: str, message: str) -> None:
        """A line that a service logged (`info`, `warning`, `error`), passwords masked."""
        ...

    def end(self, failed: int) -> None:
        """All nodes are settled; so many of them failed or were skipped."""
        ...


class ExecutorReporter:
    """Reports by datagrams. When the executor is gone the process ends at once and quietly: nobody owns it any more."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)  # programs that services start have no business with it
        self._socket.setblocking(True)

    def graph(self, nodes: Iterable[tuple[str, str, int]]) -> None:
        chunk: list[dict[str, Any]] = []
        size = 0
        for id, service, version in nodes:
            item = {"id": short_id(id), "service": cut(service, _ID_BYTES), "version": version}
            weight = len(json.dumps(item))
            if chunk and (len(chunk) == CHUNK or size + weight > DATAGRAM // 2):
                self._send({"event": "graph", "nodes": chunk})
                chunk, size = [], 0
            chunk.append(item)
            size += weight
        self._send({"event": "graph", "nodes": chunk})

    def node(self, id: str, status: str, error: Failure | None = None, outputs: list[Any] | None = None) -> None:
        event = {
            "event": "node",
            "id": short_id(id),
            "status": status,
            "at": time.time(),
            "error": error,
            "outputs": outputs,
        }
        self._send(event)

    def progress(self, percent: int) -> None:
        self._send({"event": "progress", "percent": percent})

    def log(self, node: str, level: str, message: str) -> None:
        self._send({"event": "log", "node": short_id(node), "level": level, "message": cut(message, 4096)})

    def end(self, failed: int) -> None:
        self._send({"event": "end", "failed": failed})

    def close(self) -> None:
        self._socket.close()

    def _send(self, event: dict[str, Any]) -> None:
        raw = json.dumps(event, allow_nan=False).encode()
        limit = 8192
        while len(raw) > DATAGRAM:  # texts full of control characters grow sixfold in JSON
            limit //= 2
            raw = json.dumps(_shrunk(event, limit), allow_nan=False).encode()
        try:
            self._socket.sendall(raw)
        except OSError:
            _quit()


class TerminalReporter:
    """Reports to the person who started the script: a line on stderr for each change."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._services: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._begin = time.monotonic()
        dumb = os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
        self._colour = bool(os.environ.get("FORCE_COLOR")) or (os.isatty(2) and not dumb)

    def graph(self, nodes: Iterable[tuple[str, str, int]]) -> None:
        for id, service, version in nodes:
            self._services[id] = f"{printable(service, 60)} {version}"
        self._say(f"{len(self._services)} nodes")

    def node(self, id: str, status: str, error: Failure | None = None, outputs: list[Any] | None = None) -> None:
        del outputs  # files and numbers: they are in the folder
        word = f"{status:<8}"
        if self._colour and status in _SETTLED:
            word = f"\x1b[{_SETTLED[status]}m{word}\x1b[0m"
        line = f"{time.monotonic() - self._begin:8.2f} s  {word} {printable(id, 60)} ({self._services.get(id, '?')})"
        if error is None:
            self._say(line)
            return
        lines = [f"{line}: {printable(error['message'], 1000)}"]
        lines += ["    " + printable(row, 300) for row in error["traceback"].splitlines()]
        self._say("\n".join(lines))

    def progress(self, percent: int) -> None:
        self._say(f"{time.monotonic() - self._begin:8.2f} s  {percent} %")

    def log(self, node: str, level: str, message: str) -> None:
        """Nothing: what is logged is printed by `ServiceUtility` itself."""

    def end(self, failed: int) -> None:
        total = len(self._services)
        verdict = f"all {total} nodes succeeded" if not failed else f"{failed} of {total} nodes failed or were skipped"
        self._say(f"{verdict}; the workflow's folder is {self._folder}")

    def _say(self, text: str) -> None:
        try:
            os.write(2, (text + "\n").encode(errors="backslashreplace"))  # one write: processes don't mix their lines
        except OSError:
            pass


def short_id(id: str) -> str:
    """The id as it is reported: itself, or, beyond 1,000 bytes, its beginning and a hash."""
    if len(id) * 4 <= _ID_BYTES:
        return id
    raw = id.encode(errors="surrogatepass")
    if len(raw) <= _ID_BYTES:
        return id
    return f"{id[:200]}…{hashlib.sha256(raw).hexdigest()[:16]}"


def shown(values: Iterable[Any]) -> list[Any]:
    """Values as JSON can hold them, passwords masked, else their `repr`; all together at most 8 KiB of JSON."""
    plain = [_plain(value, 4) for value in values]
    if not any(isinstance(value, str | list | dict) for value in plain):
        return plain
    room = OUTPUTS_BYTES
    for limit in (4096, 400, 60):
        texts = [json.dumps(value) for value in plain]
        if sum(map(len, texts)) <= room:
            return plain
        plain = [value if len(text) <= limit else cut(text, limit) for value, text in zip(plain, texts, strict=True)]
    while plain and len(json.dumps(plain)) > room:
        plain = [*plain[: len(plain) // 2], "..."]
    return plain


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or (kind is int and -(2**63) <= value < 2**63):
        return value
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if kind is str:
        return mask(cut(value, OUTPUTS_BYTES // 2))
    if kind in (list, tuple) and depth and len(value) <= _PLAIN_ITEMS:
        return [_plain(item, depth - 1) for item in value]
    if kind is dict and depth and len(value) <= _PLAIN_ITEMS and all(type(key) is str for key in value):
        return {mask(cut(key, 400)): _plain(item, depth - 1) for key, item in value.items()}
    try:
        return mask(_short.repr(value))
    except Exception:  # noqa: BLE001 - the value's class is the service's
        return f"<{kind.__name__}>"


def _shrunk(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return cut(value, max(limit, 16))
    if isinstance(value, list):
        return [_shrunk(item, limit) for item in value[: max(limit // 16, 1)]]
    if isinstance(value, dict):
        return {key: item if key == "id" else _shrunk(item, limit) for key, item in value.items()}
    return value


def _quit() -> NoReturn:
    sys.stdout.flush()
    os._exit(1)
