"""Python 2 services brought to Python 3 (contract, "The service hub": several services of 2017 are Python 2).

fissix (lib2to3, kept alive) does what can be decided from the text; what cannot (integer division, bytes) is
a warning with its line. A file that shows no sign of Python 2 is left as it is, so porting twice changes nothing.
"""

import ast
import os
import re
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from peachctl.errors import PeachError
from peachctl.porting_signs import signs_of, warnings_of

_MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Ported:
    """A source and what became of it.

    text: the new source, with "\\n" ends. body, original: new and old bytes, in the file's own encoding and line ends.
    changes: a text per change, `line 3: print is a function` (lines of the old source). warnings: what a person has to
    look at (lines of the new one).
    diff: unified, '' when nothing changes.
    """

    text: str
    body: bytes
    original: bytes
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    diff: str = ""

    @property
    def changed(self) -> bool:
        return self.body != self.original


@dataclass(frozen=True, slots=True)
class _Source:
    """A decoded file and how to write it again."""

    text: str
    encoding: str
    mark: bytes
    newline: str

    def encode(self, text: str) -> bytes:
        return self.mark + text.replace("\n", self.newline).encode(self.encoding)


def parse(source: str | bytes) -> ast.Module:
    """The tree of a Python 3 source that compiles. Raises SyntaxError, also where Python raises something else."""
    tree = _tree(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(tree, "<source>", "exec", dont_inherit=True)  # finds more, such as a `return` outside a function
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise SyntaxError(str(error) or type(error).__name__) from error
    return tree


def _tree(source: str | bytes) -> ast.Module:
    """The tree of what follows Python 3's grammar. Raises SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a text that is no raw one: not our business
        try:
            return ast.parse(source)
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise SyntaxError(str(error) or type(error).__name__) from error


def why_python_2(body: bytes) -> str | None:
    """What shows that a source is Python 2, such as `line 3: print "x"`; None for Python 3 and for no Python at all."""
    try:
        source = _decode(body, "")
    except PeachError:
        return None
    return _why(source.text)


def _why(text: str) -> str | None:
    try:
        tree = _tree(text)
    except SyntaxError as error:
        from peachctl.porting_fixers import is_python_2

        if not is_python_2(text):
            return None
        line = error.lineno or 0
        lines = text.split("\n")
        shown = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        what = "tabs and spaces are mixed" if isinstance(error, TabError) else shown[:60]
        return f"line {line}: {what}" if what else f"line {line}"
    signs = signs_of(tree)
    return f"line {signs[0][0]}: {signs[0][1]}" if signs else None


def port_file(path: Path) -> Ported:
    """A file brought to Python 3; nothing is written. Raises PeachError where it cannot be read or ported."""
    try:
        with path.open("rb") as stream:
            body = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PeachError(f"{path}: {error.strerror}") from error
    if len(body) > _MOST_BYTES:
        raise PeachError(f"{path}: more than {_MOST_BYTES >> 20} MiB; that is no service's source")
    return port(body, str(path), beside=path)


def port(source: str | bytes, name: str, *, beside: Path | None = None) -> Ported:
    """A source brought to Python 3.

    source: as bytes, its encoding is the one that it declares (else UTF-8). name: for messages and the difference.
    beside: the file's path, where modules beside it shall be imported relative to it, as Python 2 did by itself.
    Raises PeachError for what is no Python at all, and where the result would not compile.
    """
    body = source.encode() if isinstance(source, str) else source
    decoded = _decode(body, name, "utf-8" if isinstance(source, str) else None)
    if _why(decoded.text) is None:
        try:
            parse(decoded.text)
        except SyntaxError as error:
            raise PeachError(f"{name}: line {error.lineno}: neither Python 3 nor Python 2: {error.msg}") from error
        return Ported(decoded.text, body, body)
    text, changes = _refactor(decoded.text, name, beside)
    left = signs_of(parse(text))
    by_hand = tuple(f"line {line}: {what} is Python 2, and has to be changed by hand" for line, what in left)
    if left and not _signs(decoded.text) - Counter(what for _, what in left):
        # Python 3 can read it, and what is left cannot be ported: perhaps it was ported before.
        return Ported(decoded.text, body, body, warnings=by_hand)
    features = re.search(r"^from\s+__future__\s+import\s.*\bdivision\b", decoded.text, re.MULTILINE)
    notes = warnings_of(parse(text), true_division=features is not None)
    return Ported(
        text,
        decoded.encode(text),
        body,
        tuple(f"line {line}: {what}" for line, what in sorted(set(changes))),
        by_hand + tuple(f"line {line}: {what}" for line, what in notes),
        _difference(decoded.text, text, name),
    )


def _signs(text: str) -> Counter[str]:
    """The signs of a source; that Python 3 cannot read it is one."""
    try:
        return Counter(what for _, what in signs_of(_tree(text)))
    except SyntaxError:
        return Counter([""])


def _decode(body: bytes, name: str, encoding: str | None = None) -> _Source:
    import io
    import tokenize

    mark = b"\xef\xbb\xbf" if body.startswith(b"\xef\xbb\xbf") else b""
    try:
        encoding = encoding or tokenize.detect_encoding(io.BytesIO(body).readline)[0].removesuffix("-sig")
        text = body[len(mark) :].decode(encoding)
    except (SyntaxError, LookupError) as error:
        raise PeachError(f"{name}: its encoding cannot be used: {error}") from error
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise PeachError(
            f"{name}: line {line}: not {encoding}; a first line `# -*- coding: ... -*-` says what it is"
        ) from error
    ends = [text.count("\r\n"), text.count("\n"), text.count("\r")]
    windows, newlines = ends[0], ends[1] - ends[0]
    newline = "\r\n" if windows > newlines else "\n"
    return _Source(text.replace("\r\n", "\n").replace("\r", "\n"), encoding, mark, newline)


def _refactor(text: str, name: str, beside: Path | None) -> tuple[str, list[tuple[int, str]]]:
    """The source as Python 3 reads it, and a line and words for each change. Raises PeachError."""
    from peachctl.porting_fixers import UnreadableError, refactor

    try:
        tree: ast.Module | None = _tree(text)
    except SyntaxError:
        tree = None
    try:
        new, changes = refactor(text, tree, str(beside) if beside is not None else "")
    except UnreadableError as error:
        raise PeachError(f"{name}: {error}") from error
    try:
        parse(new)
    except SyntaxError as error:
        raise PeachError(
            f"{name}: line {error.lineno}: cannot be brought to Python 3 by itself: {error.msg}",
            "change that line by hand, then run this again",
        ) from error
    return new, changes


def _difference(old: str, new: str, name: str) -> str:
    import difflib

    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), name, f"{name} (Python 3)"
    )
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def write(path: Path, ported: Ported) -> Path | None:
    """Replaces the file at once (temporary name, rename), with its mode; the old one is kept as `<name>.py2`.

    A link stays, what it leads to is replaced. Returns the kept file's path, None when there was nothing to change.
    Raises PeachError where the file has changed since it was read, or cannot be written.
    """
    if not ported.changed:
        return None
    path = path.resolve()
    try:
        if path.read_bytes() != ported.original:
            raise PeachError(f"{path} has changed meanwhile; it was left as it is", "run this again")
        status = path.stat()
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as stream:
                stream.write(ported.body)
                stream.flush()
                if os.geteuid() == 0:
                    os.fchown(stream.fileno(), status.st_uid, status.st_gid)
                os.fchmod(stream.fileno(), status.st_mode & 0o7777)
                os.fsync(stream.fileno())
            kept = _keep(path)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PeachError(f"{path}: {error.strerror}") from error
    return kept


def _keep(path: Path) -> Path:
    """A second name for the file, one that is free: nothing that was kept before is lost."""
    import shutil

    for number in range(1000):
        kept = path.with_suffix(".py2" if not number else f".py2.{number}")
        try:
            os.link(path, kept)
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            if kept.exists():
                continue
            shutil.copy2(path, kept)
        return kept
    raise PeachError(f"{path.with_suffix('.py2')} and 999 more are in the way")
