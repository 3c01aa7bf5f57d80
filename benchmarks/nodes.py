"""Cost per node at 100, 1,000 and 10,000 nodes, for each scheduler, beside its floors in the same run.

    python benchmarks/nodes.py [--most N] [--workers N]

Layers of ten nodes, each reading two of the layer above; the service returns its input. Results are kept and every
state is reported, as under an executor. Floors: dask's `get` of trivial functions over the same graph, and a bare
fork with one round trip of 100 bytes over a pipe per node.
"""

import argparse
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peachctl.runtime.entry import run_script
from peachctl.runtime.job import Job

WIDTH = 10
SERVICE = "def start(c, a=None, b=None):\n    return [a]\n"


def upper(index: int) -> list[int]:
    """The nodes that node `index` reads."""
    if index < WIDTH:
        return []
    above = index - index % WIDTH - WIDTH
    return sorted({above + index % WIDTH, above + (index + 1) % WIDTH})


def make(folder: Path, count: int) -> Path:
    """A hub with one service, and a script of `count` nodes."""
    service = folder / "hub" / "Same" / "v1"
    service.mkdir(parents=True, exist_ok=True)
    for name in (service.parent / "__init__.py", service / "__init__.py"):
        name.touch()
    (service / "Same.py").write_text(SERVICE)
    lines = ["from peachctl.runtime import literal, node, output, run", "graph = {}"]
    for index in range(count):
        inputs = [f"output('n{one}', 0)" for one in upper(index)] or ["literal('x')"]
        lines.append(f"graph['n{index}'] = node('Same', 1, [{', '.join(inputs)}], [])")
    script = folder / f"nodes_{count}.py"
    script.write_text("\n".join([*lines, "run(graph)", ""]))
    return script


def run(script: Path, scheduler: str, workers: int) -> float:
    """Seconds for one run of the script in a forked process, with its reports read."""
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        job = Job(
            queue_id=1,
            attempt=1,
            script=str(script),
            hub=str(script.parent / "hub"),
            scheduler=scheduler,
            workers=workers,
            folder=f"{name}/1/workflow_1",
            download_workflows=name,
            download_files=name,
            results=f"{name}/results",
            report_fd=theirs.fileno(),
        )
        begin = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.environ["PEACHCTL_JOB"] = job.to_json()
            os._exit(run_script(str(script)))
        theirs.close()
        reader = threading.Thread(target=drain, args=(ours,))
        reader.start()
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - begin
        reader.join()
        if status:
            raise SystemExit(f"the run ended with {status}")
        return seconds


def drain(connection: socket.socket) -> None:
    with connection:
        while connection.recv(1 << 16):
            pass


def bare_dask(count: int) -> float:
    from dask._task_spec import Task, TaskRef
    from dask.local import get_sync

    graph = {index: Task(index, max, 0, 0, *map(TaskRef, upper(index))) for index in range(count)}
    begin = time.perf_counter()
    get_sync(graph, list(range(count - WIDTH, count)))
    return time.perf_counter() - begin


def bare_pipe(count: int) -> float:
    begin = time.perf_counter()
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while data := theirs.recv(100):
            theirs.sendall(data)
        os._exit(0)
    theirs.close()
    for _ in range(count):
        ours.sendall(b"x" * 100)
        ours.recv(100)
    ours.close()
    os.wait()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    import dask.threaded  # noqa: F401 - a warm parent has it

    import peachctl.runtime.graph  # noqa: F401

    print(f"{'microseconds per node':<24}" + "".join(f"{count:>10,}" for count in (100, 1000, 10_000)))
    with tempfile.TemporaryDirectory() as name:
        rows = {"bare dask get": bare_dask, "bare fork and pipe": bare_pipe}
        for title, measure in rows.items():
            show(title, [(count, median(partial(measure, count))) for count in counts(given.most)])
        for scheduler in ("sync", "threads", "processes"):
            figures = []
            for count in counts(given.most):
                script = make(Path(name), count)
                figures.append((count, median(partial(run, script, scheduler, given.workers))))
            show(scheduler, figures)


def counts(most: int) -> list[int]:
    return [count for count in (100, 1000, 10_000) if count <= most]


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(3))


def show(title: str, figures: list[tuple[int, float]]) -> None:
    print(f"{title:<24}" + "".join(f"{1e6 * seconds / count:>10.0f}" for count, seconds in figures), flush=True)


if __name__ == "__main__":
    main()
