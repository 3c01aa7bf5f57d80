"""The real servers of the suite: one of each per session, on loopback, with private ports and folders.

The session is pytest's controller process (or `make proof`): it makes the folder, whose name its workers inherit in
`SERVERS_OF_THE_TESTS`, and stops by their pids, at its end, what was started in it. A server starts when the first test
asks for it; the others that ask wait on a lock. One that can't be had fails whatever needs it; nothing is skipped.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parents[2] / ".cache" / "servers"
"""What `make test` has downloaded, by name and version; kept between runs."""

_SESSION = "SERVERS_OF_THE_TESTS"
_PATIENCE = 10.0


def session_folder() -> Path:
    """The folder of this session. Raises RuntimeError outside of `session`."""
    try:
        return Path(os.environ[_SESSION])
    except KeyError:
        raise RuntimeError("servers are started inside of a session only (tests/servers)") from None


@contextlib.contextmanager
def session() -> Iterator[Path]:
    """A session: servers that are started inside of it end with it. One inside of another is a part of that."""
    if _SESSION in os.environ:
        yield session_folder()
        return
    folder = Path(tempfile.mkdtemp(prefix="peach-servers-"))
    os.environ[_SESSION] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[_SESSION]
        for known in sorted(folder.glob("*.json")):
            # Its folder goes with it: nothing is left for it to put in order.
            stop(int(json.loads(known.read_text())["pid"]), gently=False)
        shutil.rmtree(folder, ignore_errors=True)


def shared(name: str, start: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What is known of the session's one server of this name (its pid, its port, ...); the first caller starts it.

    start: gets a folder that is the server's alone, starts it, waits until it answers, and returns what is known of
    it, with its `pid`; raises where it can't be had, and the next caller tries again.
    """
    folder = session_folder()
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = folder / f"{name}.json"
        if known.exists():
            return dict(json.loads(known.read_text()))
        home = folder / name
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        found = start(home)
        known.write_text(json.dumps(found))
        return found


def stop(pid: int, *, gently: bool = True) -> None:
    """SIGTERM to this process alone, SIGKILL when that is not enough; waits until it is gone."""
    for signum in (signal.SIGTERM, signal.SIGKILL) if gently else (signal.SIGKILL,):
        end = time.monotonic() + _PATIENCE
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        while time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not _lives(pid):
                return
            time.sleep(0.02)
    raise RuntimeError(f"process {pid} cannot be ended")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        # The first thread may be gone before the others, which still hold files and locks.
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """Waits for something that is meant; raises RuntimeError with `why` when it does not come."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"{why} within {seconds:g} s")
        time.sleep(0.05)
