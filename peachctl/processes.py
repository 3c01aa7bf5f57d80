"""What Linux tells of processes and does for them: few words of prctl, and /proc read without a library.

Both sides of the process boundary need it: the executor to be sure that nothing lives, the supervisor to end all of
a run. Process numbers are those of the caller's own PID namespace, whichever namespace `/proc` was mounted for.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    nothing = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), nothing, nothing, nothing) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def die_with_parent(signum: int) -> None:
    """Has the kernel send `signum` to this process when its parent dies.

    It is the parent's *thread* whose end counts, and a parent that is dead already sends nothing: whoever calls this
    looks at its parent afterwards, and again when the signal comes (prctl(2), PR_SET_PDEATHSIG).
    """
    _prctl(_PR_SET_PDEATHSIG, signum)


def become_subreaper() -> None:
    """Descendants that lose their parent become children of this process from now on."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_memory_back() -> None:
    """From now on what a large buffer took goes back to the system when it is freed (mallopt(3)).

    Of itself glibc learns from each buffer to keep some megabytes more, for each thread: over 50,000 runs an executor
    grew by 2 MB now and then. Where there is another allocator nothing happens.
    """
    with contextlib.suppress(AttributeError):
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 128 << 10), (_M_TRIM_THRESHOLD, 128 << 10)):
            _libc.mallopt(option, value)


def set_name(name: str) -> None:
    """The name that `ps -e` shows, cut to 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode(errors="replace")[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


@dataclass(frozen=True, slots=True)
class Process:
    """A process that exists (a zombie too). number and parent are what `/proc` says, the others are the caller's."""

    number: int
    parent: int
    pid: int
    group: int
    session: int
    zombie: bool


def read_process(number: int | str, depth: int) -> Process | None:
    """The process that `/proc` lists under `number`; None when there is none, or it is of no namespace below ours.

    depth: what `own_depth` returned.
    """
    try:
        if depth == 0:
            # A third of the time that the longer text takes; proc(5), /proc/pid/stat.
            with open(f"/proc/{number}/stat", "rb") as file:
                text = file.read()
            state, parent, group, session = text[text.rindex(b")") + 2 :].split(maxsplit=4)[:4]
            pid = int(text[: text.index(b" ")])
            return Process(pid, int(parent), pid, int(group), int(session), state in (b"Z", b"X"))
        with open(f"/proc/{number}/status", "rb") as file:
            text = file.read()
    except (OSError, ValueError):
        return None
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    try:
        pids, groups, sessions = (fields[name].split() for name in (b"NSpid", b"NSpgid", b"NSsid"))
        if len(pids) <= depth:
            return None
        return Process(
            number=int(pids[0]),
            parent=int(fields[b"PPid"]),
            pid=int(pids[depth]),
            group=int(groups[depth]),
            session=int(sessions[depth]),
            zombie=fields[b"State"].split()[0] in (b"Z", b"X"),
        )
    except (KeyError, IndexError, ValueError):
        return None


def own_depth() -> int:
    """How many PID namespaces lie between the one that `/proc` was mounted for and ours (0: it is our own)."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return len(line.split()) - 2
    return 0


def all_processes(depth: int) -> Iterator[Process]:
    """Every process of our namespace that `/proc` shows."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is wanted
        if entry.isdigit():
            process = read_process(entry, depth)
            if process is not None:
                yield process


def own_children(depth: int) -> list[Process]:
    """The children of this single-threaded process, adopted ones and zombies included.

    Complete as long as nobody else reaps them: the kernel only appends to the list while they are unreaped.
    """
    me = Path("/proc/self").readlink()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            numbers = file.read().split()
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [process for process in all_processes(depth) if process.parent == int(str(me))]
    found = (read_process(number.decode(), depth) for number in numbers)
    return [process for process in found if process is not None]


def descendants(roots: Iterable[int], everything: Iterable[Process]) -> list[Process]:
    """Those of `everything` that are below the processes with the numbers (of `/proc`) `roots`, without these."""
    below: dict[int, list[Process]] = {}
    for process in everything:
        below.setdefault(process.parent, []).append(process)
    found = []
    reached = list(roots)
    while reached:
        children = below.pop(reached.pop(), [])
        found += children
        reached += [child.number for child in children]
    return found


def has_marker(process: Process, marker: bytes) -> bool:
    """Whether a process of our own user was executed with `marker` (`NAME=value`) in its environment."""
    try:
        if Path(f"/proc/{process.number}").stat().st_uid != os.geteuid():
            return False
        with open(f"/proc/{process.number}/environ", "rb") as file:
            return marker in file.read().split(b"\0")
    except OSError:
        return False


def kill_all(victims: Iterable[Process], depth: int) -> int:
    """SIGKILL to all of these, as far as they are still what they were; returns how many.

    All are got hold of before the first is killed: then none can be mistaken for another that has its number now, and
    none is missed because its parent has just died.
    """
    held = []
    for process in victims:
        with contextlib.suppress(OSError):
            held.append((os.pidfd_open(process.pid), process))
    killed = 0
    sure = [descriptor for descriptor, process in held if read_process(process.number, depth) == process]
    for descriptor in sure:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            killed += 1
    for descriptor, _ in held:
        os.close(descriptor)
    return killed
