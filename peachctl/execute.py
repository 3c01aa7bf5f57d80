"""The execute loop: queued rows become runs, and runs become ended rows with their packed output.

The protocol (the database is authoritative, events only wake):

- A free slot claims the most urgent queued row under a lease; whoever holds the claim is the only writer of the row.
- All leases are renewed by one call each second, which says of each run what is wanted: go on, cancelled, deleted,
  lost. In the last three cases all of the run's processes are ended. Only after a renewal does the supervisor hear a
  beat, so an executor that is frozen or cut off from the database loses its runs before its leases run out.
- The executor died: whoever can take its lock file knows, and gives its rows back at once; else the lease runs out.
  The next attempt goes on from the nodes that are done. After `max_attempts` such ends the row ends in error.
- The supervisor died: its runs are gone; their rows are given back as for a dead executor.
- The database is away: runs go on until the supervisor has heard no beat for too long. Ends that could not be
  written are kept and written when it is back.
- SIGTERM: no new claims; what has not ended after `drain` seconds is ended and given back, not counted.

Order of an end: node states, publish the folder (rename), pack (temporary name, rename), one UPDATE of the row. A
crash in between leaves a row in processing whose next attempt finds all nodes done, publishes and packs again.
"""

import contextlib
import logging
import os
import re
import selectors
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peachctl import files, script, wire
from peachctl.attempt import Attempt, Verdict, log_text
from peachctl.errors import PeachError, UnreachableError
from peachctl.failpoint import fail_point
from peachctl.names import printable
from peachctl.runner import Ended, Runner, SupervisorLost, alive
from peachctl.runtime.job import Job, Reach
from peachctl.store import Claim, Executor, NodeState, Released, Status, Store, Wanted

logger = logging.getLogger(__name__)

Observer = Callable[[Claim, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How workflows are run here. Times in seconds, sizes in bytes.

    workers: most nodes of one workflow at once. edited: whether a script that was edited runs as edited (`watch`).
    """

    hub: Path
    queue: Path
    workflow_temp: Path
    download_workflows: Path
    download_files: Path
    slots: int = 1
    scheduler: str = "processes"
    workers: int = 1
    lease: float = 30.0
    drain: float = 30.0
    max_attempts: int = 3
    per_user: int | None = None
    time_limit: float | None = None
    free_space: int = 0
    edited: bool = False
    debug: bool = False
    reach: Reach = field(default_factory=Reach)
    term_grace: float = 10.0
    sweep: float = 5.0
    beat: float = 1.0

    @property
    def orders_after(self) -> float:
        """Seconds without a beat after which the supervisor ends all runs: well before the lease runs out."""
        return self.lease * 2 / 3


@dataclass(slots=True)
class _Packing:
    attempt: Attempt
    verdict: Verdict
    folder: Path
    future: "Future[str]" = field(default_factory=Future)
    again_at: float = 0.0


@dataclass(slots=True)
class _End:
    """An end that is still to be written into the row."""

    claim: Claim
    verdict: Verdict
    output_file: str
    nodes: list[NodeState] = field(default_factory=list)


class ExecuteLoop:
    """Claims, runs and ends workflows until told to drain. One thread; `step` is called again and again.

    open_runner: starts a supervisor that ends all runs after the given seconds without a beat. observer: is told
    every event of every run, and `{"event": "ended", "status", "reason", "output_file"}` at its end. alone: runs
    the row that it adopts and no other. wake: an eventfd that others write to when there may be work.
    """

    def __init__(
        self,
        store: Store,
        open_runner: Callable[[float], Runner],
        executor: Executor,
        options: Options,
        *,
        observer: Observer = lambda _claim, _event: None,
        alone: bool = False,
    ) -> None:
        self._store = store
        self._open_runner = open_runner
        self._executor = executor
        self._options = options
        self._observer = observer
        self._alone = alone
        self._only: int | None = None
        self._runner: Runner | None = None
        self._attempts: dict[str, Attempt] = {}
        self._packing: list[_Packing] = []
        self._unwritten: list[_End] = []
        self._refusals: list[tuple[int, Future[str]]] = []
        self._packer = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pack")
        self._selector = selectors.DefaultSelector()
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self.wake, selectors.EVENT_READ, self._woken)
        self._next_sweep = 0.0
        self._next_beat = 0.0
        self._look = True
        self._draining_until: float | None = None
        self.paused: str | None = None
        """Why nothing is started at the moment, None while all is well."""
        self._claim_at = 0.0
        self._closing = False
        self._until_claim = False
        self._owed = False
        self._joined = False
        self._open_at = 0.0
        self.idle = False
        """Whether the last look into the queue found nothing to claim."""

    # What others call

    @property
    def busy(self) -> int:
        """Workflows that are run or packed now."""
        return len(self._attempts) + len(self._packing) + len(self._unwritten) + len(self._refusals)

    @property
    def draining(self) -> bool:
        return self._draining_until is not None

    def _look_again(self) -> None:
        self._look, self.idle = True, False

    def poke(self) -> None:
        """Says that there may be work; safe from signal handlers and other threads."""
        with contextlib.suppress(OSError):  # closed: a signal came late
            os.eventfd_write(self.wake, 1)

    def drain(self, *, at_once: bool = False) -> None:
        """No new claims; what still runs after `drain` seconds (or now) goes back to the queue."""
        if self._draining_until is None or at_once:
            self._draining_until = time.monotonic() + (0 if at_once else self._options.drain)
        self.poke()

    def watch_fd(self, fd: int, callback: Callable[[], None]) -> None:
        """Has `callback` called from `step` when `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def adopt(self, claim: Claim) -> None:
        """Runs a row that was claimed elsewhere for this executor (`run` files and claims in one step)."""
        self._only = claim.id
        self._ready()
        self._start(claim)

    def step(self, timeout: float) -> None:
        """Does what is due, then waits for the next thing that happens, at most `timeout` seconds."""
        try:
            self._ready()
            self._beat()
            self._sweep()
            self._claim()
        except UnreachableError as error:
            self._pause(error.message)
        except (files.FilesError, OSError) as error:
            self._pause(str(error))
        except SupervisorLost:
            self._supervisor_lost()
        self._limits()
        for key, _ in self._selector.select(self._patience(timeout)):
            key.data()
        self._write_changes()
        self._collect_packed()

    def close(self) -> bool:
        """Ends what still runs at once (their rows go back to the queue) and the supervisor. Returns whether nothing
        is left to be done for this executor; else whoever finds its lock free does it."""
        self._closing = True
        for attempt in list(self._attempts.values()):
            attempt.drained = True
        if self._runner is not None:
            self._runner.close()
        for attempt in list(self._attempts.values()):
            self._give_back(attempt, vanished=False, reason="its executor was stopped")
        self._packer.shutdown(wait=True)
        self._collect_packed()
        done = not (self._unwritten or self._packing or self._owed)
        if self._joined and done:
            try:
                self._store.leave(self._executor)
                fail_point("execute:left")
            except UnreachableError as error:
                logger.warning("could not sign off: %s", error.message)
                done = False
        self._selector.close()
        os.close(self.wake)
        return done

    # The steps

    def _ready(self) -> None:
        if not self._joined:
            self._store.join(self._executor)
            fail_point("execute:joined")
            self._joined = True
        if self._runner is None and time.monotonic() >= self._open_at:
            # Where supervisors die as they start, a loop that opens one after the other would help nobody.
            self._open_at = time.monotonic() + self._options.beat
            try:
                self._runner = self._open_runner(self._options.orders_after)
            except OSError as error:
                self._pause(f"the process that starts workflows cannot be started: {error}")
                return
            self._selector.register(self._runner.fileno(), selectors.EVENT_READ, self._runs_ended)

    def _beat(self) -> None:
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + self._options.beat
        claims = [attempt.claim for attempt in self._attempts.values()]
        claims += [packing.attempt.claim for packing in self._packing]
        claims += [end.claim for end in self._unwritten]
        wanted = self._store.renew(self._executor, claims, self._options.lease) if claims else {}
        fail_point("execute:renewed")
        if not self._until_claim:
            self._go_on()
        if self._runner is not None:
            self._runner.beat()
        for attempt in self._attempts.values():
            want = wanted.get(attempt.claim, Wanted.GO_ON)
            if want is not Wanted.GO_ON and attempt.wanted is Wanted.GO_ON:
                logger.info("workflow %d: %s; ending its processes", attempt.claim.id, want.value)
                attempt.wanted = want
                if attempt.run is not None:
                    attempt.run.end(self._options.term_grace if want is Wanted.CANCELLED else 2.0)

    def _sweep(self) -> None:
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + self._options.sweep
        self._look_again()
        dead = [
            other.token
            for other in self._store.executors()
            if other.token != self._executor.token and alive.is_dead(other.alive)
        ]
        for token in dead:
            # Where there was no PID namespace, something of a dead executor's runs may still live.
            alive.end_strays(token)
        released = self._store.release(dead, self._options.max_attempts) if dead else []
        fail_point("execute:released")
        released += self._store.release_expired(self._options.max_attempts)
        fail_point("execute:expired")
        for one in released:
            self._say_released(one)
        self._pack_unpacked()

    def _say_released(self, one: Released) -> None:
        what = "ended in error, its attempts are used up" if one.ended else "back in the queue"
        logger.warning("workflow %d: its executor on %s vanished (attempt %d); %s", one.id, one.host, one.attempt, what)

    def _pack_unpacked(self) -> None:
        """Rows that ended without a run (refused, attempts used up) get a packed output that says why. Their folders
        may be large: the packer does it, while the loop beats on."""
        if self._refusals or self.draining:
            return
        for row in self._store.unpacked(20):
            future = self._packer.submit(
                files.write_refusal,
                self._options.workflow_temp,
                self._options.download_files,
                row.id,
                row.reason or "no reason is known",
            )
            future.add_done_callback(lambda _: self.poke())
            self._refusals.append((row.id, future))

    def _attach_refusals(self) -> None:
        for id, future in [one for one in self._refusals if one[1].done()]:
            self._refusals.remove((id, future))
            try:
                name = future.result()
                fail_point("execute:refusal-packed")
                self._store.attach(id, name)
                fail_point("execute:refusal-attached")
                now = self._store.get(id)
                if now is None or now.output_file != name:
                    # Somebody else was faster, or the row was deleted.
                    (self._options.download_files / name).unlink(missing_ok=True)
            except (PeachError, OSError) as error:
                logger.warning("workflow %d: %s", id, error)

    def _claim(self) -> None:
        free = self._options.slots - len(self._attempts)
        if not self._look or (self._alone and self._only is None) or self.draining or free <= 0:
            return
        if self._runner is None or time.monotonic() < self._claim_at:
            return
        self._look = False
        space = files.free_space(self._options.workflow_temp)
        if space < self._options.free_space:
            self._pause(
                f"less than {self._options.free_space >> 20} MiB (limits.free_space) are free below"
                f" {self._options.workflow_temp}: nothing is started",
                until_claim=True,
            )
            return
        claims = self._store.claim(
            self._executor,
            free,
            self._options.lease,
            only=self._only if self._alone else None,
            per_user=None if self._alone else self._options.per_user,
        )
        fail_point("execute:claimed")
        if self._until_claim:
            self._go_on()
        self.idle = not claims
        for claim in claims:
            self._start(claim)

    def _start(self, claim: Claim) -> None:
        options = self._options
        try:
            text = self._script(claim)
            folder = files.prepare_attempt(options.workflow_temp, claim.id, claim.attempt, claim.resumed)
            fail_point("execute:prepared")
            copy = folder.folder.parent / "script.py"
            files.write(copy, text)
            fail_point("execute:written")
        except (files.FilesError, OSError) as error:
            # The host's fault, not the workflow's: a full disk does not count, anything else does, so that it ends.
            self._claim_at = time.monotonic() + 5.0
            self._pause(str(error))
            self._hand_back(claim, vanished=not isinstance(error, files.DiskFull), reason=str(error))
            return
        except Exception as error:  # noqa: BLE001 - one row must not end the executor, nor the rest of its batch
            self._end_without_run(claim, str(error) or type(error).__name__)
            return
        attempt = Attempt(claim, folder, str(copy))
        job = Job(
            queue_id=claim.id,
            attempt=claim.attempt,
            script=str(copy),
            hub=claim.row.hub or str(options.hub),
            scheduler=claim.row.scheduler or options.scheduler,
            workers=options.workers,
            folder=str(folder.folder),
            download_workflows=str(options.download_workflows),
            download_files=str(options.download_files),
            results=str(folder.results),
            reuse=claim.resumed,
            debug=options.debug,
            reach=options.reach,
        )
        self._attempts[attempt.key] = attempt
        try:
            if self._runner is None:
                raise SupervisorLost
            attempt.run = self._runner.start(attempt.key, job, folder.output)
            fail_point("execute:started")
        except SupervisorLost:
            # The others of this batch want their claims looked after too.
            self._supervisor_lost()
            return
        except OSError as error:
            self._attempts.pop(attempt.key)
            self._claim_at = time.monotonic() + 5.0
            self._pause(f"no process can be started: {error}")
            self._hand_back(claim, vanished=True, reason=f"its process cannot be started: {error}")
            return
        if options.time_limit is not None:
            attempt.deadline = time.monotonic() + options.time_limit
        self._selector.register(attempt.run.fileno(), selectors.EVENT_READ, lambda: self._hear(attempt))
        self._observer(claim, {"event": "started", "attempt": claim.attempt, "resumed": claim.resumed})

    def _script(self, claim: Claim) -> str:
        """The text to run: the file's as far as it may be trusted, else rendered from the row. Raises PeachError."""
        name = claim.row.execution_file
        if Path(name).name != name or "\0" in name:
            # Clients write this column too.
            raise PeachError(f"execution_file {printable(name)!r} is a path, not a name in the queue folder")
        text = files.read_script(self._options.queue / name)
        foreign = is_foreign(claim.row.workflow_json)
        rendered = None if foreign else render_row(claim.row.workflow_json, name)
        header = script.read_header(text, rendered) if text is not None else None
        if text is not None and header is not None and header.state == "intact":
            return text
        if text is not None and header is not None and header.state == "edited":
            if self._options.edited:
                return text
            raise PeachError(
                f"the script {printable(name)} was edited after it was written",
                "delete it to have it written anew, or run it with `peachctl watch` or `peachctl run-script`",
            )
        if rendered is None:
            if text is not None and header is None and self._options.edited:
                return text
            raise PeachError("the workflow has no nodes", "only `peachctl watch` runs scripts of somebody's own")
        if text is None or header is not None:
            files.place(self._options.queue, name, rendered)
            fail_point("execute:rendered")
        return rendered

    def _end_without_run(self, claim: Claim, reason: str) -> None:
        logger.warning("workflow %d: %s", claim.id, reason)
        name = ""
        try:
            name = files.write_refusal(self._options.workflow_temp, self._options.download_files, claim.id, reason)
            fail_point("execute:failure-packed")
        except (PeachError, OSError) as error:
            logger.warning("workflow %d: its log could not be packed: %s", claim.id, error)
        self._unwritten.append(_End(claim, Verdict(Status.ERROR, reason), name))
        self.poke()

    def _limits(self) -> None:
        now = time.monotonic()
        for attempt in self._attempts.values():
            if attempt.deadline is not None and now > attempt.deadline and attempt.limit is None:
                attempt.limit = f"ran into execute.time_limit ({self._options.time_limit:g} s)"
                if attempt.run is not None:
                    attempt.run.end(self._options.term_grace)
        if self._draining_until is not None and now >= self._draining_until:
            for attempt in self._attempts.values():
                if not attempt.drained:
                    attempt.drained = True
                    if attempt.run is not None:
                        attempt.run.end(self._options.term_grace)

    def _patience(self, timeout: float) -> float:
        now = time.monotonic()
        due = [timeout, self._next_beat - now, self._next_sweep - now]
        if self._draining_until is not None and self._attempts:
            due.append(max(0.05, self._draining_until - now))
        due += [attempt.deadline - now for attempt in self._attempts.values() if attempt.deadline is not None]
        if any(attempt.changed for attempt in self._attempts.values()):
            due.append(0.1)
        return max(0.0, min(due))

    # What happens meanwhile

    def _woken(self) -> None:
        os.eventfd_read(self.wake)
        self._look_again()

    def _hear(self, attempt: Attempt) -> None:
        if attempt.run is None:
            return
        for event in attempt.run.events():
            try:
                attempt.hear(event)
            except Exception:  # noqa: BLE001 - services can write what they like into the pipe
                logger.warning("workflow %d: its run reported something that makes no sense", attempt.claim.id)
                continue
            if event.get("event") in ("graph", "node", "progress", "log"):
                self._observer(attempt.claim, event)

    def _write_changes(self) -> None:
        """Progress and nodes, at most every 0.2 s for one run; the rest with its end."""
        now = time.monotonic()
        for attempt in self._attempts.values():
            due = now - attempt.written_at >= 0.2
            if not due or not (attempt.changed or attempt.percent != attempt.written_percent):
                continue
            attempt.written_at = now
            states = attempt.take_changes()
            try:
                self._store.report(attempt.claim, attempt.percent, states)
                fail_point("execute:reported")
                attempt.written_percent = attempt.percent
            except UnreachableError as error:
                attempt.changed.update((state.id, None) for state in states)
                self._pause(error.message)

    def _runs_ended(self) -> None:
        assert self._runner is not None
        try:
            ended = self._runner.ended()
        except SupervisorLost:
            self._supervisor_lost()
            return
        for end in ended:
            attempt = self._attempts.get(end.key)
            if attempt is not None:
                self._run_ended(attempt, end)
        self._look_again()

    def _run_ended(self, attempt: Attempt, end: Ended) -> None:
        self._hear(attempt)
        self._close_run(attempt)
        done = attempt.heard_end
        if attempt.wanted in (Wanted.DELETED, Wanted.LOST):
            self._attempts.pop(attempt.key)
            if attempt.wanted is Wanted.DELETED:
                self._remove(attempt.claim.id)
            self._observer(
                attempt.claim,
                {"event": "ended", "status": "cancelled", "reason": attempt.wanted.value, "output_file": ""},
            )
            return
        if attempt.drained and not done and attempt.wanted is Wanted.GO_ON:
            self._give_back(attempt, vanished=False, reason="its executor was stopped")
            return
        if end.silent and attempt.wanted is Wanted.GO_ON and attempt.limit is None:
            self._give_back(attempt, vanished=True, reason="its executor was frozen or lost the database")
            return
        verdict = attempt.verdict(end.code, end.memory)
        self._attempts.pop(attempt.key)
        self._publish(attempt, verdict)

    def _publish(self, attempt: Attempt, verdict: Verdict) -> None:
        try:
            if verdict.status is not Status.SUCCESS:
                text = log_text(attempt.claim, verdict, attempt.nodes.values())
                files.write_log(attempt.folder.folder, text)
                fail_point("execute:logged")
            folder = files.publish(attempt.folder)
            fail_point("execute:published")
        except Exception as error:  # noqa: BLE001 - a service may have done anything to its folder
            logger.warning("workflow %d: %s", attempt.claim.id, error)
            reason = f"{verdict.reason}; and its" if verdict.reason else "its"
            failed = Verdict(Status.ERROR, f"{reason} output could not be published: {error}")
            self._unwritten.append(_End(attempt.claim, failed, "", list(attempt.nodes.values())))
            return
        attempt.move_outputs(folder)
        packing = _Packing(attempt, verdict, folder)
        self._pack(packing)
        self._packing.append(packing)

    def _pack(self, packing: _Packing) -> None:
        options, id = self._options, packing.attempt.claim.id
        packing.future = self._packer.submit(files.pack, packing.folder, options.download_files, id)
        packing.future.add_done_callback(lambda _: self.poke())

    def _collect_packed(self) -> None:
        self._attach_refusals()
        for packing in [one for one in self._packing if one.future.done()]:
            verdict, name = packing.verdict, ""
            try:
                name = packing.future.result()
                fail_point("execute:packed")
            except files.DiskFull as error:
                # It is a matter of time, not of the workflow; the claim is renewed meanwhile.
                self._pause(error.message)
                if time.monotonic() >= packing.again_at and not self._closing:
                    packing.again_at = time.monotonic() + 5.0
                    self._pack(packing)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the workflow's end must be written
                reason = f"{verdict.reason}; and its" if verdict.reason else "its"
                verdict = Verdict(Status.ERROR, f"{reason} output could not be packed: {error}")
            self._packing.remove(packing)
            nodes = list(packing.attempt.nodes.values())
            self._unwritten.append(_End(packing.attempt.claim, verdict, name, nodes))
        still = []
        for end in self._unwritten:
            try:
                held = self._store.finish(
                    end.claim,
                    end.verdict.status,
                    reason=end.verdict.reason,
                    output_file=end.output_file,
                    nodes=end.nodes,
                )
                fail_point("execute:finished")
            except UnreachableError as error:
                self._pause(error.message)
                still.append(end)
                continue
            self._say_ended(end, held=held)
        self._unwritten = still

    def _say_ended(self, end: _End, *, held: bool) -> None:
        claim, verdict = end.claim, end.verdict
        if not held:
            logger.warning("workflow %d: cancelled, deleted or taken over before its end could be written", claim.id)
        elif verdict.status is not Status.SUCCESS:
            logger.warning("workflow %d: %s: %s", claim.id, verdict.status.word, printable(verdict.reason or "", 500))
        else:
            logger.info("workflow %d: success", claim.id)
        self._observer(
            claim,
            {"event": "ended", "status": verdict.status.word, "reason": verdict.reason, "output_file": end.output_file},
        )
        self._look_again()

    def _hand_back(self, claim: Claim, *, vanished: bool, reason: str) -> None:
        try:
            self._store.give_back(claim, vanished=vanished, max_attempts=self._options.max_attempts, reason=reason)
            fail_point("execute:given-back")
        except UnreachableError as error:
            # The lease runs out, or our lock is found free: somebody gives it back for us.
            logger.warning("workflow %d could not be given back: %s", claim.id, error.message)
            self._owed = True
        self._observer(claim, {"event": "given back", "reason": reason})

    def _give_back(self, attempt: Attempt, *, vanished: bool, reason: str) -> None:
        self._close_run(attempt)
        self._attempts.pop(attempt.key, None)
        try:
            self._store.report(attempt.claim, None, attempt.take_changes())
            fail_point("execute:last-reported")
        except UnreachableError as error:
            logger.warning("workflow %d: %s", attempt.claim.id, error.message)
        self._hand_back(attempt.claim, vanished=vanished, reason=reason)
        self._look_again()

    def _remove(self, id: int) -> None:
        try:
            files.remove_workflow(self._options.workflow_temp, id)
            fail_point("execute:removed")
        except (PeachError, OSError) as error:
            logger.warning("workflow %d: %s", id, error)

    def _close_run(self, attempt: Attempt) -> None:
        if attempt.run is not None:
            self._selector.unregister(attempt.run.fileno())
            attempt.run.close()
            attempt.run = None

    def _supervisor_lost(self) -> None:
        logger.warning("the process that starts workflows died; starting another")
        if self._runner is not None:
            self._selector.unregister(self._runner.fileno())
            self._runner.close()
            self._runner = None
        for attempt in list(self._attempts.values()):
            self._hear(attempt)
            if attempt.wanted is Wanted.CANCELLED or attempt.heard_end:
                self._close_run(attempt)
                self._attempts.pop(attempt.key)
                self._publish(attempt, attempt.verdict(0, 0))
            else:
                started = attempt.run is not None
                self._give_back(attempt, vanished=started, reason="the process that starts workflows died")

    def _go_on(self) -> None:
        if self.paused is not None:
            logger.info("going on")
            self.paused, self._until_claim = None, False

    def _pause(self, why: str, *, until_claim: bool = False) -> None:
        """Says once why nothing goes on: until the database answers again, or until something can be claimed."""
        self._until_claim = until_claim
        if self.paused != why:
            logger.warning("%s", why)
            self.paused = why
        self._next_sweep = time.monotonic() + min(1.0, self._options.sweep)


# What was filed was within the limits of its day.
_ANY = wire.Limits(message_bytes=sys.maxsize, nodes=sys.maxsize)
_MD5 = re.compile(r"_([0-9a-f]{32})_")


def render_row(workflow_json: str, execution_file: str) -> str:
    """The script of a row, always the same. Raises PeachError where the row holds no workflow any more."""
    try:
        workflow = wire.workflow_from_json(workflow_json, _ANY)
    except PeachError as error:
        raise PeachError(
            f"workflow_json of this row cannot be read ({error.message})", "the workflow must be sent again"
        ) from error
    found = _MD5.search(execution_file)
    return script.render(workflow, found[1] if found else "")


def is_foreign(workflow_json: str) -> bool:
    """Whether the row stands for a script that peachctl did not write (`watch` files it without nodes)."""
    try:
        return not wire.workflow_from_json(workflow_json, _ANY).nodes
    except PeachError:
        return False
