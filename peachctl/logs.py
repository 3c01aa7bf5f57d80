"""What a workflow has printed and logged, read from its folders while it runs and after its end."""

from pathlib import Path

from peachctl.names import file_name

MOST = 8 << 20
"""Bytes of one file that are read, its end. What a service prints in days does not fit into a terminal."""


def of_workflow(workflow_temp: Path, id: int) -> str:
    """All that its process printed, the lines of `ServiceUtility.info` and its kin among it; where nothing was
    printed, the log that says why it did not run. '' where there is nothing."""
    attempts = _attempts(workflow_temp, id)
    for attempt in attempts:
        text = _read(attempt / "output.log")
        if text:
            return text
    return _first(_folders(workflow_temp, id), "peachctl.log")


def of_node(workflow_temp: Path, id: int, node: str) -> str:
    """The lines that a node logged. '' where there are none."""
    return _first(_folders(workflow_temp, id), file_name(f"{node}.log"))


def _attempts(workflow_temp: Path, id: int) -> list[Path]:
    home = workflow_temp / f".workflow_{id}"
    found = [path for path in home.glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _folders(workflow_temp: Path, id: int) -> list[Path]:
    name = f"workflow_{id}"
    return [*(attempt / name for attempt in _attempts(workflow_temp, id)), workflow_temp / name]


def _first(folders: list[Path], name: str) -> str:
    return next((text for folder in folders if (text := _read(folder / name))), "")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - MOST))
            return stream.read(MOST).decode(errors="replace")
    except OSError:
        return ""
