"""How long a workflow's process takes to start, and what the supervisor weighs: `python benchmarks/start.py --help`.

From the order to the first report of a script that does nothing else, and to its end. Floors, in the same run and
from a process with the same imports: a bare fork that writes a byte to a pipe, and for `fresh` a bare interpreter
that imports dask. Medians in milliseconds, memory in MiB (PSS: what is shared counts in parts).
"""

import argparse
import importlib
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peachctl.runner import alive
from peachctl.runner.supervised import Supervised, open_runner
from peachctl.runtime.job import Job

SCRIPT = """
import json, os, socket
socket.socket(fileno=json.loads(os.environ["PEACHCTL_JOB"])["report_fd"]).send(b'{"event": "here"}')
"""

PREPARED = """
import gc, os, statistics, sys, time
from peachctl.runtime.parent import _warm_up
_warm_up()
took = []
for _ in range(int(sys.argv[1])):
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(write, b"x")
        os._exit(0)
    os.read(read, 1)
    first = time.perf_counter() - began
    os.waitpid(child, 0)
    took.append((first, time.perf_counter() - began))
    os.close(read); os.close(write)
print(*(statistics.median(one) for one in zip(*took)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="warm starts of each kind; a quarter of it fresh (40)")
    count = parser.parse_args().count
    importlib.import_module("dask")
    floor = subprocess.run([sys.executable, "-c", PREPARED, str(count)], capture_output=True, text=True, check=True)
    fork = [1000 * float(value) for value in floor.stdout.split()]
    interpreter = 1000 * statistics.median(_interpreter() for _ in range(max(3, count // 8)))
    print(f"{'':28}{'first report':>14}{'end':>10}{'to floor':>10}{'supervisor':>12}")
    print(f"{'floor: fork':28}{fork[0]:11.1f} ms{fork[1]:7.1f} ms")
    for isolation in ("warm", "fresh"):
        if isolation == "fresh":
            print(f"{'floor: python -c import dask':28}{'':14}{interpreter:7.1f} ms")
        for way in ("namespace", "fallback"):
            os.environ["PEACHCTL_NO_NAMESPACE"] = "1" if way == "fallback" else ""
            first, end, memory = measure(isolation, count if isolation == "warm" else max(3, count // 4))
            ratio = first / fork[0] if isolation == "warm" else end / interpreter
            print(f"{isolation + ', ' + way:28}{first:11.1f} ms{end:7.1f} ms{ratio:8.1f} x{memory:8.1f} MiB")


def measure(isolation: str, count: int) -> tuple[float, float, float]:
    """Medians of one way (ms), and the memory of the supervisor's processes (MiB)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "script.py"
        script.write_text(SCRIPT)
        job = Job(1, 1, str(script), "", "sync", 1, name, "", "")
        held = alive.take(folder / "locks")
        runner = open_runner(isolation, held.fd, held.token, 30.0)  # type: ignore[arg-type]
        took = [_one(runner, job, folder / "output.log", f"{number}") for number in range(count + 2)]
        memory = _weight(runner.pid)
        runner.close()
        held.release()
    first, end = (1000 * statistics.median(values) for values in zip(*took[2:], strict=True))
    return first, end, memory


def _one(runner: Supervised, job: Job, output: Path, key: str) -> tuple[float, float]:
    began = time.perf_counter()
    run = runner.start(key, job, output)
    select.select([run], [], [], 20)
    first = time.perf_counter() - began
    while not runner.ended():
        runner.beat()
        select.select([runner], [], [], 20)
    end = time.perf_counter() - began
    run.close()
    return first, end


def _interpreter() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import dask, dask.local, dask.multiprocessing"], check=True)
    return time.perf_counter() - began


def _weight(pid: int) -> float:
    """PSS of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return own / 1024 + sum(_weight(int(child)) for child in children)


if __name__ == "__main__":
    main()
