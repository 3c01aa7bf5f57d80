"""Runs the nodes of a workflow with dask: under three schedulers, failures kept apart, done results taken over.

Nothing is ever raised into dask. What a node is passed, and what it passes on, is an Outcome; a node that failed
passes on its failure, and what depends on it is skipped without running. Keys of the dask graph are numbers, and no
value of a workflow is an argument of a dask task: so no literal can be taken for a key.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peachctl.errors import PeachError
from peachctl.names import printable, quoted
from peachctl.runtime import gone, service_utility, services
from peachctl.runtime.failure import Failure, ServiceError, of_exception, service_traceback, skipped
from peachctl.runtime.job import Job, job_of_environment
from peachctl.runtime.pool import Pool, Work
from peachctl.runtime.records import Call, Graph, Literal, Output
from peachctl.runtime.report import ExecutorReporter, Reporter, TerminalReporter, shown
from peachctl.runtime.results import Kept, Results, Unpicklable, Values, code_hash, literal_state, result_key
from peachctl.runtime.worker import Reply, end_ahead, taken_ahead

SCHEDULERS = ("processes", "threads", "sync")


class GraphError(PeachError):
    """A script whose graph can't be run: hand-edited, for ours are checked before."""


class _NotImported(Exception):
    """Carries what the import of a service raised, as its cause."""


@dataclass(slots=True)
class Step:
    """A node on its way: position in topological order, where each input comes from (a text, a pair of step and
    output port, or None), which ports others read, and the key of its kept result ('' if none is kept)."""

    index: int
    id: str
    call: Call
    inputs: tuple[str | tuple[int, int] | None, ...]
    upstream: tuple[int, ...]
    wanted: tuple[int, ...] = ()
    key: str = ""


@dataclass(slots=True)
class Outcome:
    """What a settled node passes on. cause: the node whose failure it was, '' if it succeeded. ports: its values by
    output port, pickled or as they are."""

    cause: str = ""
    ports: Mapping[int, Any] = field(default_factory=dict)
    pickled: bool = False


def run_graph(graph: Graph) -> int:
    """Runs the graph of this process's script and returns the exit status: 0 all succeeded, 3 some failed or were
    skipped, 1 the graph is wrong, 130 interrupted. Raises nothing of the services'."""
    try:
        steps = plan(graph)
        job = job_of_environment()
        if job is None:
            from peachctl.runtime.by_hand import job_by_hand

            job = job_by_hand()
        if job.scheduler not in SCHEDULERS:
            raise GraphError(f"scheduler {job.scheduler!r} is not one of {', '.join(SCHEDULERS)}")
    except PeachError as error:
        print(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return 1
    reporter: Reporter = TerminalReporter(job.folder) if job.report_fd is None else ExecutorReporter(job.report_fd)
    return _Run(steps, job, reporter).go()


def work_ahead(job: Job) -> Callable[[Work], Reply]:
    """For `worker.fork_ahead`."""
    assert job.report_fd is not None
    return _Run((), job, ExecutorReporter(job.report_fd)).in_worker()


def plan(graph: Graph) -> list[Step]:
    """The nodes in an order in which each comes after what it reads. Raises GraphError for what is no graph."""
    if not isinstance(graph, Mapping) or not all(isinstance(call, Call) for call in graph.values()):
        raise GraphError("the graph is a dictionary of node ids and node(...)")
    above = {id: [item.node for item in call.inputs if isinstance(item, Output)] for id, call in graph.items()}
    for id, call in graph.items():
        _check(id, call, graph)
    missing = {id: len(set(nodes)) for id, nodes in above.items()}
    below: dict[str, list[str]] = {id: [] for id in graph}
    for id, nodes in above.items():
        for upper in set(nodes):
            below[upper].append(id)
    order = [id for id in graph if not missing[id]]
    for id in order:  # grows while it is walked
        for lower in below[id]:
            missing[lower] -= 1
            if not missing[lower]:
                order.append(lower)
    if len(order) < len(graph):
        stuck = [repr(printable(id, 60)) for id in graph if missing[id]]
        raise GraphError(f"nodes that depend on themselves, in a circle: {', '.join(stuck[:10])}")
    number = {id: index for index, id in enumerate(order)}
    wanted: list[set[int]] = [set() for _ in order]
    steps = []
    for id in order:
        call = graph[id]
        inputs = tuple(
            item.text if isinstance(item, Literal) else (number[item.node], item.port) if item is not None else None
            for item in call.inputs
        )
        for item in inputs:
            if isinstance(item, tuple):
                wanted[item[0]].add(item[1])
        upstream = tuple(sorted({number[upper] for upper in above[id]}))
        steps.append(Step(number[id], id, call, inputs, upstream))
    for step in steps:
        step.wanted = tuple(sorted(wanted[step.index]))
    return steps


def _check(id: str, call: Call, graph: Graph) -> None:
    where = f"node {quoted(str(id), 60)}"
    if not isinstance(id, str):
        raise GraphError(f"{where}: ids of nodes are texts")
    for item in call.inputs:
        if isinstance(item, Output):
            if item.node not in graph:
                raise GraphError(f"{where} reads node {quoted(str(item.node), 60)}, which is not there")
            if not isinstance(item.port, int) or item.port < 0:
                raise GraphError(f"{where} reads output port {item.port!r}; ports are numbers from 0")
        elif item is not None and not (isinstance(item, Literal) and isinstance(item.text, str)):
            raise GraphError(f"{where}: an input is literal('text'), output('node', port) or None")
    for value in call.parameters:
        if value is not None and not isinstance(value, str):
            raise GraphError(f"{where}: a parameter is a text or None, not {value!r:.80}")


class _Run:
    """One run of a planned graph in this process."""

    def __init__(self, steps: Sequence[Step], job: Job, reporter: Reporter) -> None:
        self._steps = steps
        self._job = job
        self._reporter = reporter
        self._hub = services.Hub(job.hub)
        root = str(Path(job.folder).parent)
        self._root = root
        self._values = Values(root)
        self._results: Results | None = None
        self._failed = 0
        self._lock = threading.Lock()
        self._interrupted = False
        self._scheduler = "sync" if job.debug else job.scheduler

    def go(self) -> int:
        """Runs all nodes; returns the exit status."""
        os.makedirs(self._job.folder, mode=0o2770, exist_ok=True)  # noqa: PTH103
        self._settle_in()
        for service in {(step.call.service, step.call.version) for step in self._steps}:
            with contextlib.suppress(ServiceError):  # raised again by the nodes that run it
                self._hub.locate(*service)
        self._reporter.graph((step.id, step.call.service, step.call.version) for step in self._steps)
        if self._results is not None:
            self._name_results()
        try:
            if self._steps:
                self._compute()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            if threading.active_count() > 1:
                sys.stdout.flush()
                os._exit(130)  # threads that run services can't be stopped
            return 130
        self._reporter.end(self._failed)
        return 3 if self._failed else 0

    def _settle_in(self) -> None:
        """What services find in this process."""
        os.chdir(self._root)  # outside of what is packed, the same wherever the script was started
        gone.install()
        service_utility.attach(self._job, self._reporter)
        self._hub.open()
        services.use(self._hub)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)  # what a dying node printed is not lost
        if self._job.results is not None:
            self._results = Results(self._job.results, self._root)

    def in_worker(self) -> Callable[[Work], Reply]:
        """What a worker does that was forked before this run was known."""
        self._settle_in()
        return self._in_worker

    def _compute(self) -> None:
        from dask._task_spec import Task, TaskRef
        from dask.local import get_async, get_sync
        from dask.threaded import get as get_threaded

        def task(step: Step) -> Any:
            return Task(step.index, self._here, step.index, *map(TaskRef, step.upstream))

        graph = {step.index: task(step) for step in self._steps}
        leaves = [step.index for step in self._steps if not step.wanted]
        width = max(1, min(self._job.workers, len(self._steps)))
        if self._scheduler != "processes":
            end_ahead()
        if self._scheduler == "sync":
            before = signal.signal(signal.SIGINT, self._interrupt)
            try:
                get_sync(graph, leaves, chunksize=1)
            finally:
                signal.signal(signal.SIGINT, before)
        elif self._scheduler == "threads":
            get_threaded(graph, leaves, num_workers=width, chunksize=1)
        else:
            pool = Pool(
                self._in_worker,
                first=taken_ahead(),
                count=len(self._steps),
                prepare=self._prepare,
                settle=self._settle_reply,
                affinity=lambda index: (self._steps[index].call.service, self._steps[index].call.version),
                name=lambda index: self._steps[index].id,
            )
            try:
                get_async(pool.submit, width, graph, leaves, chunksize=1)  # type: ignore[no-untyped-call]
            finally:
                pool.close()

    # what every scheduler does with a node

    def _shortcut(self, step: Step, upstream: Mapping[int, Outcome]) -> Outcome | None:
        """The outcome of a node that does not have to run, or must not: None if it has to."""
        for index in step.upstream:
            cause = upstream[index].cause
            if cause:
                return self._settle(step, "skipped", skipped(cause), None, Outcome(cause))
        if self._results is None or not self._job.reuse or not step.key:
            return None
        kept = self._results.find(step.key)
        if kept is None or not all(port in kept.ports for port in step.wanted):
            return None
        return self._reused(step, kept)

    def _reused(self, step: Step, kept: Kept) -> Outcome:
        ports = {port: kept.ports[port] for port in step.wanted}
        return self._settle(step, "reused", None, kept.shown, Outcome("", ports, pickled=True))

    def _settle(
        self, step: Step, status: str, error: Failure | None, outputs: list[Any] | None, outcome: Outcome
    ) -> Outcome:
        if error is not None:
            with self._lock:
                self._failed += 1
        self._reporter.node(step.id, status, error, outputs)
        return outcome

    def _call(self, step: Step, values: Callable[[], list[Any]]) -> list[Any]:
        """Runs the service of a node; returns its values by output port. Raises whatever the service raises."""
        located = self._hub.locate(step.call.service, step.call.version)
        service_utility.now_running(step.id)
        try:
            start = self._hub.start(located)
        except BaseException as error:
            raise _NotImported from error
        given = values()
        passed = services.arguments(located, given, step.call.parameters)
        returned = start([self._job.queue_id, step.id], *passed)
        return services.by_port(located, returned, step.wanted)

    def _failure(self, step: Step, error: BaseException) -> Failure:
        if isinstance(error, _NotImported) and error.__cause__ is not None:
            return of_exception(error.__cause__, step.call.service, importing=True)
        return of_exception(error, step.call.service)

    def _keep(self, step: Step, ports: Mapping[int, bytes], outputs: list[Any], paths: set[str]) -> None:
        if self._results is not None and step.key:
            self._results.keep(step.key, ports, outputs, paths)

    # sync and threads: in this process

    def _here(self, index: int, *outcomes: Outcome) -> Outcome:
        step = self._steps[index]
        upstream = dict(zip(step.upstream, outcomes, strict=True))
        settled = self._shortcut(step, upstream)
        if settled is not None:
            return settled
        self._reporter.node(step.id, "running")
        try:
            located = self._hub.locate(step.call.service, step.call.version)
            alone = self._scheduler == "sync"
            if alone:
                os.chdir(self._root)
            with self._hub.surroundings(located, alone=alone):
                returned = self._call(step, lambda: [self._value(source, upstream) for source in step.inputs])
                self._keep_here(step, returned)
        except BaseException as error:
            if self._interrupted:
                raise
            if self._job.debug:
                self._debug(step, error)
            return self._settle(step, "error", self._failure(step, error), None, Outcome(step.id))
        return self._settle(
            step, "success", None, shown(returned), Outcome("", {port: returned[port] for port in step.wanted})
        )

    def _value(self, source: str | tuple[int, int] | None, upstream: Mapping[int, Outcome]) -> Any:
        if not isinstance(source, tuple):
            return source
        outcome = upstream[source[0]]
        value = outcome.ports[source[1]]
        return self._values.loads(value) if outcome.pickled else value

    def _keep_here(self, step: Step, returned: list[Any]) -> None:
        if self._results is None or not step.key:
            return
        paths: set[str] = set()
        try:
            ports = {port: self._values.dumps(returned[port], paths) for port in step.wanted}
        except Unpicklable:
            return  # it is passed on as it is, only not kept
        self._note_paths(returned, paths)
        self._keep(step, ports, shown(returned), paths)

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _debug(self, step: Step, error: BaseException) -> None:
        from peachctl.runtime.debugger import post_mortem

        if isinstance(error, _NotImported) and error.__cause__ is not None:
            error = error.__cause__
        post_mortem(step.id, error, service_traceback(error))

    # processes

    def _prepare(self, index: int, upstream: Mapping[int, Outcome]) -> tuple[str, Any]:
        step = self._steps[index]
        settled = self._shortcut(step, upstream)
        if settled is not None:
            return "settled", settled
        values = tuple(
            upstream[source[0]].ports[source[1]] if isinstance(source, tuple) else None for source in step.inputs
        )
        return "run", (step, values)

    def _in_worker(self, work: Work) -> Reply:
        step, raw = work
        self._reporter.node(step.id, "running")
        try:
            os.chdir(self._root)
            located = self._hub.locate(step.call.service, step.call.version)
            with self._hub.surroundings(located, alone=True):
                returned = self._call(step, lambda: self._unpacked(step, raw))
                paths: set[str] = set()
                ports = {port: self._port(located, port, returned[port], paths) for port in step.wanted}
                outputs = shown(returned)
                if self._results is not None:
                    self._note_paths(returned, paths)
                    self._keep(step, ports, outputs, paths)
        except BaseException as error:  # noqa: BLE001 - sys.exit and KeyboardInterrupt of a service are its failure
            return Reply(step.index, self._failure(step, error), {}, [])
        return Reply(step.index, None, ports, outputs)

    def _unpacked(self, step: Step, raw: Sequence[bytes | None]) -> list[Any]:
        return [
            self._values.loads(value) if value is not None else source if isinstance(source, str) else None
            for source, value in zip(step.inputs, raw, strict=True)
        ]

    def _port(self, located: services.Located, port: int, value: Any, paths: set[str]) -> bytes:
        try:
            return self._values.dumps(value, paths)
        except Unpicklable as error:
            raise Unpicklable(f"output port {port} of service {located.name}: {error.message}") from error.__cause__

    def _settle_reply(self, reply: Reply) -> Outcome:
        step = self._steps[reply.index]
        if reply.error is not None:
            return self._settle(step, "error", reply.error, None, Outcome(step.id))
        return self._settle(step, "success", None, reply.shown, Outcome("", reply.ports, pickled=True))

    # kept results

    def _note_paths(self, returned: list[Any], paths: set[str]) -> None:
        """Adds the absolute paths among the outputs that nobody reads: a result without its files is none."""
        for value in returned:
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, str) and item.startswith("/") and len(item) <= 4096:
                    paths.add(item)

    def _name_results(self) -> None:
        """Keys of all nodes, known before anything runs: service, version, its code, parameters, and inputs
        (literals; for others the key of the node above). Without its service's code a node has none."""
        code: dict[tuple[str, int], str] = {}
        for step in self._steps:
            service = (step.call.service, step.call.version)
            if service not in code:
                try:
                    code[service] = code_hash(self._hub.locate(*service).folder)
                except ServiceError:
                    code[service] = ""
            inputs: list[Any] = []
            for source in step.inputs:
                if isinstance(source, tuple):
                    inputs.append((self._steps[source[0]].key, source[1]))
                else:
                    inputs.append(None if source is None else (literal_state(source),))
            if code[service] and all(self._steps[index].key for index in step.upstream):
                step.key = result_key((1, step.id, *service, code[service], step.call.parameters, inputs))
