"""The module that services import as `ServiceUtility`.

`c` is `[queue id, node id]`; a service may have made up the node id. All that these calls write lies in the folder of
the workflow that this process runs, whatever `c` says. Source: contract, "The service hub".
"""

import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Never

from peachctl.errors import PeachError
from peachctl.masking import mask
from peachctl.names import file_name
from peachctl.runtime.job import Job
from peachctl.runtime.report import Reporter

__all__ = [
    "create_temp_folder",
    "error",
    "from_uri",
    "grabIndex",
    "info",
    "make_available",
    "temp_locations",
    "update_end_time",
    "update_myqsl_tar",
    "update_progress",
    "update_status",
    "upload_output",
    "warning",
]


class NotAvailable(PeachError):
    """What a service asked for can't be done with what it gave."""


class _Locations(dict[str, str]):
    """The three storage folders; services of 2017 also spell one of the names without its `s`."""

    def __missing__(self, key: str) -> str:
        if key == "download_workflow_temp":
            return self["download_workflows_temp"]
        raise KeyError(key)


temp_locations: dict[str, str] = _Locations()

_job: Job | None = None
_reporter: Reporter | None = None
_running = threading.local()


def attach(job: Job, reporter: Reporter) -> None:
    """Makes this the `ServiceUtility` of the process, for the workflow of `job`; before any service is imported."""
    global _job, _reporter
    _job, _reporter = job, reporter
    temp_locations.clear()
    temp_locations["workflow_temp"] = str(Path(job.folder).parent)
    temp_locations["download_workflows_temp"] = job.download_workflows
    temp_locations["download_files_temp"] = job.download_files
    module = sys.modules[__name__]
    # `import ServiceUtility`, `from ServiceUtility import ServiceUtility`, `import ServiceUtility.ServiceUtility`
    sys.modules["ServiceUtility"] = sys.modules["ServiceUtility.ServiceUtility"] = module
    module.__dict__["ServiceUtility"] = module


def now_running(node: str) -> None:
    """Says which node runs in this thread, for the calls that get no `c`."""
    _running.node = node


def __getattr__(name: str) -> Never:
    if name == "mysql_info":
        from peachctl.runtime.gone import refuse

        refuse(name)
    raise AttributeError(f"ServiceUtility has no {name!r}")


def make_available(c: Sequence[Any], all_files: Iterable[Sequence[Any]]) -> list[str]:
    """Copies files into the workflow's folder, as `<node id>_<filename>`, readable by the group.

    all_files: pairs of path and file name. Returns the absolute paths of the copies. A copy is complete or not there;
    giving a name again replaces it. Raises NotAvailable for what is no such list, and for a path that is no file.
    """
    _, node = _ids(c)
    if isinstance(all_files, str | bytes):
        raise NotAvailable("make_available takes a list of [path, filename], not one text")
    copies = []
    for item in all_files:
        if isinstance(item, str | bytes) or not isinstance(item, Sequence) or len(item) != 2:
            raise NotAvailable(f"make_available takes a list of [path, filename]; this is none: {item!r:.200}")
        path, name = item
        copies.append(_copy(os.fspath(path), _inside(f"{node}_{name}")))
    return copies


def _copy(source: str, destination: str) -> str:
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as problem:
        raise NotAvailable(f"make_available can't read {mask(repr(source))}: {_reason(problem)}") from problem
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise NotAvailable(f"make_available copies files, and {mask(repr(source))} is {kind}")
        with open(handle, "rb", closefd=False) as stream:
            _write(stream, destination)
    finally:
        os.close(handle)
    return destination


def _write(stream: BinaryIO, destination: str) -> None:
    # the temporary file lies beside the workflow's folder: a killed copy is not packed
    handle, temporary = tempfile.mkstemp(prefix=".copy_", dir=Path(_current().folder).parent)
    try:
        with os.fdopen(handle, "wb") as copy:
            os.fchmod(copy.fileno(), 0o640)
            shutil.copyfileobj(stream, copy, 1 << 20)
        Path(temporary).replace(destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def info(c: Sequence[Any], msg: object) -> None:
    """Logs a message: appends `[<node id>](info): "<msg>"` to `<node id>.log`, and prints it.

    One line per message: line breaks in it are written as `\\n`. Passwords are masked. Files of the workflow's folder
    are named where whoever reads the log will find them, which is not where they are while the workflow runs.
    """
    _log(c, "info", msg)


def warning(c: Sequence[Any], msg: object) -> None:
    """As `info`, with `warning`."""
    _log(c, "warning", msg)


def error(c: Sequence[Any], msg: object) -> None:
    """As `info`, with `error`."""
    _log(c, "error", msg)


def _log(c: Sequence[Any], level: str, msg: object) -> None:
    _, node = _ids(c)
    message = mask(str(msg))
    job = _current()
    if job.published is not None:
        message = message.replace(f"{job.folder}/", f"{job.published}/")
    line = f'[{_one_line(node)}]({level}): "{_one_line(message)}"\n'
    raw = line.encode(errors="backslashreplace")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(_inside(f"{node}.log"), flags, 0o640)
    try:
        os.write(handle, raw)
    finally:
        os.close(handle)
    print(raw.decode(), end="", flush=True)  # noqa: T201 - the contract: it is printed as well
    if _reporter is not None:
        _reporter.log(node, level, message)


_BREAKS = {ord("\n"): "\\n", ord("\r"): "\\r", 0x0B: "\\x0b", 0x0C: "\\x0c", 0x85: "\\x85", 0x2028: "\\u2028"} | {
    0x2029: "\\u2029",
    0: "\\x00",
    0x1B: "\\x1b",
}


def _one_line(text: str) -> str:
    return text.translate(_BREAKS)


def from_uri(uri: str) -> tuple[str, str]:
    """Fetches a file: an fsspec URL, an absolute path, or the JSON text of an XNAT server of 2017.

    Returns (local path, file name); the name is what follows the first `_` of the local one. Raises an error that
    names the configuration key where something is not allowed, too large or too slow.
    """
    from peachctl.runtime.fetch import fetch

    job = _current()
    return fetch(uri, job.reach, Path(job.folder).parent)


def update_progress(primary_key: object, progress: float | str) -> None:
    """Shows how far the workflow is, 0 to 100. Only its own: for another queue id it does nothing but say so."""
    if not _own(primary_key, "update_progress"):
        return
    try:
        percent = int(float(progress))
    except (TypeError, ValueError, OverflowError):
        _note("warning", f"update_progress: {progress!r:.80} is no number of percent")
        return
    if _reporter is not None:
        _reporter.progress(max(0, min(100, percent)))


def update_status(primary_key: object, status: object) -> None:
    """Notes in the log that the service wants this status; the executor alone decides it."""
    if _own(primary_key, "update_status"):
        _note("info", f"update_status: {status!s:.80}")


def create_temp_folder(primary_key: object) -> None:
    """Makes sure of the workflow's folder, which is there already."""
    if _own(primary_key, "create_temp_folder"):
        Path(_current().folder).mkdir(parents=True, exist_ok=True)


def update_end_time(primary_key: object) -> None:
    """Nothing: the executor writes the end."""
    del primary_key


def upload_output(primary_key: object) -> None:
    """Nothing: the executor packs the output."""
    del primary_key


def update_myqsl_tar(new_filename: object, primary_key: object) -> None:
    """Nothing: the executor names the packed output."""
    del new_filename, primary_key


def grabIndex(many: Any, idx: int | str) -> Any:
    """Item `idx` of a list; of anything else itself for index 0, and None for the others."""
    index = int(idx)
    if isinstance(many, list):
        return many[index]
    return many if index == 0 else None


def _current() -> Job:
    if _job is None:
        raise NotAvailable("ServiceUtility works in the process of a workflow only")
    return _job


def _ids(c: Sequence[Any]) -> tuple[Any, str]:
    if isinstance(c, str | bytes) or not isinstance(c, Sequence) or len(c) < 2:
        raise NotAvailable(f"the first argument is the service's `c`, a list [queue id, node id], not {c!r:.80}")
    return c[0], str(c[1])


def _inside(name: str) -> str:
    return f"{_current().folder}/{file_name(name)}"


def _own(primary_key: object, call: str) -> bool:
    job = _current()
    if str(primary_key) == str(job.queue_id):
        return True
    _note("warning", f"{call} is for the service's own workflow, {job.queue_id}, not for {primary_key!s:.80}")
    return False


def _note(level: str, message: str) -> None:
    _log([_current().queue_id, getattr(_running, "node", "workflow")], level, message)


def _reason(problem: Exception) -> str:
    return problem.strerror or str(problem) if isinstance(problem, OSError) else str(problem)
