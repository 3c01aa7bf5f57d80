"""Whose the processes are that runs leave behind, so that the end of a run waits for its own alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from peachctl.processes import Process

_PATIENCE = 5.0
"""Seconds after which a process that cannot be killed holds back nobody whose it may, but need not be."""


@dataclass(slots=True)
class _Stray:
    look: int
    since: float
    owners: set[str] = field(default_factory=set)
    sure: bool = False


class Custody:
    """What the supervisor has seen of strays: children that it did not start.

    A stray comes to the supervisor when the main process of its run, or the stray above it, ends: between two looks at
    the children. That end is reaped before the later of the two, or right after it. So whatever was reaped in that time
    says whose a new stray may be: with one run it is sure. A stray that has kept its session says it by itself.
    """

    def __init__(self) -> None:
        self._look = 0
        self._strays: dict[int, _Stray] = {}
        self._ends: set[str] = set()

    def reaped(self, pid: int, run: str | None) -> None:
        """The end of a child was taken: of the main process of `run`, or (None) of a stray."""
        stray = self._strays.pop(pid, None)
        if run is not None:
            self._ends.add(run)
        elif stray is not None:
            # What it leaves comes to us in turn, and is of the same run.
            self._ends |= stray.owners

    def look(self, strays: Iterable[Process], sessions: Mapping[int, str], now: float) -> None:
        """All strays that are there now, zombies included. sessions: the runs by the process number of their main
        process; now: monotonic seconds."""
        self._look += 1
        for process in strays:
            stray = self._strays.get(process.pid)
            if stray is None:
                stray = self._strays[process.pid] = _Stray(self._look, now)
                if process.session in sessions:
                    stray.owners, stray.sure = {sessions[process.session]}, True
            if not stray.sure and stray.look >= self._look - 1:
                stray.owners |= self._ends
        self._ends = set()

    def owners(self, pid: int) -> set[str]:
        """The runs that a stray may belong to."""
        stray = self._strays.get(pid)
        return set() if stray is None else stray.owners

    def holds_back(self, run: str, now: float) -> bool:
        """Whether something of an ended run is left, as far as is known since the last look."""
        for stray in self._strays.values():
            if stray.owners == {run}:
                return True
            if (run in stray.owners or not stray.owners) and now - stray.since < _PATIENCE:
                return True
        return False
