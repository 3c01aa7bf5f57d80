"""The port of the workflow's own process: started, heard, ended, and nothing of it left alive.

The executor never forks. It starts one supervisor (`peachctl.runtime.parent`), a small single-threaded process that
forks a process per workflow (`warm`), or starts a fresh interpreter for each (`fresh`), and ends all of a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peachctl.runtime.job import Job


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a run's process. code: exit code, or minus the signal. strays: processes of it that had to be ended.

    silent: the supervisor ended it, or did not start it, because it had heard no beat for too long; nothing is known
    against the run itself.
    """

    key: str
    code: int
    strays: int
    memory: int
    """Peak resident memory of its processes in bytes, as far as the kernel says."""
    silent: bool = False


class SupervisorLost(Exception):
    """The supervisor died, and all runs with it (that is made sure of before this is raised)."""


class Run(Protocol):
    """A run that was started."""

    key: str

    def fileno(self) -> int:
        """Readable when there are events."""
        ...

    def events(self) -> list[Mapping[str, Any]]:
        """What the run has reported since the last call (see `runtime.report`); never blocks."""
        ...

    def end(self, grace: float) -> None:
        """SIGTERM to its process group now, SIGKILL to all of it after `grace` seconds (0: at once). Its end comes
        through `Runner.ended`; may be called again with a shorter grace."""
        ...

    def close(self) -> None:
        """After its end, when the last events were read."""
        ...


class Runner(Protocol):
    """The supervisor as the executor sees it."""

    def start(self, key: str, job: Job, output: Path) -> Run:
        """Starts the job's script in its own session and process group; stdout and stderr go to `output`
        (appended, created 0640). Raises SupervisorLost."""
        ...

    def fileno(self) -> int:
        """Readable when a run has ended or the supervisor is gone."""
        ...

    def ended(self) -> list[Ended]:
        """Runs that ended since the last call; all of their processes are gone. Never blocks. Raises
        SupervisorLost."""
        ...

    def beat(self, at: float | None = None) -> None:
        """Says that the executor lives and holds its leases; without it the supervisor ends all runs by itself
        after the time it was opened with. at: monotonic time before the leases were renewed, None for now: a lease
        counts from its renewal, however late that returned."""
        ...

    def close(self) -> None:
        """Ends all runs at once, and the supervisor; returns when nothing is left."""
        ...
