"""What tests start as processes of their own: `python -m tests.store.worker ADAPTER PLACE TASK NAME`.

claim: claims until nothing is left, prints each id. write: files and runs without end, until it is killed; prints a
line per acknowledged filing. open: opens and files one workflow.
"""

import itertools
import sys

from peachctl.store import Entry, Executor, NodeState, NodeStatus, Origin, Status, Store
from tests.store.adapters import open_place


def _entry(name: str, number: int) -> Entry:
    json = '{"name": "x", "nodes": []}'
    return Entry(name, "x", json, f"{name}-{number}.py", f"{number:064x}", Origin(name, 0, number))


def claim(store: Store, executor: Executor) -> None:
    empty = 0
    while empty < 3:
        claims = store.claim(executor, 3, 60)
        empty = 0 if claims else empty + 1
        for one in claims:
            print(one.id, one.attempt, flush=True)


def write(store: Store, executor: Executor) -> None:
    for number in itertools.count(0, 5):
        entries = [_entry(executor.token, number + extra) for extra in range(5)]
        filed = store.file(entries)
        print(*(one.id for one in filed), flush=True)
        for one in store.claim(executor, 2, 60):
            nodes = [NodeState(f"n{index}", "S", 1, NodeStatus.SUCCESS) for index in range(20)]
            store.report(one, 50, nodes)
            store.finish(one, Status.SUCCESS, reason=None, output_file=f"{one.id}.tar", nodes=nodes)


def open_(store: Store, executor: Executor) -> None:
    store.file([_entry(executor.token, 0)])


if __name__ == "__main__":
    adapter, place, task, name = sys.argv[1:]
    opened = open_place(adapter, place)
    me = Executor(name, "here", "{}")
    if task != "open":
        opened.join(me)
    {"claim": claim, "write": write, "open": open_}[task](opened, me)
    opened.close()
