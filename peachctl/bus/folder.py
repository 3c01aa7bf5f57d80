"""The bus of an embedded installation: an inbox folder that takes workflow files, and the queue folder as the event.

How a file of the inbox becomes one message:

- A file `NAME.bin`, `.json` or `.wf` is taken as soon as nobody can be writing it any more: when it was closed or
  moved in (inotify says so), or when a sweep finds it and nobody has it open for writing. The kernel tells that of
  our own files (a read lease); of others' files two looks some time apart tell: size and time have not changed. An
  empty file is taken after two looks only: it is more likely one that is still to be written.
- Taking is one rename, to `.taken/<offset>_<safe name>`. The offset is unique for this inbox (its clock in
  nanoseconds, kept strictly increasing under a lock), and is the message's origin from then on: a kill at any
  instant leaves the file either in the inbox or in `.taken`, from where it comes again with the same origin.
- Whoever took a file holds a lock on it until it is acknowledged (removed) or rejected (moved to `.refused`, beside
  its reason). The kernel frees the lock of a process that died: its files come again in the next one that sweeps.
- A file that was written on since it was read (nobody can keep another user from that) is not removed or set aside: it
  stays in `.taken` and comes again with what it holds then.

Events (watchdog) only shorten the wait: lost or overflowing ones, and folders that vanish and come back, cost no
file, because a sweep looks every few seconds. Only closing and moving in are watched: events of opening, reading and
of our own renames would feed a storm that our own looks cause.
"""

import fcntl
import json
import logging
import os
import re
import select
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peachctl import files
from peachctl.bus import Message
from peachctl.bus.lease import unlease, writer
from peachctl.bus.scripts import QueueFolder, ScriptSeen
from peachctl.bus.watch import Watch
from peachctl.errors import PeachError
from peachctl.failpoint import fail_point
from peachctl.names import file_name, printable
from peachctl.store import Origin
from peachctl.wire import Limits

__all__ = ["EXTENSIONS", "FolderBus", "ScriptSeen", "remove_refused"]

logger = logging.getLogger(__name__)

EXTENSIONS = (".bin", ".json", ".wf")
TAKEN = ".taken"
REFUSED = ".refused"
ORIGIN = ".origin"

_TAKEN_NAME = re.compile(r"(\d{1,19})_(.+)", re.DOTALL)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BATCH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class _Held:
    """A taken file of ours. fd holds the lock. state: before it was read."""

    path: Path
    fd: int
    state: "_State"


_State = tuple[int, int, int]
"""Size, modification time in ns, inode: the same twice means that nobody wrote."""


def _state(fd: int) -> _State:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns, status.st_ino


class FolderBus:
    """The `Bus` of an inbox, and the scripts of a queue folder; either may be None.

    host: part of the origin's topic `inbox@HOST` (the first host that used an inbox names it for good). max_bytes: of
    a larger file only one byte more than that is delivered, for the reader to refuse (JSON may be longer). sweep:
    seconds between sweeps. settle: seconds between two looks at a file of somebody else. Folders that are missing are
    created; raises PeachError where that cannot be done.
    """

    def __init__(
        self,
        inbox: Path | None,
        queue: Path | None,
        host: str,
        max_bytes: int,
        *,
        sweep: float = 3.0,
        settle: float = 1.0,
    ) -> None:
        self._inbox = inbox
        self._host = host
        self._max_bytes = max_bytes
        self._sweep = sweep
        self._settle = settle
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._inbox_wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._held: dict[int, _Held] = {}
        self._grown: set[int] = set()
        self._last_offset = 0
        self._leftovers: deque[tuple[int, Path]] = deque()
        self._found: dict[str, bool] = {}  # name -> whether it was seen closed or moved in
        self._looks: dict[str, tuple[_State, float]] = {}
        self._next_sweep = 0.0
        self._said: set[tuple[str, str]] = set()
        self._watch: Watch | None = None
        self._queue: QueueFolder | None = None
        if inbox is not None:
            files.make_folder(inbox)
            self._watch = Watch(inbox, _is_message, (self._wake, self._inbox_wake))
        if queue is not None:
            files.make_folder(queue)
            self._queue = QueueFolder(queue, self._wake, sweep)

    # The inbox

    def poll(self, timeout: float, most: int) -> list[Message]:
        """Up to `most` messages (fewer when they are large), waiting at most `timeout` seconds for the first."""
        if self._inbox is None or self._watch is None:
            time.sleep(timeout)
            return []
        until = time.monotonic() + timeout
        while True:
            self._collect(self._inbox, self._watch)
            messages = self._take(self._inbox, most) if self._found or self._leftovers else []
            now = time.monotonic()
            if messages or now >= until:
                return messages
            # Something found that could not be taken (another process has the lock): soon again.
            soon = now + 0.05 if self._found or self._leftovers else until
            select.select([self._inbox_wake], [], [], max(0.0, min(until, self._next_sweep, soon) - now))
            _drain(self._inbox_wake)

    def vouch(self) -> None:
        """Nothing: origins are those of the files."""

    def rest(self) -> None:
        """Nothing: it asks nobody."""

    def ack(self, messages: Sequence[Message]) -> None:
        """Removes what was taken; unknown ones and those that were rejected are passed over."""
        for message in messages:
            held = self._held.pop(message.origin.offset, None)
            if held is None or self._has_grown(message.origin.offset, held):
                continue
            try:
                held.path.unlink(missing_ok=True)
            except OSError as error:
                # It comes again with its origin, which is filed: no second row.
                logger.warning("%s cannot be removed: %s", printable(str(held.path)), error.strerror)
            os.close(held.fd)

    # The reason of what does not decode says its place as well.
    def reject(self, message: Message, reason: str, *, field: str = "", byte_offset: int | None = None) -> None:  # noqa: ARG002
        """Moves the file to `.refused`, beside `<name>.reason.txt`. Fails with a warning only: the store counts."""
        held = self._held.pop(message.origin.offset, None)
        if held is None or self._inbox is None or self._has_grown(message.origin.offset, held):
            return
        folder = self._inbox / REFUSED
        try:
            files.make_folder(folder)
            files.write(folder / f"{held.path.name}.reason.txt", f"{reason}\n")
            fail_point("folder:reasoned")
            held.path.rename(folder / held.path.name)
        except (OSError, PeachError) as error:
            logger.warning("%s cannot be set aside: %s", printable(str(held.path)), error)
            self._held[message.origin.offset] = held
            return
        os.close(held.fd)

    def _has_grown(self, offset: int, held: _Held) -> bool:
        """Whether it was written on since it was read; it is let go then, and comes again."""
        if _state(held.fd) == held.state:
            return False
        logger.warning("%s was written on after it had been taken; it is read again", printable(held.path.name))
        self._grown.add(offset)
        os.close(held.fd)
        return True

    def publish(self, ids: Sequence[int]) -> list[int]:
        """Nothing is left to be done: the script in the queue folder is the event."""
        return list(ids)

    def drained(self) -> bool:
        """What an empty `poll` of a folder means."""
        return True

    def lag(self) -> int | None:
        """People see the files."""
        return None

    def _collect(self, inbox: Path, watch: Watch) -> None:
        """Adds to `_found` and `_leftovers` what events, and now and then a sweep, tell."""
        for name in watch.names():
            self._found[name] = True
        now = time.monotonic()
        if now < self._next_sweep:
            return
        entries: list[os.DirEntry[str]] = []
        others: list[os.DirEntry[str]] = []
        try:
            watch.ensure()
            for entry in os.scandir(inbox):
                if _is_message(entry.name):
                    (entries if entry.is_file(follow_symlinks=False) else others).append(entry)
            entries.sort(key=_modified)
            self._said.discard(("", "inbox"))
        except OSError as error:
            self._say("", f"the inbox {inbox} cannot be read: {error.strerror}; it is looked at again", key="inbox")
        for entry in entries:
            self._found.setdefault(entry.name, False)
        for entry in others:
            what = "a link" if entry.is_symlink() else "a folder" if entry.is_dir() else "no regular file"
            self._say(entry.name, f"{printable(entry.name)} in the inbox is {what}: it is not taken, and stays there")
        names = {entry.name for entry in (*entries, *others)}
        self._leftovers = deque(self._taken_files(inbox))
        looked_at = names | {path.name for _, path in self._leftovers}
        self._looks = {name: look for name, look in self._looks.items() if name in looked_at}
        self._said = {said for said in self._said if not said[0] or said[0] in names}
        spent = time.monotonic() - now
        # A look at a huge folder must not become all that is done.
        self._next_sweep = now + max(self._sweep, 20 * spent)

    def _taken_files(self, inbox: Path) -> list[tuple[int, Path]]:
        """Files in `.taken` that this process does not hold, oldest first."""
        try:
            names = [path.name for path in (inbox / TAKEN).iterdir()]
        except OSError:
            return []
        found = [(int(match[1]), inbox / TAKEN / name) for name in names if (match := _TAKEN_NAME.fullmatch(name))]
        return sorted(one for one in found if one[0] not in self._held)

    def _take(self, inbox: Path, most: int) -> list[Message]:
        messages: list[Message] = []
        size = 0
        try:
            with self._taking(inbox) as taking:
                if taking is None:
                    return []
                while (self._leftovers or self._found) and len(messages) < most and size < _BATCH_BYTES:
                    if self._leftovers:
                        message = self._take_again(taking, *self._leftovers.popleft())
                    else:
                        name = next(iter(self._found))
                        message = self._take_new(taking, inbox, name, closed=self._found.pop(name))
                    if message is not None:
                        messages.append(message)
                        size += len(message.body)
        except (OSError, PeachError) as error:
            self._say("", f"the inbox {inbox} cannot be worked on: {error}", key="taking")
            self._found.clear()  # the next sweep finds them again
            self._leftovers.clear()
        else:
            self._said.discard(("", "taking"))
        return messages

    @contextmanager
    def _taking(self, inbox: Path) -> Iterator["_Taking | None"]:
        """The right to take, which one process has at a time; None while another one has it.

        The file that is locked (`.origin/last`) keeps the last offset and the topic: offsets stay unique when the
        clock is set back, and the topic stays when a container with a new host name takes over.
        """
        folder = inbox / TAKEN
        for private in (folder, inbox / ORIGIN):
            files.make_folder(private, files.PRIVATE_MODE)
        fd = os.open(inbox / ORIGIN / "last", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            last, topic = _kept(fd) or (0, f"inbox@{self._host}")
            yield _Taking(fd, folder, max(last, self._last_offset), topic)
        finally:
            os.close(fd)

    def _take_new(self, taking: "_Taking", inbox: Path, name: str, *, closed: bool) -> Message | None:
        path = inbox / name
        fd = self._open(path, name)
        if fd is None:
            return None
        keep = False
        try:
            if not self._complete(fd, name, closed=closed):
                return None
            # From here to the rename nobody can open it for writing, where the lease could be had.
            _lock(fd)
            self._last_offset = offset = taking.next_offset()
            taken = taking.folder / f"{offset}_{file_name(name)}"
            path.rename(taken)
            fail_point("folder:taken")
            if taken.lstat().st_ino != os.fstat(fd).st_ino:
                return None  # replaced at the last moment; the next sweep takes the new one out of `.taken`
            unlease(fd)
            state = _state(fd)
            message = self._read(fd, Origin(taking.topic, 0, offset), name)
            self._held[offset] = _Held(taken, fd, state)
            keep = True
            return message
        except BlockingIOError:
            return None  # locked by its writer
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say(name, f"{printable(name)} in the inbox cannot be taken: {error.strerror}")
            return None
        finally:
            if not keep:
                os.close(fd)

    def _take_again(self, taking: "_Taking", offset: int, path: Path) -> Message | None:
        """A file that a process took which did not come to acknowledge it."""
        fd = self._open(path, "", key=path.name)
        if fd is None:
            return None
        try:
            _lock(fd)
            quiet = self._complete(fd, path.name, closed=False) if offset in self._grown else writer(fd) is not True
            if path.lstat().st_ino == os.fstat(fd).st_ino and quiet:
                unlease(fd)
                self._grown.discard(offset)
                state = _state(fd)
                found = _TAKEN_NAME.fullmatch(path.name)
                message = self._read(fd, Origin(taking.topic, 0, offset), found[2] if found else path.name)
                self._held[offset] = _Held(path, fd, state)
                return message
        except (BlockingIOError, FileNotFoundError):
            pass  # another process is at it, or done with it
        except OSError as error:
            self._say("", f"{printable(str(path))} cannot be read: {error.strerror}", key=path.name)
        os.close(fd)
        return None

    def _open(self, path: Path, name: str, *, key: str = "") -> int | None:
        """Opens a regular file for reading; anything else is not touched (opening a device may move it)."""
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            fd = os.open(path, _READ)
        except (FileNotFoundError, BlockingIOError):
            return None
        except OSError as error:
            self._say(name, f"{printable(str(path))} cannot be read: {error.strerror}; it stays there", key=key)
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd

    def _complete(self, fd: int, name: str, *, closed: bool) -> bool:
        """Whether the file is all there. True leaves a lease on it where one can be had."""
        state = _state(fd)
        written = writer(fd)
        if written:
            self._looks.pop(name, None)
            return False  # its closing is an event, and a sweep looks as well
        if state[0] and (closed or written is False):
            return True
        now = time.monotonic()
        before = self._looks.get(name)
        if before is not None and before[0] == state:
            if now - before[1] >= self._settle:
                return True
        else:
            self._looks[name] = (state, now)
        self._next_sweep = min(self._next_sweep, now + self._settle)
        return False

    def _read(self, fd: int, origin: Origin, name: str) -> Message:
        size = os.fstat(fd).st_size
        pieces = []
        limits = Limits(message_bytes=self._max_bytes)
        room = 1 + (limits.message_bytes if name.lower().endswith(".bin") else limits.json_bytes)
        while room > 0 and (piece := os.read(fd, min(room, 1 << 20))):
            pieces.append(piece)
            room -= len(piece)
        body = b"".join(pieces)
        file = os.fsencode(name).decode(errors="backslashreplace")
        return Message(body, origin, file, size=size if size > len(body) else None)

    def _say(self, name: str, text: str, *, key: str = "") -> None:
        """Warns once of each file (or key) until it is gone or well again."""
        if (name, key) not in self._said:
            self._said.add((name, key))
            logger.warning("%s", text)

    # Both folders

    def fileno(self) -> int:
        """Readable when something may have changed in either folder, until `clear`."""
        return self._wake

    def clear(self) -> None:
        """Before a look at `poll` and `changed`: what comes later makes `fileno` readable again."""
        _drain(self._wake)

    def changed(self) -> list[ScriptSeen]:
        """Scripts that appeared or were saved since the last call (at first: since the bus was opened)."""
        return [] if self._queue is None else self._queue.changed()

    def scripts(self) -> list[ScriptSeen]:
        """All scripts that are there now, by name."""
        return [] if self._queue is None else self._queue.scripts()

    def close(self) -> None:
        """Stops watching; what was polled and neither acknowledged nor rejected comes again elsewhere."""
        if self._watch is not None:
            self._watch.stop()
        if self._queue is not None:
            self._queue.close()
        for held in self._held.values():
            os.close(held.fd)
        self._held.clear()
        os.close(self._wake)
        os.close(self._inbox_wake)


@dataclass(slots=True)
class _Taking:
    """The right to take, while this process has it. fd: of the locked file."""

    fd: int
    folder: Path
    last: int
    topic: str

    def next_offset(self) -> int:
        self.last = max(time.time_ns(), self.last + 1)
        kept = json.dumps({"last": self.last, "topic": self.topic}).encode()
        os.pwrite(self.fd, kept, 0)
        os.ftruncate(self.fd, len(kept))
        return self.last


def _kept(fd: int) -> tuple[int, str] | None:
    """The last offset and the topic of an inbox."""
    try:
        kept = json.loads(os.pread(fd, 4096, 0))
        return int(kept["last"]), str(kept["topic"])
    except (ValueError, KeyError, TypeError):
        return None


def remove_refused(inbox: Path, origins: Iterable[Origin]) -> int:
    """Removes the refused files of these origins, and their reasons, from `.refused`; returns how many files went.

    An offset says which file was put there by `reject`. What is of another inbox (rows of several hosts may share a
    database), or was put there by somebody else, stays. What cannot be removed is left with a warning.
    """
    removed = 0
    try:
        fd = os.open(inbox / ORIGIN / "last", _READ)
    except OSError:
        return 0  # nothing was ever taken here
    try:
        kept = _kept(fd)
    finally:
        os.close(fd)
    offsets = {origin.offset for origin in origins if kept is not None and origin.topic == kept[1]}
    try:
        found = [entry for entry in os.scandir(inbox / REFUSED) if entry.is_file(follow_symlinks=False)]
    except OSError:
        return 0
    for entry in found:
        match = _TAKEN_NAME.fullmatch(entry.name)
        if match is None or int(match[1]) not in offsets:
            continue
        try:
            Path(entry.path).unlink()
            removed += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("%s cannot be removed: %s", printable(entry.path), error.strerror)
    return removed


def _is_message(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _modified(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def _drain(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        pass


def _lock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
