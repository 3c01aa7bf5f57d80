"""One attempt at a workflow as the executor sees it: what its run reported, and what that amounts to at the end."""

import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from peachctl.files import AttemptFolder
from peachctl.names import printable, quoted
from peachctl.runner import Run
from peachctl.store import Claim, NodeState, NodeStatus, Status, Wanted

SETTLED = frozenset({NodeStatus.SUCCESS, NodeStatus.ERROR, NodeStatus.SKIPPED, NodeStatus.CANCELLED, NodeStatus.REUSED})
GOOD = frozenset({NodeStatus.SUCCESS, NodeStatus.REUSED})
_LARGE = 256 << 20
"""Bytes of peak memory from which on a process may have been killed for want of it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a workflow ended, with the sentence that says why (None after success)."""

    status: Status
    reason: str | None


@dataclass(slots=True)
class Attempt:
    """A claim that is being run.

    prepared: done when its folder is ready, or cannot be. run: None until it was started, and after its end. wanted:
    what the last renewal said of it. limit: the sentence for a limit that it ran into. drained: its executor stops,
    and it goes back to the queue.
    """

    claim: Claim
    folder: AttemptFolder
    prepared: "Future[None]" = field(default_factory=Future)
    run: Run | None = None
    nodes: dict[str, NodeState] = field(default_factory=dict)
    changed: dict[str, None] = field(default_factory=dict)
    settled: int = 0
    said_percent: int = 0
    written_percent: int = -1
    written_at: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    wanted: Wanted = Wanted.GO_ON
    limit: str | None = None
    drained: bool = False
    heard_end: bool = False
    reported_failed: int = 0

    @property
    def key(self) -> str:
        return f"{self.claim.id}.{self.claim.attempt}"

    def hear(self, event: Mapping[str, Any]) -> None:
        """Takes in one event of the run. What is not understood is passed over: the run's process is not trusted."""
        kind = event.get("event")
        if kind == "graph":
            for item in event.get("nodes", ()):
                state = NodeState(str(item["id"]), str(item["service"]), int(item["version"]), NodeStatus.WAITING)
                self._put(state)
        elif kind == "node":
            self._hear_node(event)
        elif kind == "progress":
            self.said_percent = max(0, min(99, int(event.get("percent", 0))))
        elif kind == "end":
            self.heard_end = True
            self.reported_failed = int(event.get("failed", 0))

    def _hear_node(self, event: Mapping[str, Any]) -> None:
        known = self.nodes.get(str(event.get("id")))
        if known is None or known.status in SETTLED:
            return
        status = NodeStatus(event["status"])
        at = float(event.get("at") or time.time())
        if status is NodeStatus.RUNNING:
            self._put(replace(known, status=status, started=at))
            return
        self.settled += status in SETTLED
        started = known.started
        if status is not NodeStatus.SKIPPED and started is None:
            started = at
        self._put(
            replace(
                known,
                status=status,
                started=started,
                finished=at,
                error=event.get("error"),
                outputs=event.get("outputs"),
            )
        )

    def _put(self, state: NodeState) -> None:
        self.nodes[state.id] = state
        self.changed[state.id] = None

    @property
    def percent(self) -> int:
        """0 to 99 while it runs: nodes done of nodes in all, or what a service said of the whole, if that is more."""
        by_nodes = 100 * self.settled // len(self.nodes) if self.nodes else 0
        return min(99, max(by_nodes, self.said_percent))

    @property
    def succeeded(self) -> bool:
        """Whether it said that it had ended, and no node had failed."""
        return self.heard_end and not self.reported_failed

    def as_published(self, text: str) -> str:
        """A text for people, with files of the attempt's folder named where they stay once it is published."""
        return text.replace(f"{self.folder.folder}/", f"{self.folder.published}/")

    def move_paths(self) -> None:
        """Has the nodes' outputs and errors name files where they stay: in the published folder, not the attempt's."""
        here, there = str(self.folder.folder), str(self.folder.published)
        for state in list(self.nodes.values()):
            error = None if state.error is None else {key: self.as_published(text) for key, text in state.error.items()}
            moved = replace(state, outputs=_moved(state.outputs, here, there), error=error)
            if moved != state:
                self._put(moved)

    def take_changes(self) -> list[NodeState]:
        """Node states since the last call."""
        states = [self.nodes[id] for id in self.changed]
        self.changed.clear()
        return states

    def verdict(self, code: int, memory: int) -> Verdict:
        """What the end of the run's process amounts to. code: exit code or minus the signal. Settles every node."""
        if self.wanted is Wanted.CANCELLED:
            self._settle(NodeStatus.CANCELLED, "Cancelled", "the workflow was cancelled", NodeStatus.CANCELLED)
            return Verdict(Status.CANCELLED, "cancelled")
        if self.limit is not None:
            self._settle(NodeStatus.ERROR, "TimeLimit", self.limit, NodeStatus.SKIPPED)
            return Verdict(Status.ERROR, self.limit)
        if self.heard_end and self.nodes and all(state.status in GOOD for state in self.nodes.values()) and code == 0:
            return Verdict(Status.SUCCESS, None)
        if self.heard_end and self.reported_failed:
            return Verdict(Status.ERROR, failures(self.nodes.values()))
        how = death(code, memory)
        running = [state.id for state in self.nodes.values() if state.status is NodeStatus.RUNNING]
        where = f" while {_listed('node', running)} ran" if running else ""
        if not self.nodes:
            where = " before its first node was known; its captured output says more"
        elif not running:
            where = " outside of any node; its captured output says more"
        reason = f"the workflow's process {how}{where}"
        self._settle(NodeStatus.ERROR, "ProcessDied", reason, NodeStatus.SKIPPED)
        return Verdict(Status.ERROR, reason)

    def _settle(self, running: NodeStatus, kind: str, message: str, waiting: NodeStatus) -> None:
        now = time.time()
        for state in list(self.nodes.values()):
            if state.status is NodeStatus.RUNNING:
                error = {"type": kind, "message": message, "traceback": ""}
                self._put(replace(state, status=running, finished=now, error=error))
            elif state.status is NodeStatus.WAITING:
                self._put(replace(state, status=waiting, finished=now))


def _moved(value: Any, here: str, there: str) -> Any:
    if isinstance(value, str):
        return there + value[len(here) :] if value == here or value.startswith(here + "/") else value
    if isinstance(value, list):
        return [_moved(one, here, there) for one in value]
    if isinstance(value, dict):
        return {key: _moved(one, here, there) for key, one in value.items()}
    return value


def death(code: int, memory: int) -> str:
    """The end of a process in words. code: exit code or minus the signal; memory: peak bytes."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = {
        signal.SIGKILL: f"; nobody here asked for it{', out of memory perhaps' if memory >= _LARGE else ''}",
        signal.SIGSEGV: " (invalid memory access)",
        signal.SIGABRT: " (abort)",
        signal.SIGBUS: " (bus error)",
    }.get(-code, "")  # type: ignore[call-overload]
    peak = f", peak memory {memory / 2**20:,.0f} MiB" if memory and code == -signal.SIGKILL else ""
    return f"was killed by {name}{more}{peak}"


def failures(nodes: Iterable[NodeState]) -> str:
    """One sentence for the nodes that failed: the first with its exception, and how many more."""
    states = list(nodes)
    failed = [state for state in states if state.status is NodeStatus.ERROR]
    skipped = sum(state.status is NodeStatus.SKIPPED for state in states)
    if not failed:
        return f"{skipped} nodes were skipped"
    first = failed[0].error or {}
    message = printable(str(first.get("message", "")).strip().split("\n")[0], 300)
    what = f"{first.get('type', 'error')}: {message}" if message else str(first.get("type", "error"))
    more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
    left = f"; {skipped} skipped" if skipped else ""
    return f"node {quoted(failed[0].id, 60)} ({printable(failed[0].service, 60)}): {what}{more}{left}"


def _listed(noun: str, names: Sequence[str]) -> str:
    shown = ", ".join(quoted(name, 60) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}{more}"


def log_text(claim: Claim, verdict: Verdict, nodes: Iterable[NodeState]) -> str:
    """`peachctl.log` of a packed output: why a workflow did not succeed. Clients show no reason, only this file."""
    lines = [f"workflow {claim.id} {quoted(claim.row.name)}: {verdict.status.word}", verdict.reason or "", ""]
    for state in nodes:
        lines.append(f"[{printable(state.id)}] {printable(state.service)} v{state.version}: {state.status.value}")
        if state.error and state.status is NodeStatus.ERROR:
            lines.append(f"    {state.error.get('type')}: {state.error.get('message')}")
            lines.extend(f"    {line}" for line in (state.error.get("traceback") or "").splitlines())
    return "\n".join(lines) + "\n"
