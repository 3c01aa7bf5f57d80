"""Proof that an executor, its supervisor or a run of it lives: a lock on a file, which all of them hold.

The executor takes two locks on one file in a folder of this host. The `flock` goes with the descriptor, which
supervisor and runs inherit: whoever can take it knows that nothing of that executor lives. The record lock (`lockf`)
is the executor's own: whoever can take that one knows that the executor itself is dead, and that what is left has
nobody any more. A process number that can't be seen would prove nothing: containers share host names, and units hide
processes.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peachctl import processes
from peachctl.errors import StateError

MARKER = "PEACHCTL_EXECUTOR"
"""Environment variable with the executor's token, in the supervisor and all that comes from it."""

_NAME = re.compile(r"[0-9a-f]{32}\.lock\Z")
_PATIENCE = 5.0
"""Seconds that a supervisor has to end its runs after its executor's death, before they are ended from outside."""
_FORGOTTEN = 7 * 24 * 3600
"""Seconds after which the lock of a dead executor says nothing any more: its leases have run out long ago."""

_held: set[str] = set()
_known_dead: set[str] = set()
_orphaned: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that this process holds. fd: the descriptor to hand on; token: 32 hex digits, different for each start;
    proof: JSON for `is_dead`."""

    fd: int
    token: str
    proof: str
    path: Path

    def release(self) -> None:
        """Gives the lock up and removes its file; when nothing of the executor lives any more."""
        if self.token in _held:
            _held.discard(self.token)
            self.path.unlink(missing_ok=True)
            os.close(self.fd)


def default_folder() -> Path:
    """A folder of this host for lock files: systemd's runtime directory, the login's, or one below the temporary."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return Path(runtime)
    login = os.environ.get("XDG_RUNTIME_DIR", "")
    if login and _is_ours(login):
        return Path(login) / "peachctl"
    return Path(tempfile.gettempdir()) / f"peachctl-{os.geteuid()}"


def take(folder: Path) -> Held:
    """Takes a new lock in `folder` (made 0700 if it isn't there). Raises StateError where the folder could be somebody
    else's, OSError where it can't be written."""
    token = secrets.token_hex(16)
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = _open_folder(folder)
    name = f"{token}.lock"
    try:
        _sweep(directory)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    finally:
        os.close(directory)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    found = os.fstat(fd)
    path = folder / name
    proof = {"path": str(path), "dev": found.st_dev, "ino": found.st_ino, **_here()}
    _held.add(token)
    return Held(fd, token, json.dumps(proof, sort_keys=True), path)


def is_dead(proof: str) -> bool:
    """Whether it is known that nothing of the executor with this proof lives. False is no knowledge at all.

    True takes the same host, boot and PID namespace, the very file of the proof, and its lock, which nobody holds;
    the file is deleted then. Where the executor itself is dead and something else still holds the lock after a few
    seconds, that is ended (see `end_strays`). May take seconds then, never longer than ten.
    """
    if proof in _known_dead:
        return True
    wanted = _read(proof)
    if wanted is None or any(wanted.get(key) != value for key, value in _here().items()):
        return False
    path = Path(str(wanted.get("path")))
    token = path.name.removesuffix(".lock")
    # To open and close a file of our own would drop our record lock on it.
    if not _NAME.match(path.name) or token in _held:
        return False
    try:
        directory = _open_folder(path.parent)
    except (OSError, StateError):
        return False
    try:
        fd = os.open(path.name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            found = os.fstat(fd)
            same = (found.st_dev, found.st_ino) == (wanted.get("dev"), wanted.get("ino"))
            if not same or not stat.S_ISREG(found.st_mode) or not _is_free(fd, token):
                return False
            # Two may get here one after the other, both with the same file: both know, one deletes.
            if _is_at(path.name, directory, found):
                os.unlink(path.name, dir_fd=directory)
        finally:
            os.close(fd)
    except OSError:
        return False
    finally:
        os.close(directory)
    _orphaned.pop(token, None)
    _known_dead.add(proof)
    return True


def end_strays(token: str) -> int:
    """Ends (SIGKILL) all processes of our user that were started with this executor's marker in their environment, and
    what is below them; returns how many. For the end of an executor that is known to be dead, or nobody's any more."""
    marker = f"{MARKER}={token}".encode()
    depth = processes.own_depth()
    ended = 0
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        everything = [
            process for process in processes.all_processes(depth) if process.pid != os.getpid() and not process.zombie
        ]
        marked = [process for process in everything if processes.has_marker(process, marker)]
        if not marked:
            break
        # Those below may have another environment: once those above are dead, nothing shows whose they are.
        below = processes.descendants({process.number for process in marked}, everything)
        ended += processes.kill_all({*marked, *below}, depth)
        time.sleep(0.01)
    return ended


def _sweep(directory: int) -> None:
    """Removes locks of executors that died long ago and of which no database seems to know."""
    for name in os.listdir(directory):
        if not _NAME.match(name) or name.removesuffix(".lock") in _held:
            continue
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                if time.time() - os.fstat(fd).st_mtime > _FORGOTTEN and _try(fcntl.flock, fd):
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(fd)


def _is_free(fd: int, token: str) -> bool:
    """Takes the lock; else, when the executor itself is dead for a while, ends what holds it and tries again."""
    if _try(fcntl.flock, fd):
        return True
    if not _try(fcntl.lockf, fd):
        _orphaned.pop(token, None)
        return False
    fcntl.lockf(fd, fcntl.LOCK_UN)
    if time.monotonic() - _orphaned.setdefault(token, time.monotonic()) < _PATIENCE:
        return False
    end_strays(token)
    return _try(fcntl.flock, fd)


def _try(lock: Callable[[int, int], object], fd: int) -> bool:
    try:
        lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(name: str, directory: int, found: os.stat_result) -> bool:
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)


def _open_folder(folder: Path) -> int:
    """A descriptor of a folder that only our user can write to; a link in its place is refused."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(directory)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(directory)
        raise StateError(
            f"{folder} cannot hold locks: it is not this user's alone",
            "remove it, or set XDG_RUNTIME_DIR to a folder of your own",
        )
    return directory


def _is_ours(folder: str) -> bool:
    try:
        found = Path(folder).stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK)


def _here() -> dict[str, str | int]:
    """What must be the same for a lock to say anything."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    try:
        pids = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        pids = 0
    return {"host": socket.gethostname(), "boot": boot, "pids": pids}


def _read(proof: str) -> dict[str, object] | None:
    try:
        wanted = json.loads(proof)
    except (ValueError, RecursionError):
        return None
    return wanted if isinstance(wanted, dict) and wanted.get("boot") and wanted.get("pids") else None
