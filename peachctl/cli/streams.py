"""The standard streams of the command, whatever they were given as: closed, full, gone, or of another encoding.

A result that cannot be written is an error (`OutputError`); talk that cannot be written is lost and stops nothing.
"""

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING

from peachctl.errors import PeachError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ESCAPED = "peachctl.escaped"


class OutputError(PeachError):
    """Standard output cannot be written."""


class ReaderGone(Exception):
    """Nobody reads standard output any more (`| head`). No BrokenPipeError: rich would make its own of that."""


class _Result(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise OutputError(f"the result cannot be written to standard output: {error.strerror}") from error


class _Talk(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """To be called once, before anything is printed or opened."""
    _occupy()
    codecs.register_error(_ESCAPED, _escaped)
    out, talk = sys.stdout, sys.stderr
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Result(1, "w", closefd=False)),
        encoding=getattr(out, "encoding", None) or "utf-8",
        errors=_ESCAPED,
        line_buffering=os.isatty(1),
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Talk(2, "w", closefd=False)),
        encoding=getattr(talk, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def _occupy() -> None:
    """Numbers 0, 1 and 2 of streams that are closed: else the next file or socket would get one, and what is printed
    with it. What is written to a closed standard output still fails; to a closed standard error it goes nowhere."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""What an encoding does not have, as JSON spells it, `\\u00e9`: a result that is JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2)), error.end


def discard() -> None:
    """What is left of the result is not written at the exit, where it would fail once more."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
