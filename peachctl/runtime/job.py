"""What the executor tells the workflow's process: one JSON text in the environment variable `PEACHCTL_JOB`."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peachctl.config_model import Storage


@dataclass(frozen=True, slots=True)
class Reach:
    """What `from_uri` may reach (configuration section `storage`). size in bytes, seconds per file."""

    schemes: tuple[str, ...] = ("file", "https")
    folders: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    xnat_servers: tuple[str, ...] = ()
    size: int = 64 << 30
    seconds: float = 6 * 3600


def reach_of(storage: "Storage") -> Reach:
    """What the configuration says of `from_uri`."""
    return Reach(
        schemes=tuple(storage.schemes),
        folders=tuple(str(folder) for folder in storage.folders),
        hosts=tuple(storage.hosts),
        xnat_servers=tuple(storage.xnat_servers),
        size=storage.file_bytes,
        seconds=storage.file_time,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one workflow. All paths are absolute.

    folder: `.../workflow_<id>`, the workflow's folder of this attempt (its parent is what services see as
    `temp_locations["workflow_temp"]`). published: where that folder is when the attempt has ended, None where it stays.
    results: folder of kept node results, or None to keep none; reuse: whether
    those that are there may be used. workers: most nodes at once. report_fd: number of the inherited SOCK_SEQPACKET
    descriptor for reports, None to report to the terminal. debug: post-mortem debugger at a failing node. parent:
    number of the process that a fresh interpreter must not outlive, None where a supervisor sees to that. plain:
    whether the script does nothing but run its graph, as ours do, so that a node's process need not be forked from it.
    """

    queue_id: int
    attempt: int
    script: str
    hub: str
    scheduler: str
    workers: int
    folder: str
    download_workflows: str
    download_files: str
    published: str | None = None
    results: str | None = None
    reuse: bool = False
    report_fd: int | None = None
    debug: bool = False
    parent: int | None = None
    plain: bool = False
    reach: Reach = field(default_factory=Reach)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        values = json.loads(text)
        reach: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.pop("reach").items()
        }
        return cls(**values, reach=Reach(**reach))


def job_of_environment() -> Job | None:
    """The job that this process was started for, None when a script is run by hand."""
    text = os.environ.get("PEACHCTL_JOB")
    return Job.from_json(text) if text else None
