"""Files on disk: how they are written, the folders of a workflow, and packed outputs.

Everything is written under a temporary name and renamed into place, so that a reader sees all of a file or nothing.
The layout of one workflow below `workflow_temp`:

    workflow_<id>/                      what services made available, and the logs: published at the end of an attempt
    .workflow_<id>/<attempt>/           one attempt; `workflow_<id>/` in it becomes the published folder
    .workflow_<id>/<attempt>/output.log what the attempt's processes wrote to stdout and stderr
    .workflow_<id>/<attempt>/script.py  the script that it runs
    .workflow_<id>/results/             results of nodes, kept so that the next attempt can go on from them
    .workflow_<id>/owner                whose folders these are: the script's name, which no other workflow has
    .workflow_<id>.old-<16 hex>/        what lay there of another workflow with this id (another database's, an id that
                                        came again), put aside: nothing of it is in anybody's output

Clients run as another user of a common group (contract, "Shared storage"): folders get 2750 and files 0640 whatever
the umask says, and a set-group-id bit above passes the group on.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from peachctl.errors import PeachError
from peachctl.masking import mask
from peachctl.names import printable
from peachctl.packer import LOG, READ, Packer

FILE_MODE = 0o640
FOLDER_MODE = 0o2750
PRIVATE_MODE = 0o2700
_OWNER = "owner"

_TEMPORARY = re.compile(r"\.peachctl-[0-9a-f]{16}\.tmp")
_ASIDE = re.compile(r"\.workflow_[0-9]+\.old-[0-9a-f]{16}")
STALE = 60.0
"""Seconds after which a temporary file that nobody has locked is of a dead process."""
_LARGEST_SCRIPT = 256 << 20
# Images are mostly compressed already: the fastest level costs a fifth of the default one and is about as small.
_COMPRESSION = 1


class FilesError(PeachError):
    """A folder or file that cannot be read or written."""


class DiskFull(FilesError):
    """No space (or quota) is left; what was half written is gone again. Loops pause and try again."""


@dataclass(frozen=True, slots=True)
class AttemptFolder:
    """Where one attempt works: folder becomes the published one, results are kept, output is the captured output,
    script is what it runs."""

    folder: Path
    results: Path
    output: Path
    script: Path

    @property
    def published(self) -> Path:
        """Where `folder` is once the attempt has ended."""
        return self.folder.parent.parent.parent / self.folder.name


@contextmanager
def told(what: str, path: Path | None = None) -> Iterator[None]:
    """Turns an OSError into one sentence that begins with the path and `what`."""
    try:
        yield
    except OSError as error:
        raise said(error, what, path) from error


def said(error: OSError, what: str, path: Path | str | None) -> FilesError:
    """What `told` raises: DiskFull where there is no room."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else FilesError
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and path is not None:
        path = Path(path).parent  # each try has another name; what is full is the same, and is said once
    subject = f"{printable(str(path))} " if path is not None else ""
    return kind(f"{subject}{what}: {error.strerror or error}")


def temporary_name() -> str:
    """One that nobody takes for anything, and `clean_temporaries` knows."""
    return f".peachctl-{secrets.token_hex(8)}.tmp"


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file under a name that nobody takes for anything, for the caller to rename; gone when the block fails.

    Whoever writes it holds a lock on it, which tells a temporary file of a dead process (`clean_temporaries`).
    """
    path = folder / temporary_name()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream, path
        finally:
            path.unlink(missing_ok=True)


def _settle(stream: BinaryIO, mode: int, *, durable: bool) -> None:
    """Before the rename. The mode is set here because the umask has no say in what clients may read."""
    stream.flush()
    os.fchmod(stream.fileno(), mode)
    if durable:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(path: Path, text: str) -> None:
    """Writes a text file (UTF-8, 0640) in one step; what stood there is replaced. Raises DiskFull, FilesError."""
    with told("cannot be written", path), _temporary(path.parent) as (stream, temporary):
        stream.write(text.encode(errors="backslashreplace"))
        _settle(stream, FILE_MODE, durable=False)
        temporary.replace(path)


def write_log(folder: Path, text: str) -> None:
    """Writes `peachctl.log` into a workflow's folder, whatever a service has put there under that name. Raises as
    `write`."""
    path = folder / LOG
    with told(f"{printable(str(path))} cannot be written"):
        if _is_folder(path):
            _remove(path)
    make_folder(folder)
    write(path, text)


def make_folder(path: Path, mode: int = FOLDER_MODE) -> None:
    """Creates a folder that is missing (its parents too) with exactly this mode; one that is there stays as it is."""
    with told("cannot be created", path):
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True)
            path.chmod(mode)


def free_space(path: Path) -> int:
    """Bytes that are free for us where `path` is or will be. Raises FilesError."""
    while not path.exists() and path != path.parent:
        path = path.parent
    with told("cannot be examined", path):
        found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def too_little_space(path: Path, floor: int) -> str | None:
    """The sentence that less than `floor` bytes (limits.free_space) are free where `path` is; None where it is more.
    Raises FilesError."""
    if free_space(path) >= floor:
        return None
    return f"less than {floor >> 20} MiB (limits.free_space) are free below {path}"


def clean_temporaries(folder: Path, age: float = STALE) -> int:
    """Removes temporary files that a process of ours left when it was killed; returns how many.

    Ours by its name, dead by its lock and age (seconds). Nothing else is touched, and a folder that cannot be read is
    no error. age: 0 where nobody else has anything to write.
    """
    removed = 0
    for name in [entry.name for entry in _entries(folder) if _TEMPORARY.fullmatch(entry.name)]:
        path = folder / name
        try:
            fd = os.open(path, READ)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that is younger may have been created a moment ago and not be locked yet.
            if not age or time.time() - os.fstat(fd).st_mtime > age:
                path.unlink(missing_ok=True)
                removed += 1
        except OSError:
            pass
        finally:
            os.close(fd)
    return removed


def clean_put_aside(workflow_temp: Path) -> int:
    """The same in the folders that were put aside, which nobody writes to any more; one that holds nothing goes too.
    One look at all names of `workflow_temp`."""
    removed = 0
    for aside in [Path(entry.path) for entry in _entries(workflow_temp) if _ASIDE.fullmatch(entry.name)]:
        if _is_folder(aside):
            removed += sum(clean_temporaries(folder) for folder in _written_to(aside))
            with suppress(OSError):
                if time.time() - aside.stat().st_mtime > STALE:  # else something is about to be put there
                    aside.rmdir()
    return removed


def _written_to(top: Path) -> Iterator[Path]:
    """The folders of workflows below `top` into which we write: homes, attempts, and what is published of them."""
    for home in _folders_in(top):
        yield home
        for attempt in _folders_in(home):
            if attempt.name.isdecimal():
                yield attempt
                yield from _folders_in(attempt)


def _folders_in(path: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What is in a folder; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def read_regular(path: Path) -> bytes | None:
    """The bytes of a file, None where there is no regular one (a link is none). Raises FilesError when it cannot be
    read or is beyond all measure."""
    with told("cannot be read", path):
        try:
            fd = os.open(path, READ)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG):
                return None
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        with os.fdopen(fd, "rb") as stream:
            if status.st_size > _LARGEST_SCRIPT:
                raise FilesError(f"{printable(str(path))} is no script: it has {status.st_size} bytes")
            return stream.read(_LARGEST_SCRIPT)


# The folders of a workflow


def _attempts(home: Path) -> list[tuple[int, Path]]:
    """The folders of a row's attempts, the latest first."""
    try:
        found = [(int(entry.name), Path(entry.path)) for entry in os.scandir(home) if entry.name.isdecimal()]
    except FileNotFoundError:
        return []
    return sorted(found, reverse=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    """Removes whatever is there, and all below it."""
    try:
        if not _is_folder(path):
            path.unlink(missing_ok=True)
            return
        try:
            shutil.rmtree(path)
        except PermissionError:
            # A service may have taken away its own right to look into a folder.
            path.chmod(0o700)
            for top, folders, _ in os.walk(path):
                for folder in folders:
                    if not (Path(top) / folder).is_symlink():
                        (Path(top) / folder).chmod(0o700)
            shutil.rmtree(path)
    except RecursionError as error:
        raise FilesError(f"{printable(str(path))} cannot be removed: its folders are nested too deep") from error


def attempt_folder(workflow_temp: Path, id: int, attempt: int) -> AttemptFolder:
    """The paths of an attempt, whether they are there or not."""
    home = workflow_temp / f".workflow_{id}"
    mine = home / str(attempt)
    return AttemptFolder(mine / f"workflow_{id}", home / "results", mine / "output.log", mine / "script.py")


def _refuse_overtaken(home: Path, id: int, attempt: int) -> list[tuple[int, Path]]:
    """The folders of a row's attempts. Raises FilesError where there is one of a later attempt: who has an earlier one
    in hand has lost its claim, and must leave them alone."""
    found = _attempts(home)
    if found and found[0][0] > attempt:
        raise FilesError(f"workflow {id}: attempt {attempt} was overtaken by attempt {found[0][0]}")
    return found


def _own_home(workflow_temp: Path, id: int, owner: str | None) -> Path:
    """`.workflow_<id>`, made where it is missing. What is there of another owner is put aside, the published folder
    too; None: whosever it is. One that holds nothing is nobody else's: who made it was killed before it said whose it
    is, or is about to say so."""
    home, published = workflow_temp / f".workflow_{id}", workflow_temp / f"workflow_{id}"
    if not _is_folder(home):
        _remove(home)
    clean_temporaries(home, age=0)
    mark = None if owner is None else owner.encode(errors="backslashreplace")
    if mark is not None and read_regular(home / _OWNER) != mark:
        bare = all(_TEMPORARY.fullmatch(entry.name) for entry in _entries(home))
        foreign = [path for path in ([published] if bare else [home, published]) if os.path.lexists(path)]
        if foreign:
            aside = workflow_temp / f".workflow_{id}.old-{secrets.token_hex(8)}"
            make_folder(aside, PRIVATE_MODE)
            for path in foreign:
                path.rename(aside / path.name)
    make_folder(home)
    if owner is not None and not (home / _OWNER).exists():
        write(home / _OWNER, owner)
    return home


def prepare_attempt(
    workflow_temp: Path, id: int, attempt: int, resumed: bool, owner: str | None = None
) -> AttemptFolder:
    """The folders that an attempt starts with.

    owner: the row's script name; what lies there of another workflow is put aside (None: it is not looked at).
    resumed: the files of the attempt before are taken over (its folder is renamed, or the published one moved back),
    and kept results stay. Else it starts empty; an output published before stays until `publish` replaces it.
    Raises DiskFull, FilesError.
    """
    with told(f"workflow {id}: its folder cannot be prepared"):
        home = _own_home(workflow_temp, id, owner)
        wanted = attempt_folder(workflow_temp, id, attempt)
        folder, mine = wanted.folder, wanted.folder.parent
        earlier = [path for number, path in _refuse_overtaken(home, id, attempt) if number < attempt]
        if resumed and earlier and not mine.exists():
            earlier.pop(0).rename(mine)
        # What a killed attempt left half-written is no part of anything, least of all of the output.
        for path in (mine, folder):
            clean_temporaries(path, age=0)
        for path in earlier:
            _remove(path)
        if not resumed:
            _remove(mine)
            _remove(wanted.results)
        make_folder(mine)
        published = workflow_temp / f"workflow_{id}"
        if resumed and not folder.exists() and _is_folder(published):
            published.rename(folder)
        make_folder(folder)
        make_folder(wanted.results, PRIVATE_MODE)
        return wanted


def publish(attempt: AttemptFolder) -> Path:
    """Renames an attempt's folder to `workflow_temp/workflow_<id>`, which it returns; one published before is
    replaced. Done already, it does nothing. Raises DiskFull, FilesError."""
    folder = attempt.folder
    home = folder.parent.parent
    target = attempt.published
    with told(f"{folder.name} cannot be published"):
        if not folder.exists() and _is_folder(target):
            return target
        old = home / "replaced"
        if os.path.lexists(target):
            _remove(old)
            target.rename(old)
        folder.rename(target)
        _remove(old)
    return target


def remove_workflow(workflow_temp: Path, id: int) -> None:
    """Removes all that is kept of a workflow, but not its packed output. Raises FilesError."""
    with told(f"workflow {id}: its folder cannot be removed"):
        _remove(workflow_temp / f"workflow_{id}")
        _remove(workflow_temp / f".workflow_{id}")


# Packed outputs


def pack(folder: Path, download_files: Path, id: int) -> str:
    """Packs a workflow's folder (gzip tar, top folder `workflow_<id>`) and returns the file's name, which is new:
    `<unix time without the dot>_workflow_<id>.tar`.

    Regular files and folders only, with modes 644 or 755 and no owner. A link to a file inside the folder becomes
    that file; links that leave it, devices and the like, and what cannot be read are left out, and `peachctl.log` in
    the packed output says so. A file that shrinks or grows meanwhile is cut or filled to its size at the beginning.
    Raises DiskFull, FilesError; the temporary file is gone then.
    """
    with told(f"the output of workflow {id} cannot be packed"):
        with _temporary(download_files) as (stream, temporary):
            # format PAX: any name that a file system allows, undecodable bytes included
            with tarfile.open(
                fileobj=stream,
                mode="w:gz",
                format=tarfile.PAX_FORMAT,
                compresslevel=_COMPRESSION,
                errors="surrogateescape",
            ) as tar:
                Packer(tar, f"workflow_{id}").add_all(folder)
            _settle(stream, FILE_MODE, durable=True)
            name = _link_new(temporary, download_files, id)
        _sync_folder(download_files)
    return name


def _link_new(temporary: Path, folder: Path, id: int) -> str:
    micros = time.time_ns() // 1000
    while True:
        name = f"{micros}_workflow_{id}.tar"
        try:
            os.link(temporary, folder / name)
            return name
        except FileExistsError:
            micros += 1
        except OSError as error:
            # A file system without hard links; the id in the name, and one packer for each row, keep it unique.
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            if not (folder / name).exists():
                temporary.rename(folder / name)
                return name
            micros += 1


def write_refusal(
    workflow_temp: Path, download_files: Path, id: int, attempt: int, reason: str, owner: str | None = None
) -> str:
    """Packs an output for a row that ended without a run, and returns its name: clients show no reason, so
    `workflow_<id>/peachctl.log` says it, beside what an earlier attempt left.

    attempt: the row's last one, 0 for none. owner: as for `prepare_attempt`. Raises DiskFull, FilesError;
    the latter where a later attempt is there.
    """
    home = workflow_temp / f".workflow_{id}"
    target = workflow_temp / f"workflow_{id}"
    with told(f"workflow {id}: its log cannot be written"):
        if owner is not None:
            _own_home(workflow_temp, id, owner)
        for number, path in _refuse_overtaken(home, id, attempt):
            if _is_folder(path / target.name):
                publish(attempt_folder(workflow_temp, id, number))
                break
        make_folder(target)
        clean_temporaries(target, age=0)
        write_log(target, f"workflow {id}: error\n{mask(reason)}\n")
    return pack(target, download_files, id)
