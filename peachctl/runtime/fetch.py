"""`from_uri`: fetches a file from where the configuration allows it, and from nowhere else.

Three spellings: an absolute path or URL (`file`, `http`, `https`, and by fsspec `s3`, `sftp` and what else
`storage.schemes` names), and the JSON text of 2017 with `user`, `password`, `server` and `root` (an XNAT server;
contract, "URIs"). All of them come in messages and are hostile: what is reached is decided by `storage.*` alone.

The local file is `<hex>_<filename>` in the folder `fetched` beside the workflow's folder, so that it is not packed.
"""

import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote, unquote, urlsplit

from peachctl.errors import PeachError
from peachctl.masking import mask
from peachctl.names import file_name, printable
from peachctl.runtime.job import Reach

CHUNK = 1 << 20

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHAIN = re.compile(r"\A[A-Za-z0-9+.-]+::|::[A-Za-z][A-Za-z0-9+.-]*(?:::|://)")
_EXTRAS = {"s3": "s3", "s3a": "s3", "sftp": "sftp", "ssh": "sftp"}


class FetchError(PeachError):
    """A file that can't be fetched, or must not be."""


class Readable(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class Budget:
    """What one file may cost. shown: the URI as errors name it, passwords masked."""

    shown: str
    size: int
    seconds: float
    until: float = 0.0

    def start(self) -> None:
        self.until = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds that are left. Raises FetchError when there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise FetchError(
                f"{self.shown} took longer than {self.seconds:g} s", "storage.file_time is how long a file may take"
            )
        return left

    def check_size(self, size: int) -> None:
        """Raises FetchError for more bytes than allowed."""
        if size > self.size:
            raise FetchError(
                f"{self.shown} is larger than {self.size:,} bytes", "storage.file_bytes is how large a file may be"
            )


def fetch(uri: str, reach: Reach, folder: Path) -> tuple[str, str]:
    """Fetches the file that `uri` names and returns (local path, file name).

    folder: where `fetched/` is made. Raises FetchError; what it says names the configuration key that is in the way,
    and never holds a password.
    """
    if not isinstance(uri, str) or not uri.strip():
        raise FetchError(
            f"from_uri takes a text, a URL, an absolute path or the JSON of an XNAT server, not {uri!r:.80}"
        )
    uri = uri.strip()
    budget = Budget(printable(mask(uri), 300), reach.size, reach.seconds)
    budget.start()
    try:
        if uri.startswith("{"):
            return _xnat(uri, reach, folder, budget)
        scheme, rest = _split(uri, budget)
        if scheme not in {one.lower() for one in reach.schemes}:
            allowed = ", ".join(reach.schemes) or "none"
            raise FetchError(
                f"{budget.shown} can't be fetched: the scheme {scheme!r} is not allowed (allowed: {allowed})",
                "storage.schemes names the schemes that may be used",
            )
        if scheme == "file":
            return _local(rest, reach, folder, budget)
        if scheme in ("http", "https"):
            return _web(uri, reach, folder, budget)
        return _by_fsspec(uri, scheme, reach, folder, budget)
    except PeachError:
        raise
    except TimeoutError as error:
        raise FetchError(f"{budget.shown} can't be fetched: no answer in time") from error
    except OSError as error:
        raise FetchError(f"{budget.shown} can't be fetched: {mask(error.strerror or str(error))}") from error


def _split(uri: str, budget: Budget) -> tuple[str, str]:
    """The scheme, and for `file` the path."""
    if _CHAIN.search(uri) and not uri.startswith("/"):
        raise FetchError(f"{budget.shown} can't be fetched: chained URLs (`::`) are not allowed")
    found = _SCHEME.match(uri)
    if found is None:
        if uri.startswith("/"):
            return "file", uri
        raise FetchError(f"{budget.shown} can't be fetched: it is neither a URL nor an absolute path")
    scheme = found[1].lower()
    if scheme in ("file", "local"):
        host, slash, path = uri[found.end() :].partition("/")
        if host not in ("", "localhost"):
            raise FetchError(f"{budget.shown} can't be fetched: a file URL names a file of this machine (file:///...)")
        return "file", slash + (path if os.path.lexists("/" + path) and "\0" not in path else unquote(path))
    return scheme, uri


def _local(path: str, reach: Reach, folder: Path, budget: Budget) -> tuple[str, str]:
    """A file below an allowed folder; links count as what they point to, checked again on what was opened."""
    roots = [os.path.realpath(one) for one in (*reach.folders, str(folder))]
    if "\0" in path:
        raise FetchError(f"{budget.shown} can't be fetched: a path can't hold NUL")
    real = os.path.realpath(path)
    _below(real, roots, reach, budget)
    handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _below(str(Path(f"/proc/self/fd/{handle}").readlink()), roots, reach, budget)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise FetchError(f"{budget.shown} can't be fetched: it is {kind}")
        budget.check_size(found.st_size)
        with open(handle, "rb", closefd=False) as stream:
            return _store(stream, Path(path).name, folder, budget)
    finally:
        os.close(handle)


def _below(path: str, roots: list[str], reach: Reach, budget: Budget) -> None:
    if not any(path.startswith(root.rstrip("/") + "/") for root in roots):
        allowed = ", ".join(reach.folders) or "none"
        raise FetchError(
            f"{budget.shown} can't be fetched: it is not inside a folder that is allowed (allowed: {allowed})",
            "storage.folders names the folders that files may come from",
        )


def _web(uri: str, reach: Reach, folder: Path, budget: Budget) -> tuple[str, str]:
    from peachctl.runtime import web

    with web.get(uri, web.HostRule(reach.hosts), tuple(one.lower() for one in reach.schemes), budget) as answer:
        return _store(answer, _name_in(uri), folder, budget)


def _name_in(url: str) -> str:
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "file"


def _by_fsspec(uri: str, scheme: str, reach: Reach, folder: Path, budget: Budget) -> tuple[str, str]:
    """Other schemes. Where the URL names a host, it is checked and its address pinned, as for the web."""
    import fsspec
    from fsspec.registry import known_implementations

    from peachctl.runtime import web

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        say = (
            f"pip install peachctl[{extra}]" if extra else known_implementations.get(scheme, {}).get("err", str(error))
        )
        raise FetchError(f"{budget.shown} can't be fetched: what {scheme}:// needs is not installed", say) from error
    except ValueError as error:
        raise FetchError(f"{budget.shown} can't be fetched: no such scheme is known", "storage.schemes") from error
    options: dict[str, Any] = dict(kind._get_kwargs_from_urls(uri))
    if "host" in options:
        host = str(options["host"] or "")
        port = int(options.get("port") or (22 if scheme in ("sftp", "ssh") else 0))
        options["host"] = web.HostRule(reach.hosts).addresses(host, port, budget)[0]
    if scheme in ("sftp", "ssh"):
        options["timeout"] = min(30.0, budget.left())
    try:
        system = kind(**options, skip_instance_cache=True)
        path = kind._strip_protocol(uri)
        size = system.info(path).get("size")
        if size is not None:
            budget.check_size(int(size))
        with system.open(path, "rb") as stream:
            return _store(stream, str(path).rpartition("/")[2] or "file", folder, budget, size)
    except PeachError:
        raise
    except Exception as error:  # noqa: BLE001 - each implementation has its own
        raise FetchError(
            f"{budget.shown} can't be fetched: {type(error).__name__}: {printable(mask(str(error)), 500)}"
        ) from None


def _xnat(uri: str, reach: Reach, folder: Path, budget: Budget) -> tuple[str, str]:
    """One file, or all of a resource (packed by the server), of an XNAT server that the configuration names."""
    from peachctl.runtime import web

    try:
        values = json.loads(uri)
    except ValueError:
        raise FetchError("the URI begins like the JSON of an XNAT server, but is none") from None
    parts = [values.get(key) for key in ("user", "password", "server", "root")] if isinstance(values, dict) else []
    if len(parts) != 4 or not all(isinstance(part, str) for part in parts):
        raise FetchError("the JSON of an XNAT server has the texts `user`, `password`, `server` and `root`")
    user, password, server, root = map(str, parts)
    budget.shown = printable(mask(f"{server} {root}"), 300)
    base = _allowed_server(server, reach, budget)
    steps = [step for step in root.split("/") if step]
    if any(step in (".", "..") for step in steps) or len(steps) < 2 or steps[-2] not in ("files", "resources"):
        raise FetchError(f"{budget.shown} can't be fetched: `root` ends in .../files/<name> or .../resources/<label>")
    if steps[0] not in ("data", "REST"):
        steps.insert(0, "data")
    url = base + "".join("/" + quote(step, safe="%:@!$&'()*+,;=~") for step in steps)
    name = unquote(steps[-1])
    if steps[-2] == "resources":
        url, name = f"{url}/files?format=zip", f"{name}.zip"
    budget.shown = printable(mask(url), 300)
    rule = web.HostRule((urlsplit(base).netloc,))
    with web.get(url, rule, (urlsplit(base).scheme,), budget, login=(user, password)) as answer:
        return _store(answer, name, folder, budget)


def _allowed_server(server: str, reach: Reach, budget: Budget) -> str:
    """The server as the configuration names it. Raises FetchError for others."""
    wanted = _normal(server)
    for allowed in reach.xnat_servers:
        if wanted == _normal(allowed) and wanted is not None:
            return wanted
    raise FetchError(
        f"{budget.shown} can't be fetched: the XNAT server is not one of those that are allowed",
        "storage.xnat_servers names the servers that may be asked",
    )


def _normal(server: str) -> str | None:
    try:
        parts = urlsplit(server.strip())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        return None
    default = 443 if parts.scheme == "https" else 80
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, default) else "") + parts.path.rstrip("/")


def _store(stream: Readable, name: str, folder: Path, budget: Budget, expected: int | None = None) -> tuple[str, str]:
    """Writes what the stream holds; the file is complete or not there. expected: its size, where that is known."""
    place = folder / "fetched"
    place.mkdir(mode=0o750, exist_ok=True)
    local = place / f"{secrets.token_hex(16)}_{file_name(name)}"
    with _written(local) as target:
        size = 0
        while chunk := stream.read(CHUNK):
            size += len(chunk)
            budget.check_size(size)
            budget.left()
            target.write(chunk)
        if expected is not None and size != expected:
            raise FetchError(f"{budget.shown} can't be fetched: it ended after {size:,} of {expected:,} bytes")
    return str(local), local.name.partition("_")[2]


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name[:32]}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(part, flags, 0o640), "wb") as stream:
            yield stream
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
