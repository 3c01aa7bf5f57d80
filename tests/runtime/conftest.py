"""A small hub, made by each test, and real processes that run scripts on it."""

import json
import os
import socket
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from peachctl.runtime.entry import run_script
from peachctl.runtime.job import Job, Reach

SCHEDULERS = ("processes", "threads", "sync")


@dataclass
class Ran:
    """What came of a run: exit status (minus the signal), the events it reported, and what it printed."""

    status: int
    events: list[dict[str, Any]]
    output: str
    folder: Path

    @property
    def last(self) -> dict[str, dict[str, Any]]:
        return {event["id"]: event for event in self.events if event["event"] == "node"}

    @property
    def states(self) -> dict[str, str]:
        return {id: event["status"] for id, event in self.last.items()}

    def message(self, id: str) -> str:
        return str(self.last[id]["error"]["message"])

    def outputs(self, id: str) -> Any:
        return self.last[id]["outputs"]

    def started(self, id: str) -> int:
        return sum(
            event["event"] == "node" and event["id"] == id and event["status"] == "running" for event in self.events
        )


@dataclass
class Bench:
    """A place with a hub, in which scripts are run."""

    place: Path
    job: Job
    count: int = field(default=0)

    def service(self, name: str, code: str, version: int | str = 1, under: str = "") -> Path:
        """Writes `<hub>/<name>/v<version>/<name>.py`."""
        number = version if isinstance(version, str) else f"v{version}"
        folder = Path(self.job.hub, under, name, number)
        folder.mkdir(parents=True)
        for init in (folder.parent / "__init__.py", folder / "__init__.py"):
            init.touch()
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
        return folder

    def script(self, nodes: dict[str, str]) -> Path:
        """Writes a script; `nodes` maps ids to what stands behind the `=`."""
        self.count += 1
        path = self.place / f"script_{self.count}.py"
        lines = ["from peachctl.runtime import literal, node, output, run", "graph = {}"]
        lines += [f"graph[{id!r}] = {call}" for id, call in nodes.items()]
        path.write_text("\n".join([*lines, 'if __name__ == "__main__":', "    run(graph)", ""]))
        return path

    def run(
        self,
        nodes: dict[str, str] | Path,
        on_event: Callable[[dict[str, Any], int], None] | None = None,
        **changes: Any,
    ) -> Ran:
        """Runs a script in a process forked from this one, as the warm parent does."""
        script = nodes if isinstance(nodes, Path) else self.script(nodes)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        job = replace(self.job, **{"script": str(script), "report_fd": theirs.fileno(), **changes})
        output = self.place / "output.log"
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                ours.close()
                os.setsid()
                handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                import sys

                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                os.environ["PEACHCTL_JOB"] = job.to_json()
                status = run_script(str(script))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        theirs.close()
        events = []
        with ours:
            while raw := ours.recv(1 << 17):
                assert len(raw) <= 64 << 10
                try:
                    events.append(json.loads(raw))
                except ValueError:
                    continue  # a service's own; the executor passes it over too
                if on_event is not None:
                    on_event(events[-1], pid)
        _, status = os.waitpid(pid, 0)
        return Ran(os.waitstatus_to_exitcode(status), events, output.read_text(), Path(job.folder))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    hub = tmp_path / "hub"
    hub.mkdir()
    job = Job(
        queue_id=7,
        attempt=1,
        script="",
        hub=str(hub),
        scheduler="processes",
        workers=3,
        folder=str(tmp_path / ".workflow_7" / "1" / "workflow_7"),
        download_workflows=str(tmp_path / "workflows"),
        download_files=str(tmp_path / "files"),
        reach=Reach(folders=(str(tmp_path / "data"),)),
    )
    (tmp_path / ".workflow_7" / "1").mkdir(parents=True)
    yield Bench(tmp_path, job)


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> str:
    return str(request.param)
