"""The scripts of the queue folder: what is there, and what appeared or was saved.

The queue folder is not ours alone: this only names what is there, and touches nothing.
"""

import logging
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from peachctl.bus.lease import nobody_writes
from peachctl.bus.watch import Watch

logger = logging.getLogger(__name__)

_State = tuple[int, int, int]
"""Size, modification time in ns, inode."""


@dataclass(frozen=True, slots=True)
class ScriptSeen:
    """A script of the queue folder as it was when it was looked at. mtime_ns: of its content."""

    path: Path
    name: str
    mtime_ns: int
    inode: int


class QueueFolder:
    """Watches a folder's `*.py`. poke: an eventfd that is written to at changes; sweep: seconds between sweeps."""

    def __init__(self, folder: Path, poke: int, sweep: float) -> None:
        self._folder = folder
        self._sweep = sweep
        self._watch = Watch(folder, _is_script, (poke,))
        self._unreadable = False
        self._known = {seen.name: state for seen, state in self._look()}
        self._unsure: dict[str, _State] = {}
        self._next_look = time.monotonic() + sweep

    def changed(self) -> list[ScriptSeen]:
        """Scripts that appeared or were saved since the last call (at first: since this was opened)."""
        seen: dict[str, ScriptSeen] = {}
        for name in self._watch.names():
            found = _script(self._folder / name)
            if found is not None and self._known.get(name) != found[1]:
                seen[name], self._known[name] = found
        now = time.monotonic()
        if now >= self._next_look:
            for script, state in self._swept():
                seen[script.name], self._known[script.name] = script, state
            # A look at a huge folder must not become all that is done.
            self._next_look = now + max(self._sweep, 20 * (time.monotonic() - now))
        return list(seen.values())

    def scripts(self) -> list[ScriptSeen]:
        """All scripts that are there now, by name."""
        return sorted((seen for seen, _ in self._look()), key=lambda one: one.name)

    def close(self) -> None:
        """Stops watching."""
        self._watch.stop()

    def _swept(self) -> list[tuple[ScriptSeen, _State]]:
        """What a look at the whole folder finds new. A script that may still be written is left to a later look."""
        self._watch.ensure()
        there = self._look()
        names = {seen.name for seen, _ in there}
        self._known = {name: state for name, state in self._known.items() if name in names}
        new = []
        unsure = {}
        for seen, state in there:
            if self._known.get(seen.name) == state:
                continue
            if self._unsure.get(seen.name) == state or nobody_writes(seen.path):
                new.append((seen, state))
            else:
                unsure[seen.name] = state
        self._unsure = unsure
        return new

    def _look(self) -> list[tuple[ScriptSeen, _State]]:
        try:
            names = [entry.name for entry in os.scandir(self._folder) if _is_script(entry.name)]
        except OSError as error:
            if not self._unreadable:
                logger.warning(
                    "the queue folder %s cannot be read: %s; it is looked at again", self._folder, error.strerror
                )
            self._unreadable = True
            return []
        self._unreadable = False
        return [found for name in names if (found := _script(self._folder / name)) is not None]


def _is_script(name: str) -> bool:
    return name.endswith(".py") and not name.startswith(".")


def _script(path: Path) -> tuple[ScriptSeen, _State] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    state = (status.st_size, status.st_mtime_ns, status.st_ino)
    return ScriptSeen(path, path.name, status.st_mtime_ns, status.st_ino), state
