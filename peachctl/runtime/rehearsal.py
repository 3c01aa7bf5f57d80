"""A process that waits for its order goes once through what a run goes through, without a file, a service or a report.

A forked process copies each page that it shares when it touches it first: some 900 in a run of one node, half of the
time of such a run. Here that happens while nobody waits for it. Nothing depends on it, and nothing of it stays: what
goes wrong is passed over.
"""

import contextlib
import importlib.util
import json
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peachctl.runtime import graph, results, services
from peachctl.runtime.job import Job
from peachctl.runtime.pool import Pool
from peachctl.runtime.report import ExecutorReporter, shown
from peachctl.runtime.worker import Reply
from peachctl.wire import decode_service_config, encode_service_config
from peachctl.workflow import Service, ServiceParameter

_NOWHERE = "/dev/null"  # there is nothing below it, and nobody can put anything there
_SCRIPT = """\
from peachctl.runtime import literal, node, output, run
graph = {}
graph['a'] = node('A', 1, [literal('/dev/null/x')], ['1', None])
graph['b'] = node('A', 1, [output('a', 0), None], ['1', None])
"""
_SERVICE = """\
import os
def start(c, given, one):
    return [given, 1.0]
"""


def rehearse_run() -> None:
    """For the process that is to run a script."""
    _quietly(_run)


def rehearse_node() -> None:
    """For the process that is to run nodes."""
    _quietly(_node)


def _quietly(work: Callable[[ExecutorReporter], None]) -> None:
    """With a reporter that nobody hears."""
    listener, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reporter = ExecutorReporter(reports.detach())
    with listener, contextlib.closing(reporter), contextlib.suppress(Exception):
        work(reporter)


def _run(reporter: ExecutorReporter) -> None:
    from dask._task_spec import Task
    from dask.local import get_async

    space: dict[str, Any] = {}
    exec(compile(_SCRIPT, "rehearsal", "exec"), space)  # noqa: S102 - our own
    steps = graph.plan(space["graph"])
    run = graph._Run(steps, _job(), reporter)
    _locate(run)
    reporter.graph((step.id, step.call.service, step.call.version) for step in steps)
    step = steps[0]
    step.key = results.result_key((1, step.id, "A", 1, "", step.call.parameters, [results.literal_state(_NOWHERE)]))
    results.code_hash(Path(_NOWHERE))
    pool = Pool(
        run._in_worker,
        count=1,
        prepare=lambda *_: ("settled", graph.Outcome()),  # so that none is forked
        settle=run._settle_reply,
        affinity=str,
        name=str,
    )
    with contextlib.closing(pool):
        get_async(pool.submit, 1, {0: Task(0, run._here, 0)}, [0], chunksize=1)  # type: ignore[no-untyped-call]
    run._settle_reply(pickle.loads(pickle.dumps(Reply(0, None, {}, [_NOWHERE, 1.0]), 5)))  # noqa: S301 - our own
    reporter.end(0)


def _node(reporter: ExecutorReporter) -> None:
    run = graph._Run((), _job(), reporter)
    located = services.Located("A", 1, Path(_NOWHERE), _locate(run))
    reporter.node("a", "running")
    space: dict[str, Any] = {}
    exec(compile(_SERVICE, "rehearsal", "exec"), space)  # noqa: S102 - our own
    spec = importlib.util.spec_from_file_location("A.v1.A", f"{_NOWHERE}/A.py")
    with contextlib.suppress(OSError):
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    returned = services.by_port(located, space["start"]([0, "a"], *services.arguments(located, ["x"], ["1"])), (0,))
    raw = run._values.dumps(returned[0], set())
    run._values.loads(raw)
    pickle.loads(pickle.dumps(Reply(0, None, {0: raw}, shown(returned)), 5))  # noqa: S301 - our own


def _job() -> Job:
    told = Job(0, 1, f"{_NOWHERE}/script.py", _NOWHERE, "processes", 2, f"{_NOWHERE}/w", _NOWHERE, _NOWHERE, plain=True)
    return Job.from_json(json.dumps({**json.loads(told.to_json()), "report_fd": -1}))


def _locate(run: graph._Run) -> Service:
    """As if a service were looked up."""
    with contextlib.suppress(Exception):
        run._hub.locate("A", 1)
    service = Service("A", "A", 1, "", ("in",), ("out",), (ServiceParameter("P", "P", 0),))
    return decode_service_config(encode_service_config(service))
