"""Single values of the configuration: from what TOML or the environment holds to what the program uses.

Each reader takes a raw value (text, number, bool, list, date of TOML; always text from the environment) and raises
ValueError where it is not what is expected. The sentence that says what is expected stands in the model beside the
key; a ValueError's own text is added to it where it says more.
"""

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_DURATION = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,9})?)\s*(?P<unit>ms|s|m|h|d)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(?P<number>\d{1,18}(?:\.\d{1,9})?)\s*(?P<unit>B|[KMGT]i?B)?", re.ASCII | re.IGNORECASE)
_BYTES = {"B": 1} | {
    f"{letter}{infix}B": base**power
    for power, letter in enumerate("KMGT", 1)
    for infix, base in (("", 1000), ("I", 1024))
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Sqlite:
    """`database.url` of the embedded store: an absolute path."""

    path: Path

    def __str__(self) -> str:
        return "sqlite:///" + quote(str(self.path))


@dataclass(frozen=True, slots=True)
class Mysql:
    """`database.url` of MySQL or MariaDB: a host and port, or a local socket (host is then '')."""

    user: str
    host: str
    port: int
    name: str
    unix_socket: Path | None = None

    def __str__(self) -> str:
        user, name = quote(self.user, safe=""), quote(self.name, safe="")
        if self.unix_socket is not None:
            return f"mysql://{user}@/{name}?unix_socket={quote(str(self.unix_socket))}"
        return f"mysql://{user}@{self.host}:{self.port}/{name}"


def duration(value: Any) -> float:
    """Seconds, from a number of seconds or a text such as `30s`, `10m`, `2h`, `30d`, `250ms`."""
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, int | float):
        if not 0 <= value < 1e12:  # also refuses nan
            raise ValueError
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    return float(match["number"]) * _SECONDS[match["unit"] or "s"]


def period(value: Any) -> float:
    """Seconds between two of something: a `duration` of at least 1 s, or 0 for never."""
    seconds = duration(value)
    if 0 < seconds < 1:
        raise ValueError
    return seconds


def size(value: Any) -> int:
    """Bytes, from a number of bytes or a text such as `512KiB`, `1MiB`, `1.5GB`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    factor = _BYTES[(match["unit"] or "B").upper()]
    number = match["number"]
    return int(float(number) * factor) if "." in number else int(number) * factor


def path(value: Any, base: Path) -> Path:
    """An absolute path; `~` is the home folder, a relative one starts at `base`."""
    if not isinstance(value, str) or not value:
        raise ValueError
    if _CONTROL.search(value):
        raise ValueError("it holds a control character")
    try:
        expanded = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error).rstrip(".")) from error
    # normpath, not resolve: a link stays the operator's own, and the folder need not exist yet.
    return Path(os.path.normpath(base / expanded))


def words(value: Any) -> tuple[str, ...]:
    """A list of texts; from the environment a JSON list or words between commas."""
    if isinstance(value, str):
        value = _split(value)
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ValueError
    for word in value:
        if _CONTROL.search(word):
            raise ValueError("it holds a control character")
    return tuple(value)


def _split(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return [word for word in (part.strip() for part in text.split(",")) if word]
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"no JSON list: {error}") from error


def paths(value: Any, base: Path) -> tuple[Path, ...]:
    """A list of absolute paths."""
    return tuple(path(word, base) for word in words(value))


def command(value: Any) -> tuple[str, ...]:
    """Program and arguments, from a list or from one text that is split as a shell would (it is never given to one)."""
    import shlex

    if isinstance(value, str):
        value = _split(value) if value.lstrip().startswith("[") else shlex.split(value)
    found = words(value)
    if not found:
        raise ValueError
    return found


def word(value: Any) -> str:
    """A name in lower case (Kafka's own documentation writes its protocol names in capitals)."""
    if not isinstance(value, str):
        raise ValueError
    return value.strip().lower()


def table(value: Any) -> str:
    """A table name that stands in SQL as it is."""
    if not isinstance(value, str) or not _TABLE.fullmatch(value):
        raise ValueError
    return value


def servers(value: Any) -> tuple[str, ...]:
    """`HOST:PORT` each; a host alone gets Kafka's port 9092."""
    return tuple(f"{host}:{port}" for host, port in (_host_port(one, 9092) for one in words(value)))


def web_servers(value: Any) -> tuple[str, ...]:
    """Addresses of web servers such as `https://xnat.example.org`, without a slash at the end and without a user."""
    found = words(value)
    for one in found:
        parts = urlsplit(one)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{_without_user(one)!r} does not begin with http:// or https:// and a host")
        if "@" in parts.netloc:
            raise ValueError(f"{_without_user(one)!r} holds a user: those come with each URI")
    return tuple(one.rstrip("/") for one in found)


def start(value: Any) -> str:
    """`earliest`, `latest`, or a time: ISO 8601, returned with its offset (local time where it has none)."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in {"earliest", "latest"}:
            return text.lower()
        value = datetime.fromisoformat(text)
    if not isinstance(value, datetime):
        raise ValueError
    return value.astimezone().isoformat() if value.tzinfo is None else value.isoformat()


def database_url(value: Any) -> str:
    """A URL that `parse_database_url` takes, in its plain form."""
    if not isinstance(value, str):
        raise ValueError
    return str(parse_database_url(value))


def parse_database_url(url: str) -> Sqlite | Mysql:
    """`sqlite:////ABSOLUTE/PATH`, `mysql://USER@HOST:PORT/NAME` or `mysql://USER@/NAME?unix_socket=PATH`.

    Raises ValueError with what is wrong; its text never holds a password.
    """
    if _CONTROL.search(url):
        raise ValueError("it holds a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port  # urllib checks the port only when asked
    except ValueError as error:
        raise ValueError(
            f"not a URL: {error}" if "@" not in url else "not a URL: host or port cannot be read"
        ) from None
    if parts.fragment:
        raise ValueError("a '#' in it must be written %23")
    if parts.scheme == "sqlite":
        return _sqlite(parts.netloc, parts.path, parts.query)
    if parts.scheme not in {"mysql", "mariadb"}:
        raise ValueError(
            f"unknown kind of database {parts.scheme!r}" if parts.scheme else "it names no kind of database"
        )
    if parts.password is not None:
        raise ValueError("it holds a password: put that into a file of its own, database.password_file")
    if not parts.username:
        raise ValueError("the user is missing (mysql://USER@HOST:PORT/NAME)")
    name = unquote(parts.path.removeprefix("/"))
    if not name or "/" in name:
        raise ValueError("the name of the database is missing (mysql://USER@HOST:PORT/NAME)")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    socket = query.pop("unix_socket", None)
    if query:
        raise ValueError(f"unknown option {min(query)!r} behind the '?': only unix_socket is known there")
    if socket is not None and parts.hostname:
        raise ValueError("it names both a host and a unix_socket")
    if socket is not None and not socket.startswith("/"):
        raise ValueError("unix_socket must be an absolute path")
    if socket is None and not parts.hostname:
        raise ValueError("host (or ?unix_socket=PATH) is missing")
    host = parts.netloc.rpartition("@")[2]
    return Mysql(
        unquote(parts.username),
        "" if socket else _host_port(host, 3306)[0],
        0 if socket else _host_port(host, 3306)[1],
        name,
        Path(socket) if socket else None,
    )


def _sqlite(host: str, path_text: str, query: str) -> Sqlite:
    found = unquote(path_text)
    if host or not found.startswith("//"):
        raise ValueError("a SQLite path is absolute and comes after three slashes: sqlite:////ABSOLUTE/PATH")
    if query:
        raise ValueError("a '?' in the path must be written %3F")
    if _CONTROL.search(found):
        raise ValueError("it holds a control character")
    return Sqlite(Path(os.path.normpath(found[1:])))


def _host_port(text: str, default: int) -> tuple[str, int]:
    host, port = text, str(default)
    if ":" in text.rpartition("]")[2]:
        host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{_without_user(text)!r} is no HOST:PORT")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{_without_user(text)!r}: the port is a number from 1 to 65535")
    return host, int(port)


def _without_user(text: str) -> str:
    """A text for a message, without what may be user and password of it."""
    head, at, tail = text.rpartition("@")
    return ("***@" if at and head else at) + tail
