"""What of a workflow's folder goes into its packed output: nothing from outside, and readable by everybody."""

import io
import os
import stat
import tarfile
import time
from pathlib import Path
from typing import IO, cast

from peachctl.names import printable

LOG = "peachctl.log"
"""The file of a workflow's folder that says what became of it, and in the packed output what is not in it."""

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How something is opened that somebody else has put there: no link is followed, no pipe waited for."""

_LARGEST_LOG = 16 << 20


class Packer:
    """Puts a folder into a tar. All opens go from the folder's descriptor down without following a link, so that
    what happens to the tree meanwhile can't lead outside."""

    def __init__(self, tar: tarfile.TarFile, top: str) -> None:
        self._tar = tar
        self._top = top
        self._notes: list[str] = []
        self._log = b""

    def add_all(self, folder: Path) -> None:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        real = os.path.realpath(folder)
        try:
            self._add_folder("", os.fstat(root))
            todo: list[tuple[str, ...]] = [()]
            while todo:
                parts = todo.pop()
                try:
                    fd = _open_below(root, parts, os.O_DIRECTORY)
                except OSError as error:
                    self._note(parts, error.strerror or str(error))
                    continue
                try:
                    deeper = self._add_content(root, real, fd, parts)
                finally:
                    os.close(fd)
                todo += reversed(deeper)
        finally:
            os.close(root)
        if self._log or self._notes:
            text = self._log + "".join(self._notes).encode()
            self._add(LOG, len(text), time.time(), 0o644, io.BytesIO(text))

    def _add_content(self, root: int, real: str, fd: int, parts: tuple[str, ...]) -> list[tuple[str, ...]]:
        deeper = []
        for name in sorted(os.listdir(fd)):
            inside = (*parts, name)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    file = os.open(name, READ, dir_fd=fd)
                elif stat.S_ISLNK(status.st_mode):
                    end = os.path.realpath(Path(real, *inside))
                    if not end.startswith(real + "/"):
                        self._note(inside, "a link that leaves the folder")
                        continue
                    file = _open_below(root, tuple(end[len(real) + 1 :].split("/")))
                else:
                    if stat.S_ISDIR(status.st_mode):
                        self._add_folder("/".join(inside), status)
                        deeper.append(inside)
                    else:
                        self._note(inside, "neither a file nor a folder")
                    continue
            except OSError as error:
                self._note(inside, error.strerror or str(error))
                continue
            status = os.fstat(file)
            if stat.S_ISREG(status.st_mode):
                with os.fdopen(file, "rb", buffering=0) as stream:
                    self._add_file(stream, status, inside)
            else:
                os.close(file)
                self._note(inside, "a link to something that is no file")
        return deeper

    def _add_folder(self, inside: str, status: os.stat_result) -> None:
        info = tarfile.TarInfo(f"{self._top}/{inside}".rstrip("/"))
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, max(0, int(status.st_mtime))
        self._tar.addfile(info)

    def _add_file(self, stream: IO[bytes], status: os.stat_result, inside: tuple[str, ...]) -> None:
        source = _Exactly(stream)
        if inside == (LOG,):
            self._log = source.read(min(status.st_size, _LARGEST_LOG))
            return
        mode = 0o755 if status.st_mode & 0o111 else 0o644
        self._add("/".join(inside), status.st_size, status.st_mtime, mode, cast("IO[bytes]", source))
        if source.short:
            self._note(inside, f"{source.short} while it was packed: filled up with zeros", left_out=False)

    def _add(self, inside: str, size: int, mtime: float, mode: int, source: IO[bytes]) -> None:
        info = tarfile.TarInfo(f"{self._top}/{inside}")
        info.size, info.mtime, info.mode = size, max(0, int(mtime)), mode
        self._tar.addfile(info, source)

    def _note(self, inside: tuple[str, ...], why: str, *, left_out: bool = True) -> None:
        what = "not packed: " if left_out else ""
        self._notes.append(f"{what}{printable('/'.join(inside) or '.')!s}: {why}\n")


def _open_below(root: int, parts: tuple[str, ...], flags: int = 0) -> int:
    """Opens a path below a descriptor, no component of which may be a link."""
    fd = os.dup(root)
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        try:
            deeper = os.open(part, READ | (flags if last else os.O_DIRECTORY), dir_fd=fd)
        finally:
            os.close(fd)
        fd = deeper
    return fd


class _Exactly:
    """A stream that never ends before it is asked to: zeros follow what a shrinking or unreadable file still has.

    short: why zeros had to follow, else ''.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.short = ""

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        room = size
        while room and not self.short:
            try:
                piece = self._stream.read(room)
            except OSError as error:
                self.short = f"could not be read ({error.strerror})"
                break
            self.short = "" if piece else "became shorter"
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces) + bytes(room)
