"""Passwords, hidden wherever a workflow is shown, logged, reported or packed.

The one URI of 2017 is a JSON text with a password in it (contract, "URIs"), and it stands in other texts: JSON inside
JSON inside a row, a literal of a script, a line of a log, a traceback. So this is no JSON parser: it finds the names
of secrets and what is written after them, at any depth of quoting, in one pass over the text.

Where it is not certain how far a value goes, it hides more rather than less.
"""

import re
from typing import Any

MASK = "********"

_WORD = (
    r"passwords?|passwd|passphrase|pwd|secrets?|token|(?:secret|access|account|api)[_-]?key|signature|(?<![a-z0-9])sig"
)
_SECRET_NAME = re.compile(rf"(?:{_WORD})\Z", re.IGNORECASE)

# Where something may begin: a secret's name, an `Authorization` header, or the user of a URL. Each part is bounded,
# so that no text makes this slower than its length.
_BEGIN = re.compile(
    rf"(?P<name>{_WORD})(?P<after>\\*(?:[\"']|&(?:quot|\#34|\#39|\#x27);|%2[27])|)"
    r"(?P<sep>\s{0,8}(?::(?!:)|=(?![=>])|%3A|=>)(?:\s|%20){0,8})"
    r"|(?P<auth>authorization(?:\\*[\"'])?\s{0,8}[:=]\s{0,8}(?:\\*[\"'])?(?:(?:Basic|Bearer|Digest|Token)\s{1,8})?)"
    r"|(?P<url>://[^\s:/?\#\"'<>@\\]{0,1024}:)",
    re.IGNORECASE,
)
# No secret without one of these: a look that most texts end with.
_HINTS = ("pass", "pwd", "secret", "token", "key", "sig", "authorization", "://")
_OPEN = re.compile(
    r"(?:(?<![a-z0-9_])[bruf]{1,2})?(?P<slashes>\\*)(?P<quote>[\"']|&(?:quot|#34|#39|#x27);|%2[27])", re.IGNORECASE
)
_BARE = re.compile(r"[^\s&\"'<>;,()\[\]{}\\](?:[^\s&\"'<>;,()\[\]{}\\]|[\"';,()\[\]{}](?=\w))*")
_HEADER = re.compile(r"[^\s\"'<>,;\\]+")
_NO_SECRET = {"none", "null", "true", "false"}
# After a bare `password:` people write words, after a bare `token:` parsers do.
_SPOKEN = re.compile(r"password|passwd|pwd|passphrase", re.IGNORECASE)

_QUOTE_CHARS = r"(?:[\"']|&(?:quot|\#34|\#39|\#x27);|%2[27])"
_NEXT_KEY = re.compile(
    rf"\s{{0,8}}(?:,|%2C)\s{{0,8}}\\{{0,1024}}{_QUOTE_CHARS}[\w.-]{{1,64}}\\{{0,1024}}{_QUOTE_CHARS}\s{{0,8}}:"
)
_LAST_KEY = re.compile(rf"\s{{0,8}}}}\s{{0,8}}(?:\\{{0,1024}}{_QUOTE_CHARS}|\n|\Z)")

_PORT = re.compile(r"\d{1,5}(?:[/?#\s\"'<>\\]|\Z)")
# A quote may stand in a password, but not where it ends a text.
_QUOTED = r"'(?![,)}\]:;\s]|\Z)"
_AUTHORITY = re.compile(rf"(?:[^\s\"'<>\\/?#]|{_QUOTED})*@")
# An atomic group: what was read is not read again, which keeps a text of nothing but `://a:` from being slow.
_LATER = re.compile(rf"(?>[^\s\"'<>\\@]{{0,256}}(?:{_QUOTED}[^\s\"'<>\\@]{{0,256}}){{0,4}})@")


_ROUNDS = 8


def mask(text: str) -> str:
    """The text with every password in it replaced by `********`; the same text if there is none.

    Hidden are the values of names that end in password, secret, token, signature and their like (JSON, Python,
    `name=value`; `null`, `None` and truth values stay), the password of `scheme://user:password@host`, and what an
    `Authorization` header says. Idempotent; linear in the length of the text; raises nothing.
    """
    low = text.lower()
    if not any(hint in low for hint in _HINTS):
        return text
    for _ in range(_ROUNDS):
        masked = _masked(text)
        if masked == text:
            break
        text = masked
    return text


def _masked(text: str) -> str:
    """One pass. What it puts there can make the text around it read like another password: hence the rounds."""
    pieces: list[str] = []
    done = 0
    position = 0
    while found := _BEGIN.search(text, position):
        start = found.end()
        if found["url"]:
            span = _url_password(text, start)
        elif found["auth"]:
            value = _HEADER.match(text, start)
            span = (start, value.end(), MASK) if value else None
        else:
            span = _value(text, found, start)
        if span is None:
            position = start if found["url"] is None else start - 1
            continue
        pieces += (text[done : span[0]], span[2])
        done = position = span[1]
    if not pieces:
        return text
    pieces.append(text[done:])
    return "".join(pieces)


def _value(text: str, found: re.Match[str], start: int) -> tuple[int, int, str] | None:
    """Where the value of a secret's name begins and ends, and what is put there."""
    opened = _OPEN.match(text, start)
    if opened:
        return opened.end(), _end(text, opened), MASK
    bare = _BARE.match(text, start)
    if bare is None or bare.group().lower() in _NO_SECRET:
        return None
    if found["after"]:  # a number after a quoted name: quoted itself, so that JSON stays JSON
        return (start, bare.end(), found["after"] + MASK + found["after"]) if bare.group() != MASK else None
    sep = found["sep"]
    if sep == "=" or (":" in sep and _SPOKEN.match(found["name"])):
        return start, bare.end(), MASK
    return None


def _end(text: str, opened: re.Match[str]) -> int:
    """Where the value that was opened ends: before its closing quote and that quote's backslashes.

    A quote with the same number of backslashes as the opening one closes, unless a letter follows (rows of 2017 have
    lost their backslashes, so that a quote of the password itself stands bare). With fewer, the text around it ends
    and so does the value. With more it belongs to the value, unless another key or the end of the object follows: then
    the password itself ends in a backslash. A value that nothing closes (a text that was cut) goes on to the end of
    the line.
    """
    quote = opened["quote"]
    level = len(opened["slashes"])
    position = opened.end()
    ends = re.compile(f"{re.escape(quote)}|\n")
    while (stop := ends.search(text, position)) and stop.group() != "\n":
        at = stop.start()
        slashes = 0
        while at - slashes > position and text[at - slashes - 1] == "\\":
            slashes += 1
        after = at + len(quote)
        if slashes < level:
            return at - slashes
        if slashes == level:
            follows = text[after : after + 1]
            if not (follows.isalnum() or follows == "_"):
                return at - slashes
        elif (slashes - level) % 2 == 0 and (_NEXT_KEY.match(text, after) or _LAST_KEY.match(text, after)):
            return at - level
        position = after
    return stop.start() if stop else len(text)


def _url_password(text: str, start: int) -> tuple[int, int, str] | None:
    """The password that begins at `start`, after `scheme://user:`, if an `@` says that it is one."""
    found = _AUTHORITY.match(text, start)
    if found is None and not _PORT.match(text, start):
        found = _LATER.match(text, start)  # a password with `/`, `?` or `#` that nobody quoted
    return (start, found.end() - 1, MASK) if found and found.end() - 1 > start else None


def mask_value(value: Any) -> Any:
    """A JSON value with every password in it replaced: texts as `mask` does, and whatever stands under a secret's key.

    Lists and tuples become lists, dictionaries dictionaries; anything that is no JSON value is returned as it is.
    The given value is not changed. A value nested deeper than Python can follow becomes `********` as a whole.
    """
    try:
        return _mask_value(value)
    except RecursionError:
        return MASK


def _mask_value(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {_mask_value(key): _mask_under(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask_value(item) for item in value]
    return value


def _mask_under(key: Any, item: Any) -> Any:
    if isinstance(key, str) and _SECRET_NAME.search(key):
        return item if item is None or isinstance(item, bool) else MASK
    return _mask_value(item)
