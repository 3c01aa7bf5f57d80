"""Scripts in the queue folder: read, drafted, and placed where no whole one is."""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peachctl import files, script
from peachctl.names import quoted

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_script(path: Path) -> str | None:
    """The text of a script, None where there is no regular file (a link is none). Bytes that are not UTF-8 become
    U+FFFD. Raises FilesError when it cannot be read or is beyond all measure."""
    data = files.read_regular(path)
    return None if data is None else data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Draft:
    """A script that is written and has no name yet. path: of its temporary file."""

    text: str
    path: str


def draft(queue_folder: Path, name: str, text: str) -> Draft:
    """Writes a script (0640) for `place`, which is to come within a minute, or `drop`. name: what it is to be called.
    Raises DiskFull, FilesError.

    As `files` writes, but of texts and descriptors alone: path objects and streams take as long as the kernel does, for
    each message.
    """
    path = f"{queue_folder}/{files.temporary_name()}"
    data = text.encode(errors="backslashreplace")
    try:
        fd = os.open(path, _CREATE, files.FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.fchmod(fd, files.FILE_MODE)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise files.said(error, "cannot be written", f"{queue_folder}/{name}") from error
    return Draft(text, path)


def drop(draft: Draft) -> None:
    """Removes a draft that is not to be placed."""
    with suppress(OSError):
        os.unlink(draft.path)  # noqa: PTH108


def place(queue_folder: Path, name: str, text: str, drafted: Draft | None = None) -> bool:
    """Puts a script into the queue folder unless a whole one is there. True when this call wrote it.

    drafted: its text as a file already, which is used up. A slow machine may have taken it for one of a dead process.

    What is there and torn (a beginning of `text`, zeros where the power went, or a checksum that says so) is written
    again. An edited script, one that peachctl did not write, and anything that is no file stay as they are.

    Not synchronised to disk: it is derived from the row, so a script that the power took is found torn and rendered
    again. fsync would cost 15 times (1,450 instead of 22,400 files/s measured), for nothing that is not known anyway.

    name: a script name (names.script_name). Raises DiskFull, FilesError; the latter for a name that is a path, too:
    rows can be written by others.
    """
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise files.FilesError(f"{quoted(name)} is no file name")
    path = queue_folder / name
    if drafted is None and not os.path.lexists(path):
        drafted = draft(queue_folder, name, text)
    if drafted is not None and _settle_draft(queue_folder, name, drafted):
        return True
    there = files.read_regular(path)
    if there is None:
        return False
    header = script.read_header(there, text)
    torn = header.state == "torn" if header is not None else text.encode().startswith(there.rstrip(b"\0"))
    if torn:
        files.write(path, text)
    return torn


def _settle_draft(folder: Path, name: str, drafted: Draft) -> bool:
    """Gives a draft its name, in one step; False, and it is gone, where there is something."""
    path = f"{folder}/{name}"
    try:
        if os.path.lexists(path):
            drop(drafted)
            return False
        os.rename(drafted.path, path)  # noqa: PTH104
    except FileNotFoundError:
        return _settle_draft(folder, name, draft(folder, name, drafted.text))
    except OSError as error:
        drop(drafted)
        raise files.said(error, "cannot be written", path) from error
    return True
