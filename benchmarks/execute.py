"""Workflows a second, and latency from filed to success, beside a bare fork of a warm parent in the same run.

    python benchmarks/execute.py [--count N] [--slots N]

A workflow of one node, from its row to its packed output: claim, folders, script, fork, report, pack, last update,
with SQLite as it is configured (synchronous=FULL). Floor: a process with the same modules imported forks a child that
runs a dask graph of one trivial function and ends; as many at once as there are slots.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peachctl import app
from peachctl.config import load
from peachctl.ingest import entry_of, file_entries
from peachctl.store import Store
from peachctl.wire import encode_service_config, encode_workflow
from peachctl.workflow import Node, Service, ServiceParameter, ServiceRef, Workflow

WORKFLOW = Workflow("one", "bench", (Node("n", ServiceRef("Same", 1), (), ()),))


def make_hub(folder: Path, inputs: int = 0, parameters: int = 0) -> Path:
    """A hub with one service that declares so many input ports and parameters."""
    service = folder / "Same" / "v1"
    service.mkdir(parents=True)
    for name in (service.parent / "__init__.py", service / "__init__.py"):
        name.touch()
    (service / "Same.py").write_text("def start(c):\n    return [1]\n")
    params = tuple(ServiceParameter(str(number), str(number), 0) for number in range(parameters))
    config = Service("Same", "Same", 1, "", ("in",) * inputs, ("one",), params)
    (service / "service.config").write_bytes(encode_service_config(config))
    return folder


def bare_forks(count: int, slots: int) -> list[float]:
    """Seconds from fork to end of each of `count` children, `slots` at once."""
    from dask.local import get_sync

    began: dict[int, float] = {}
    took: list[float] = []
    while len(took) < count:
        while len(began) < slots and len(took) + len(began) < count:
            at = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                get_sync({"a": (len, "x")}, "a")
                os._exit(0)
            began[pid] = at
        pid, _ = os.waitpid(-1, 0)
        if pid in began:
            took.append(time.perf_counter() - began.pop(pid))
    return took


def through_the_executor(folder: Path, count: int, slots: int, scheduler: str) -> tuple[float, list[float]]:
    """Workflows a second of `count` waiting rows, and seconds from filed to success of single ones."""
    hub = make_hub(folder / "hub")
    config = load(
        environ={
            "HOME": str(folder),
            "PEACHCTL_FOLDERS__DATA": str(folder / "data"),
            "PEACHCTL_FOLDERS__HUB": str(hub),
            "PEACHCTL_EXECUTE__SLOTS": str(slots),
            "PEACHCTL_EXECUTE__SCHEDULER": scheduler,
            "PEACHCTL_LIMITS__FREE_SPACE": "0",
        }
    )
    app.make_folders(config)
    store: Store = app.open_store(config)
    body = encode_workflow(WORKFLOW)
    ended: list[str] = []

    def file(number: int) -> None:
        file_entries(store, [entry_of(WORKFLOW, body, "") for _ in range(number)], config.folders.queue)

    with app.execute_loop(
        config,
        store,
        app.options(config),
        observer=lambda _claim, event: ended.append(event["status"]) if event.get("event") == "ended" else None,
    ) as (loop, _):

        def until(number: int) -> None:
            while len(ended) < number:
                loop.step(1.0)

        file(1)
        until(1)  # the warm parent is up
        file(count)
        began = time.perf_counter()
        loop.poke()
        until(1 + count)
        rate = count / (time.perf_counter() - began)
        latencies = []
        for number in range(min(count, 50)):
            at = time.perf_counter()
            file(1)
            loop.poke()
            until(2 + count + number)
            latencies.append(time.perf_counter() - at)
    store.close()
    assert set(ended) == {"success"}, ended
    return rate, latencies


def in_a_child(measure: Callable[[], list[float]]) -> list[float]:
    """Measures in a forked process that has the runtime imported and nothing else open, as a warm parent has."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        import peachctl.runtime.graph  # noqa: F401

        with os.fdopen(write, "w") as out:
            out.write("\n".join(map(str, measure())))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as lines:
        values = [float(line) for line in lines]
    os.waitpid(pid, 0)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()

    def timed() -> list[float]:
        at = time.perf_counter()
        bare_forks(given.count, given.slots)
        return [time.perf_counter() - at, *bare_forks(50, 1)]

    total, *single = in_a_child(timed)
    floor_rate, floor_latency = given.count / total, statistics.median(single)
    print(f"{'':28}{'workflows/s':>12}{'of floor':>10}{'median latency':>16}{'x floor':>9}")
    print(f"{'bare fork of a warm parent':28}{floor_rate:12.0f}{1:10.2f}{floor_latency * 1e3:13.1f} ms{1:9.1f}")
    for scheduler in ("sync", "threads", "processes"):
        with tempfile.TemporaryDirectory() as name:
            rate, latencies = through_the_executor(Path(name), given.count, given.slots, scheduler)
        latency = statistics.median(latencies)
        print(
            f"{'executor, ' + scheduler:28}{rate:12.0f}{rate / floor_rate:10.2f}"
            f"{latency * 1e3:13.1f} ms{latency / floor_latency:9.1f}"
        )


if __name__ == "__main__":
    main()
