"""Names that are safe where they are used: script files, files of a workflow's folder, lines of a log.

Everything that comes in a message is hostile; no text of one becomes part of a path or of a terminal's line but
through a function of this module.
"""

import hashlib
import re
import unicodedata

_USER_LENGTH = 64
_NOT_USER = re.compile(r"[^A-Za-z0-9._@-]")
_MD5 = re.compile(r"[0-9a-f]{32}")
_SCRIPT = re.compile(r"(?P<user>[A-Za-z0-9._@-]{1,64})_(?P<md5>[0-9a-f]{32})_(?P<time>[0-9]+(?:_[0-9]+)?)\.py")

# What marks a name as changed. A text that already holds such a mark is changed as well: else somebody could choose
# a name that another text is given.
_MARK = re.compile(r"~[0-9a-f]{16}")
_EXTENSION = re.compile(r"(?:\.[^.\s~]{1,12}){1,2}\Z")
_COMPONENT_BYTES = 255


def user_part(user: str) -> str:
    """The user as script names carry it: ASCII letters, digits and `._@-` stay, each other character becomes `_`.

    At most 64 characters and never empty (contract, "Script file names").
    """
    return _NOT_USER.sub("_", user[:_USER_LENGTH]) or "_"


def script_name(user: str, md5: str, now: float, later: int = 0) -> str:
    """The script's file name, `<user>_<md5>_<seconds>_<microseconds>.py` (contract, "Script file names").

    md5: 32 hex digits of the message. now: seconds since 1970 as a float (`time.time()`), or nanoseconds as an int
    (`time.time_ns()`). later: microseconds to add; a name that is taken is tried again with 1, 2, ...
    Raises ValueError for an md5 that is none.
    """
    if not _MD5.fullmatch(md5):
        raise ValueError(f"not an MD5 in hex: {md5!r}")
    micros = (now // 1000 if isinstance(now, int) else round(now * 1_000_000)) + later
    return f"{user_part(user)}_{md5}_{micros // 1_000_000}_{micros % 1_000_000:06d}.py"


def parse_script_name(name: str) -> tuple[str, str] | None:
    """The user part and the MD5 of a script's file name, None where it is no such name (ours or of 2017)."""
    found = _SCRIPT.fullmatch(name)
    return (found["user"], found["md5"]) if found else None


def file_name(text: str, limit_bytes: int = 200) -> str:
    """A single path component for a node id or a file name that came from outside.

    Legitimate names stay as they are (`dose_out.???`, spaces, any script). Replaced by `_`: `/`, `\\`, NUL, control
    characters, what changes the direction of writing, line separators, lone surrogates, and a `.` or `-` in front
    (hidden files, `..`, options). A name of more than `limit_bytes` bytes of UTF-8 is cut before its extension.
    Where anything was changed, `~` and 16 hex digits of the text's SHA-256 are put before the extension, so that two
    different texts never become one name. Apply it to the whole name (`<node id>_<file>`), not to its pieces.

    Raises ValueError for a limit below 64 or above 255 bytes.
    """
    if not 64 <= limit_bytes <= _COMPONENT_BYTES:
        raise ValueError(f"limit_bytes must be 64 to {_COMPONENT_BYTES}, not {limit_bytes}")
    clean = "".join("_" if _unfit(char) else char for char in text)
    if not clean.strip():
        clean = "_"
    if clean[0] in ".-":
        clean = "_" + clean[1:]
    if clean == text and len(text.encode()) <= limit_bytes and not _MARK.search(text):
        return text
    mark = "~" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    found = _EXTENSION.search(clean, 1)
    extension = found.group() if found and len(found.group().encode()) <= 32 else ""
    stem = clean[: len(clean) - len(extension)]
    room = limit_bytes - len(mark) - len(extension.encode())
    return stem.encode()[:room].decode(errors="ignore") + mark + extension


def _unfit(char: str) -> bool:
    if char < "\x7f":
        return char < " " or char in "/\\"
    # Cc control, Cf direction and other invisible marks, Cs surrogates, Zl and Zp line separators
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str, limit: int = 200) -> str:
    """A text for one line of a log or terminal: at most `limit` characters, the cut shown as `…`.

    Whatever is not printable (newlines, escape sequences, overrides of direction, lone surrogates, NUL) is shown as
    Python would escape it. Markup of the terminal library is left alone: the renderer escapes it.
    """
    pieces: list[str] = []
    room = limit
    for position, char in enumerate(text):
        piece = char if char.isprintable() else char.encode("unicode_escape").decode()
        last = position == len(text) - 1
        if len(piece) > room - (0 if last else 1):
            pieces.append("…")
            break
        pieces.append(piece)
        room -= len(piece)
    return "".join(pieces)


def quoted(text: str, limit: int = 200) -> str:
    """`printable` in quotes, for messages that name a thing; `repr` would escape a second time."""
    shown = printable(text, limit)
    return f'"{shown}"' if "'" in shown and '"' not in shown else f"'{shown}'"
