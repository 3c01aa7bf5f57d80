"""Whether anybody is writing a file, as far as the kernel tells."""

import fcntl
import os
import signal
from pathlib import Path


def writer(fd: int) -> bool | None:
    """Whether anybody has the file open for writing; None where the kernel does not say (not our file, or a file
    system without leases). False leaves a lease: who now opens it for writing waits until `unlease` or close."""
    try:
        # Somebody who opens it meanwhile breaks the lease, and its default signal would end this process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def unlease(fd: int) -> None:
    """Gives back what `writer` left on the descriptor; who waits to write goes on."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        pass  # there was none


def nobody_writes(path: Path) -> bool:
    """Whether the kernel says for sure that nobody has the file open for writing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return writer(fd) is False
    finally:
        os.close(fd)
