"""What a supervisor leaves behind that was killed where there is no namespace to die with it: found and ended."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Collection

from peachctl import processes
from peachctl.runner.alive import MARKER

logger = logging.getLogger(__name__)


def end_orphans(token: str, spare: Collection[int], patience: float) -> bool:
    """Ends (SIGKILL) what a dead supervisor has left to this process, and says whether nothing is left.

    Such processes are those below us in other sessions than ours (a supervisor and each of its runs have their own,
    and this process is a subreaper), except the supervisors `spare` and what is below them; and all that carry our
    token's marker. Waits `patience` seconds at most. What may not be ended (a program that became another user) is
    reported and passed over.
    """
    marker = f"{MARKER}={token}".encode()
    until = time.monotonic() + patience
    refused: set[int] = set()
    while True:
        left = [process for process in _left(marker, spare) if process.pid not in refused]
        for process in left:
            # A zombie is reaped here when it is ours by adoption; when it is not, its parent is ended, too.
            with contextlib.suppress(OSError):
                if os.waitpid(process.pid, os.WNOHANG)[0]:
                    continue
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                logger.warning("process %d, left behind by a workflow, cannot be ended", process.pid)
                refused.add(process.pid)
        if not left:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.005)


def _left(marker: bytes, spare: Collection[int]) -> list[processes.Process]:
    depth = processes.own_depth()
    ourselves = processes.read_process("self", depth)
    everything = list(processes.all_processes(depth))
    found = {}
    if ourselves is not None:
        left = [
            process
            for process in everything
            if process.parent == ourselves.number and process.session != ourselves.session and process.pid not in spare
        ]
        for process in [*left, *processes.descendants({one.number for one in left}, everything)]:
            found[process.pid] = process
    for process in everything:
        # A zombie has no environment any more.
        if process.pid not in found and process.pid != os.getpid() and processes.has_marker(process, marker):
            found[process.pid] = process
    return list(found.values())
