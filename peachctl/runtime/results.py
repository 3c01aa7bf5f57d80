"""Results of nodes: bytes between processes, and kept beside the workflow's folder for a retry to go on from.

A value is pickled once; the same bytes travel to the processes of the nodes that read it and lie in the kept file.
Paths inside the attempt's folder are written relative to it, for the next attempt's executor renames that folder.

Each process of a run appends to a file of its own, for a file per node costs ten times as much. A record of it:
`MAGIC`, key (32 bytes), length of the body (8), SHA-256 of the body (32), body. Nothing is fsynced: a record that a
power failure tore is found by its length or checksum, and counts as not there; so does what follows it in that file.
"""

import contextlib
import hashlib
import io
import os
import pickle
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from peachctl.runtime.failure import ServiceError

MAGIC = b"peach-r1"
_KEY = len(MAGIC) + 32
_LENGTH = _KEY + 8
_HEADER = _LENGTH + 32
_VERSION_MODULE = re.compile(r"(.+)\.v(\d+)(?:\.|\Z)")
# Beyond this a file of a service (weights of a network, an atlas) is known by size and time, not by its content.
_WHOLE_FILE = 4 << 20


class Unpicklable(ServiceError):
    """A value that cannot leave its process."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a record of kept results holds: the pickled values by port, and the outputs as they are shown."""

    ports: dict[int, bytes]
    shown: list[Any]


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, root: str, paths: set[str]) -> None:
        super().__init__(stream, 5)
        self._root = root
        self._inside = root + os.sep
        self._paths = paths

    def persistent_id(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            if value[:1] != "/" or len(value) > 4096:
                return None
            if value.startswith(self._inside):
                self._paths.add(value)
                return ("path", value[len(self._inside) :])
            self._paths.add(value)
        elif isinstance(value, PurePath):
            text = str(value)
            if text.startswith(self._inside):
                self._paths.add(text)
                return (kind.__name__, text[len(self._inside) :])
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, root: str) -> None:
        super().__init__(stream)
        self._root = root

    def persistent_load(self, saved: Any) -> Any:
        kind, rest = saved
        path = os.path.join(self._root, rest)  # noqa: PTH118 - a text again, as it was
        return (
            path if kind == "path" else Path(path) if kind.endswith("Path") and "Pure" not in kind else PurePath(path)
        )

    def find_class(self, module: str, name: str) -> Any:
        # a class of a service that this process has not imported yet
        from peachctl.runtime.services import import_for_unpickling

        found = _VERSION_MODULE.match(module)
        if found:
            import_for_unpickling(found[1], int(found[2]))
        return super().find_class(module, name)


class Values:
    """Pickles and unpickles the values of one attempt. root: the attempt's folder, absolute."""

    def __init__(self, root: str) -> None:
        self.root = root

    def dumps(self, value: Any, paths: set[str]) -> bytes:
        """The value as bytes; absolute paths in it are added to `paths`. Raises Unpicklable."""
        stream = io.BytesIO()
        try:
            _Pickler(stream, self.root, paths).dump(value)
        except Exception as error:
            raise Unpicklable(
                f"the service returned {type(value).__name__}, which can't be pickled: {type(error).__name__}: {error}"
            ) from error
        return stream.getvalue()

    def loads(self, raw: bytes) -> Any:
        """The value again. Raises ServiceError for one that cannot be read in this process."""
        try:
            return _Unpickler(io.BytesIO(raw), self.root).load()
        except Exception as error:
            raise ServiceError(f"an input can't be unpickled here: {type(error).__name__}: {error}") from error


class Results:
    """The folder of kept results of one workflow. root: the attempt's folder, absolute. Used by all processes and
    threads of a run; what one keeps is found by the next attempt, not by this one."""

    def __init__(self, folder: str, root: str) -> None:
        self._folder = folder
        self._root = root
        self._lock = threading.Lock()
        self._owner = 0
        self._file = -1
        self._size = 0
        self._found: dict[bytes, tuple[int, int, int, bytes]] | None = None
        os.makedirs(folder, mode=0o750, exist_ok=True)  # noqa: PTH103 - paths stay texts here: 10,000 of them

    def keep(self, key: str, ports: Mapping[int, bytes], shown: list[Any], paths: set[str]) -> None:
        """Keeps the results of a node that succeeded. What the disk refuses is not kept; the node is done anyway."""
        there = sorted(path for path in paths if os.path.lexists(path))
        body = pickle.dumps((self._root, there, dict(ports), shown), 5)
        record = b"".join(
            (MAGIC, bytes.fromhex(key), len(body).to_bytes(8, "big"), hashlib.sha256(body).digest(), body)
        )
        with self._lock:
            try:
                self._append(record)
            except OSError:
                if self._file >= 0:
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._file, self._size)

    def _append(self, record: bytes) -> None:
        if self._owner != os.getpid():
            self._file = -1
            name = f"{self._folder}/{os.getpid()}-{secrets.token_hex(4)}"
            self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
            self._owner, self._size = os.getpid(), 0
        view = memoryview(record)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(record)

    def find(self, key: str) -> Kept | None:
        """What an earlier attempt kept under this key, None if nothing, or nothing that can be relied on: torn, or
        naming files that are no longer there."""
        with self._lock:
            if self._found is None:
                self._found = self._look()
        place = self._found.get(bytes.fromhex(key))
        if place is None:
            return None
        file, offset, size, digest = place
        try:
            body = os.pread(file, size, offset)
        except OSError:
            return None
        if hashlib.sha256(body).digest() != digest:
            return None
        root, paths, ports, shown = pickle.loads(body)  # noqa: S301 - written by this workflow's own attempts
        for path in paths:
            if not os.path.lexists(_moved(path, root, self._root)):
                return None
        return Kept(ports, _moved_all(shown, root, self._root))

    def _look(self) -> dict[bytes, tuple[int, int, int, bytes]]:
        """Where each record lies: open file, offset, size and checksum of its body. The newest of a key counts."""
        found = {}
        for entry in sorted(os.scandir(self._folder), key=lambda one: one.stat().st_mtime_ns):
            try:
                file = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            end, position = os.fstat(file).st_size, 0
            while position + _HEADER <= end:
                head = os.pread(file, _HEADER, position)
                size = int.from_bytes(head[_KEY:_LENGTH], "big")
                position += _HEADER
                if not head.startswith(MAGIC) or position + size > end:
                    break
                found[head[len(MAGIC) : _KEY]] = (file, position, size, head[_LENGTH:])
                position += size
        return found


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(old + os.sep) else path


def _moved_all(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return _moved(value, old, new)
    if isinstance(value, list):
        return [_moved_all(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _moved_all(item, old, new) for key, item in value.items()}
    return value


def result_key(parts: tuple[Any, ...]) -> str:
    """The key of a node's result: a hash over plain values (texts, numbers, None, tuples of them)."""
    return hashlib.sha256(repr(parts).encode(errors="backslashreplace")).hexdigest()


def literal_state(text: str) -> tuple[str, int, int] | str:
    """A literal as keys know it: the text, with size and time of the file that it names, if it names one."""
    if text[:1] == "/" and len(text) <= 4096 and "\0" not in text:
        try:
            found = os.stat(text)  # noqa: PTH116
        except (OSError, ValueError):
            return text
        return (text, found.st_size, found.st_mtime_ns)
    return text


def code_hash(folder: Path) -> str:
    """Hash over the code of a service's version: names and contents of its files, of those above 4 MiB size and time.

    Not part of it is what running makes (see `hub.code_files`). A file that cannot be read counts by its name.
    """
    from peachctl.hub import code_files

    digest = hashlib.sha256()
    for path in code_files(folder):
        digest.update(str(path.relative_to(folder)).encode(errors="surrogateescape") + b"\0")
        try:
            found = path.stat()
            if found.st_size > _WHOLE_FILE:
                digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
            else:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()
