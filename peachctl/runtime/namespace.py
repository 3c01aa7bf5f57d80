"""A PID namespace for the supervisor and its runs: what is in it dies with its process 1, whatever it has done.

Where the process may (root, as a rule), the namespace comes without a user namespace, so that users and groups are
what they were. An ordinary user needs a user namespace with it, in which user and group map to themselves; other
groups of the process go on to count for files, but can't be given to files (`chgrp`). A mount namespace carries a
`/proc` that tells the truth inside; a host may refuse that alone, then `/proc` goes on to show outer numbers.
"""

import contextlib
import ctypes
import enum
import os
import random
from collections.abc import Callable

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 0x4000, 0x80000
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Way(enum.IntEnum):
    """How a namespace can be had here."""

    NONE = 0
    PLAIN = 1
    WITH_USER = 2


def possible() -> Way:
    """The way that works on this host, tried out in children of this (single-threaded) process.

    A user namespace can't be left again, so one that turns out to be of no use must not be our own.
    """
    for way in (Way.PLAIN, Way.WITH_USER):
        # Root in a user namespace of its own would lose its say over the files of all others.
        if way is Way.WITH_USER and os.geteuid() == 0:
            break
        if _succeeds(lambda way=way: _try_out(way)):  # type: ignore[misc]
            return way
    return Way.NONE


def unshare(way: Way) -> None:
    """Puts the next child into a new PID namespace as its process 1, and this process into the others. Raises
    OSError."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS | (_CLONE_NEWUSER if way is Way.WITH_USER else 0)))
    if way is Way.WITH_USER:
        # user_namespaces(7): without a privilege outside, groups can only be mapped once setgroups is denied.
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    else:
        # What is mounted outside later on is seen inside, but nothing goes the other way.
        _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))


def settle(way: Way) -> bool:
    """In process 1: a `/proc` of the namespace, other numbers than every other namespace has, and no privileges that
    the user namespace has brought. Returns whether `/proc` tells the truth."""
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    mounted: bool = _libc.mount(b"proc", b"/proc", b"proc", flags, None) == 0
    # Programs take their process number for unique on a host, in names of temporary files for one.
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/sys/kernel/pid_max") as file:
            most = int(file.read())
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(random.SystemRandom().randrange(300, max(301, most - 5000))))
    if way is Way.WITH_USER:
        _drop_capabilities()
    return mounted


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def _try_out(way: Way) -> None:
    unshare(way)
    if not _succeeds(lambda: None):
        raise OSError


def _succeeds(attempt: Callable[[], None]) -> bool:
    """Whether `attempt` ends without an OSError, in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            attempt()
            status = 0
        except OSError:
            pass
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _check(result: int) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
