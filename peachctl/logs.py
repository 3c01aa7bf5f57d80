"""What a workflow has printed and logged, read from its folders while it runs and after its end."""

import os
from pathlib import Path
from typing import BinaryIO

from peachctl.names import file_name

MOST = 8 << 20
"""Bytes of one file that are read, its end. What a service prints in days does not fit into a terminal."""


_LINE = 1 << 20
"""Bytes of a line without an end that are waited for."""


class Log:
    """What the process of a workflow printed, the lines of `ServiceUtility.info` and its kin among it (where nothing
    was printed, the log that says why it did not run); or, with `node`, the lines that this node logged.

    Of the newest attempt that has any. Read piece by piece, so that following a long one costs what is new.
    """

    def __init__(self, workflow_temp: Path, id: int, node: str | None = None) -> None:
        self._workflow_temp = workflow_temp
        self._id = id
        self._node = node
        self._file: tuple[int, int] | None = None
        self._at = 0
        self._rest = b""

    def more(self, *, last: bool = False) -> str:
        """Whole lines that came since the last call, '' when there are none. last: also one that has no end."""
        data = b""
        for path in self._candidates():
            try:
                with path.open("rb") as stream:
                    status = os.fstat(stream.fileno())
                    if not status.st_size:
                        continue
                    data = self._read(stream, (status.st_dev, status.st_ino), status.st_size)
            except OSError:
                continue
            break
        self._rest += data
        end = len(self._rest)
        if not last and end < _LINE:
            end = self._rest.rfind(b"\n") + 1
        text, self._rest = self._rest[:end], self._rest[end:]
        return text.decode(errors="replace")

    def _candidates(self) -> list[Path]:
        attempts, name = _attempts(self._workflow_temp, self._id), f"workflow_{self._id}"
        folders = [*(attempt / name for attempt in attempts), self._workflow_temp / name]
        if self._node is not None:
            return [folder / file_name(f"{self._node}.log") for folder in folders]
        return [attempt / "output.log" for attempt in attempts] + [folder / "peachctl.log" for folder in folders]

    def _read(self, stream: BinaryIO, file: tuple[int, int], size: int) -> bytes:
        begun = b""
        if file != self._file or size < self._at:  # the first, another attempt's, or cut off
            if self._rest:
                begun = b"\n"
            self._file, self._at = file, max(0, size - MOST)
        stream.seek(self._at)
        data = stream.read(MOST)
        self._at += len(data)
        return begun + data


def of_workflow(workflow_temp: Path, id: int) -> str:
    """All that a workflow has printed so far, see `Log`. '' where there is nothing."""
    return Log(workflow_temp, id).more(last=True)


def _attempts(workflow_temp: Path, id: int) -> list[Path]:
    home = workflow_temp / f".workflow_{id}"
    found = [path for path in home.glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)
