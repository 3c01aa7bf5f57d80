"""The job of a script that a person started: from the configuration, without a row and without a database."""

import fcntl
import os
import shutil
import sys
from pathlib import Path

from peachctl.names import file_name
from peachctl.runtime.job import Job, reach_of

_locks: list[int] = []


def job_by_hand() -> Job:
    """The job of the script of this process, with queue id 0, below `<workflow_temp>/by_hand/<script>/`.

    What an earlier run left there is replaced; while one of the same script runs, another gets a folder of its own.
    `PEACHCTL_PDB=1` asks for the debugger. Raises ConfigError for a configuration that can't be used.
    """
    from peachctl import config

    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "script").absolute()
    settings = config.load()
    folder = _claim(settings.folders.workflow_temp / "by_hand", file_name(script.stem, 100))
    return Job(
        queue_id=0,
        attempt=1,
        script=str(script),
        hub=str(settings.folders.hub),
        scheduler=settings.execute.scheduler,
        workers=len(os.sched_getaffinity(0)),
        folder=str(folder),
        download_workflows=str(settings.folders.download_workflows),
        download_files=str(settings.folders.download_files),
        debug=os.environ.get("PEACHCTL_PDB") == "1",
        reach=reach_of(settings.storage),
    )


def _claim(parent: Path, name: str) -> Path:
    """An empty folder `workflow_0`, this process's alone as long as it lives."""
    for own in (name, f"{name}-{os.getpid()}"):
        place = parent / own
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _locks.append(lock)
        break
    folder = place / "workflow_0"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o750)
    return folder
