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
  written are kept and written when it is back, and so is what had to be given back; it is not counted.
- SIGTERM: no new claims; what has not ended after `drain` seconds is ended and given back, not counted. Ends that
  cannot be written some seconds later are left to the next executor. One that is overdue (`stop`) ends as by a kill.
- The machine slept, or this process did: nobody's lease is called expired before all who slept with us could renew.

The loop's thread alone talks to the database and to the supervisor, and waits for nothing but these and a look at the
disk's free space: what may take long (folders, outputs, a look at dead executors) is done in threads, so that renewals
and beats go on meanwhile.

Order of an end: node states, publish the folder (rename), pack (temporary name, rename), one UPDATE of the row; see
`ends`.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from peachctl import files
from peachctl.attempt import Attempt
from peachctl.backoff import Backoff
from peachctl.drain import Drain
from peachctl.ends import End, Ends
from peachctl.errors import RefusedError, UnreachableError
from peachctl.failpoint import fail_point
from peachctl.names import printable
from peachctl.options import Options
from peachctl.prepare import job, prepare
from peachctl.returns import Returns
from peachctl.runner import Ended, Runner, SupervisorLost
from peachctl.store import Claim, Executor, Status, Store, Wanted
from peachctl.takeover import TakeOver
from peachctl.waking import Waking

logger = logging.getLogger(__name__)

Observer = Callable[[Claim, Mapping[str, Any]], None]


class ExecuteLoop:
    """Claims, runs and ends workflows until told to drain. `step` is called again and again, by one thread.

    open_runner: starts a supervisor that ends all runs after the given seconds without a beat. observer: is told
    every event of every run, and `{"event": "ended", "status", "reason", "output_file"}` at its end. alone: runs
    the row that it adopts and no other.
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
        self._waking = Waking(self._look_again)
        self._ends = Ends(
            store,
            options.workflow_temp,
            options.download_files,
            wake=self._waking.work_done,
            between=self._beat,
            pause=self._pause,
            ended=self._say_ended,
        )
        self._returns = Returns(store, options.max_attempts, self._beat)
        self._preparer = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")
        self._take_over = TakeOver(
            store, executor, options.max_attempts, options.lease - options.orders_after, self._waking.work_done
        )
        self._away = False
        self._next_sweep = 0.0
        self._next_beat = 0.0
        self._looked_at = time.monotonic()
        self._frozen_at = -math.inf
        self._look = True
        self._drain = Drain(options.drain, options.term_grace)
        self.paused: str | None = None
        """Why nothing is started at the moment, None while all is well."""
        self.away: UnreachableError | None = None
        """The database's error where that is the reason."""
        self._starts = Backoff(5.0)
        self._until_claim = False
        self._joined = False
        self._open_at = 0.0
        self.idle = False
        """Whether the last look into the queue found nothing to claim."""
        self.lingers = True
        """Whether `step` waits for something to happen where nothing runs and nothing is queued."""

    # What others call

    @property
    def busy(self) -> int:
        """Workflows that are run or packed now. Some seconds after a drain, ends that cannot be written (the database
        is away, the disk is full) count no more: the next executor packs and writes them."""
        ends = self._ends.working if self._drain.leaves else self._ends.busy
        return len(self._attempts) + ends

    @property
    def overdue(self) -> bool:
        """Whether a drain takes longer than all that it may wait for: a database or a disk that does not answer, a
        process that cannot be killed. Not while an output is packed, which takes its time."""
        return self._drain.overdue(working=self._ends.working > 0)

    @property
    def draining(self) -> bool:
        return self._drain.until is not None

    @property
    def signed_on(self) -> bool:
        """Whether the database has taken this executor in."""
        return self._joined

    def _look_again(self) -> None:
        self._look, self.idle = True, False

    def poke(self) -> None:
        """Says that there may be work; safe from signal handlers and other threads."""
        self._waking.poke()

    def drain(self, *, at_once: bool = False) -> None:
        """No new claims; what still runs after `drain` seconds (or now) goes back to the queue."""
        self._drain.begin(at_once=at_once)
        self.poke()

    def watch_fd(self, fd: int, callback: Callable[[], None]) -> None:
        """Has `callback` called from `step` when `fd` is readable."""
        self._waking.watch(fd, callback)

    def adopt(self, claim: Claim) -> None:
        """Runs a row that was claimed elsewhere for this executor (`run` files and claims in one step)."""
        self._only = claim.id
        self._ready()
        self._prepare(claim)

    def step(self, timeout: float) -> None:
        """Does what is due, then waits for the next thing that happens, at most `timeout` seconds."""
        self._away = False
        if self._take_over.notice_sleep():
            self._next_beat = 0.0
        try:
            self._ready()
            self._beat()
            self._returns.write()
            self._sweep()
            self._beat()
            self._claim()
        except UnreachableError as error:
            if isinstance(error, RefusedError) and not self._joined:
                raise
            self._unreachable(error)  # what runs is not ended because somebody changes a password
        except (files.FilesError, OSError) as error:
            self._pause(str(error))
        except SupervisorLost:
            self._supervisor_lost()
        self._limits()
        self._waking.wait(self._patience(timeout))
        self._start_prepared()
        self._ends.collect()
        if self._away:
            return  # each try may wait for the database; the beat has the first one
        try:
            self._write_changes()
            self._ends.write()
        except UnreachableError as error:
            self._unreachable(error)

    def close(self) -> bool:
        """Ends what still runs at once (their rows go back to the queue) and the supervisor. Returns whether nothing
        is left to be done for this executor; else whoever finds its lock free does it."""
        # The first try that fails is the last: each may wait for a database that does not answer.
        self._away = False
        for attempt in list(self._attempts.values()):
            attempt.drained = True
        if self._runner is not None:
            self._runner.close()
        self._preparer.shutdown(wait=True, cancel_futures=True)
        for attempt in list(self._attempts.values()):
            self._give_back(attempt, vanished=False, reason="its executor was stopped")
        try:
            if not self._away:
                self._returns.write()
        except UnreachableError:
            self._away = True  # it was said
        done = self._ends.close(writes=not self._away) and not self._returns.claims
        if self._joined and done:
            try:
                self._store.leave(self._executor)
                fail_point("execute:left")
            except UnreachableError as error:
                logger.warning("could not sign off: %s", error.message)
                done = False
        self._waking.close()
        return done

    # The steps

    def _ready(self) -> None:
        if self.draining and not self._attempts:
            return
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
            self._waking.watch(self._runner.fileno(), self._runs_ended)

    def _beat(self) -> None:
        """Renews the leases and says so to the supervisor, where that is due. Called between the verbs of a step: each
        of them may wait for a slow database, and there may be many."""
        self._frozen()
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + self._options.beat
        claims = [attempt.claim for attempt in self._attempts.values()] + self._ends.claims + self._returns.claims
        wanted = self._store.renew(self._executor, claims, self._options.lease) if claims else {}
        fail_point("execute:renewed")
        # One query of an index: a row whose event was lost waits a second at the most.
        self._look = True
        if not self._until_claim:
            self._go_on()
        if self._runner is not None:
            # Leases count from their renewal, which may have returned late.
            self._runner.beat(now)
        for attempt in self._attempts.values():
            want = wanted.get(attempt.claim, Wanted.GO_ON)
            if want is not Wanted.GO_ON and attempt.wanted is Wanted.GO_ON:
                logger.info("workflow %d: %s; ending its processes", attempt.claim.id, want.value)
                attempt.wanted = want
                if attempt.run is not None:
                    attempt.run.end(self._options.term_grace if want is Wanted.CANCELLED else 2.0)

    def _frozen(self) -> bool:
        """Whether this process stood still a while ago (stopped, or its host at its end), longer than a verb waits."""
        now = time.monotonic()
        if now - self._looked_at > self._options.lease / 2:
            self._frozen_at = now
        self._looked_at = now
        return now - self._frozen_at < self._options.lease

    def _sweep(self) -> None:
        if self._take_over.release_dead():
            self._look_again()
            self._pack_refusals()
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + self._options.sweep
        self._look_again()
        self._take_over.search()
        self._beat()
        self._take_over.release_expired()
        self._beat()
        self._pack_refusals()

    def _pack_refusals(self) -> None:
        if not self.draining:
            self._ends.pack_refusals()

    def _claim(self) -> None:
        free = self._options.slots - len(self._attempts)
        if not self._look or (self._alone and self._only is None) or self.draining or free <= 0:
            return
        if self._runner is None or not self._starts.due:
            return
        self._look = False
        low = files.too_little_space(self._options.workflow_temp, self._options.free_space)
        if low is not None:
            self._pause(f"{low}: nothing is started", until_claim=True)
            return
        claims = self._store.claim(
            self._executor,
            free,
            self._options.lease,
            only=self._only if self._alone else None,
            per_user=None if self._alone else self._options.per_user,
        )
        fail_point("execute:claimed")
        if self._until_claim and not self._starts.failing:  # else with the first that can be started
            self._go_on()
        self.idle = not claims and not self._take_over.searching
        for claim in claims:
            self._prepare(claim)

    def _prepare(self, claim: Claim) -> None:
        options = self._options
        attempt = Attempt(claim, files.attempt_folder(options.workflow_temp, claim.id, claim.attempt))
        attempt.prepared = self._preparer.submit(
            prepare, claim, options.queue, options.workflow_temp, edited=options.edited
        )
        self._attempts[attempt.key] = attempt
        attempt.prepared.add_done_callback(lambda _: self._waking.work_done())

    def _start_prepared(self) -> None:
        for attempt in [one for one in self._attempts.values() if one.run is None and one.prepared.done()]:
            claim = attempt.claim
            if self._end_unwanted(attempt):
                continue
            try:
                attempt.prepared.result()
            except (files.FilesError, OSError) as error:
                # The host's fault, not the workflow's: a full disk does not count, anything else does, so that it ends.
                self._not_started(attempt, str(error), vanished=not isinstance(error, files.DiskFull))
                continue
            except Exception as error:  # noqa: BLE001 - one row must not end the executor, nor the rest of its batch
                self._attempts.pop(attempt.key)
                self._ends.refuse(claim, str(error) or type(error).__name__)
                continue
            if self._runner is None:
                return
            try:
                self._start(attempt, self._runner)
            except SupervisorLost:
                self._supervisor_lost()  # the next one starts it, and the others of its batch
                return
            except OSError as error:
                self._not_started(attempt, f"its process cannot be started: {error}", vanished=True)

    def _start(self, attempt: Attempt, runner: Runner) -> None:
        options, claim = self._options, attempt.claim
        attempt.run = runner.start(attempt.key, job(claim, attempt.folder, options), attempt.folder.output)
        fail_point("execute:started")
        self._starts.over()
        if self._until_claim:
            self._go_on()
        if options.time_limit is not None:
            attempt.deadline = time.monotonic() + options.time_limit
        self._waking.watch(attempt.run.fileno(), lambda: self._hear(attempt))
        self._observer(claim, {"event": "started", "attempt": claim.attempt, "resumed": claim.resumed})

    def _not_started(self, attempt: Attempt, reason: str, *, vanished: bool) -> None:
        self._attempts.pop(attempt.key)
        self._starts.later()
        self._pause(reason, until_claim=True)
        self._hand_back(attempt.claim, vanished=vanished, reason=reason)

    def _limits(self) -> None:
        now = time.monotonic()
        for attempt in self._attempts.values():
            if attempt.deadline is not None and now > attempt.deadline and attempt.limit is None:
                attempt.limit = f"ran into execute.time_limit ({self._options.time_limit:g} s)"
                if attempt.run is not None:
                    attempt.run.end(self._options.term_grace)
        if self._drain.over:
            for attempt in self._attempts.values():
                if attempt.drained and not self._drain.at_once:
                    continue
                attempt.drained = True
                if attempt.run is not None:
                    attempt.run.end(1.0 if self._drain.at_once else self._options.term_grace)

    def _patience(self, timeout: float) -> float:
        if self.idle and not self.busy and not self.lingers:
            return 0.0
        now = time.monotonic()
        due = [timeout, self._next_beat - now, self._next_sweep - now]
        if self._drain.until is not None and self._attempts:
            due.append(max(0.05, self._drain.until - now))
        due += [attempt.deadline - now for attempt in self._attempts.values() if attempt.deadline is not None]
        if any(attempt.changed for attempt in self._attempts.values()):
            due.append(0.1)
        return max(0.0, min(due))

    # What happens meanwhile

    def _hear(self, attempt: Attempt) -> None:
        if attempt.run is None:
            return
        for event in attempt.run.events():
            try:
                attempt.hear(event)
                if event.get("event") in ("graph", "node", "progress", "log"):
                    self._observer(attempt.claim, event)
            except Exception:  # noqa: BLE001 - services can write what they like into the pipe
                logger.warning("workflow %d: its run reported something that makes no sense", attempt.claim.id)

    def _write_changes(self) -> None:
        """Progress and nodes, at most every 0.2 s for one run, and the first time 0.2 s after its claim: most of short
        ones is written with their end alone. Raises UnreachableError."""
        now = time.monotonic()
        for attempt in self._attempts.values():
            due = now - attempt.written_at >= 0.2
            if not due or not (attempt.changed or attempt.percent != attempt.written_percent):
                continue
            self._beat()
            attempt.written_at = now
            states = attempt.take_changes()
            try:
                self._store.report(attempt.claim, attempt.percent, states)
                fail_point("execute:reported")
                attempt.written_percent = attempt.percent
            except UnreachableError:
                attempt.changed.update((state.id, None) for state in states)
                raise

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
        if self._end_unwanted(attempt):
            return
        if end.silent and attempt.limit is None:
            # A database that was away says nothing against the workflow. A host that freezes may do so because of it,
            # each time anew, and that must come to an end.
            frozen = self._frozen()
            how = "was frozen" if frozen else "could not renew its lease in time"
            self._next_beat = 0.0  # before the next claim
            self._give_back(attempt, vanished=frozen, reason=f"its executor {how}")
            return
        self._end(attempt, end.code, end.memory)

    def _end_unwanted(self, attempt: Attempt) -> bool:
        """Ends an attempt whose run is over, or was not started, where it is not wanted any more; whether it was so."""
        if attempt.wanted in (Wanted.DELETED, Wanted.LOST):
            self._attempts.pop(attempt.key)
            self._observer(
                attempt.claim,
                {"event": "ended", "status": "cancelled", "reason": attempt.wanted.value, "output_file": ""},
            )
            if attempt.wanted is Wanted.DELETED:
                self._ends.remove(attempt.claim.id)
                # Nobody else closes the run before its lease is out, and with an open one we cannot sign off.
                self._return(attempt.claim, vanished=False, reason="it was deleted")
        elif attempt.wanted is Wanted.CANCELLED:
            self._end(attempt, 0, 0)
        elif attempt.drained and not attempt.succeeded:
            # What failed may have failed because we ended it: a node's process hears the signal before the main one.
            self._give_back(attempt, vanished=False, reason="its executor was stopped")
        else:
            return False
        return True

    def _end(self, attempt: Attempt, code: int, memory: int) -> None:
        verdict = attempt.verdict(code, memory)
        self._attempts.pop(attempt.key)
        self._ends.add(attempt, verdict)

    def _say_ended(self, end: End, held: bool) -> None:
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
        self._return(claim, vanished=vanished, reason=reason)
        self._observer(claim, {"event": "given back", "reason": reason})

    def _return(self, claim: Claim, *, vanished: bool, reason: str) -> None:
        self._returns.add(claim, vanished=vanished, reason=reason)
        try:
            if self._away:
                raise UnreachableError("the database does not answer")
            self._returns.write()
        except UnreachableError as error:
            # Written when it is back.
            logger.warning("workflow %d could not be given back: %s", claim.id, error.message)
            self._away = True

    def _give_back(self, attempt: Attempt, *, vanished: bool, reason: str) -> None:
        self._close_run(attempt)
        try:
            if not self._away:
                self._beat()  # it may be one of many
                self._store.report(attempt.claim, None, attempt.take_changes())
                fail_point("execute:last-reported")
        except UnreachableError as error:
            self._unreachable(error)
        self._attempts.pop(attempt.key, None)
        self._hand_back(attempt.claim, vanished=vanished, reason=reason)
        self._look_again()

    def _close_run(self, attempt: Attempt) -> None:
        if attempt.run is not None:
            self._waking.forget(attempt.run.fileno())
            attempt.run.close()
            attempt.run = None

    def _supervisor_lost(self) -> None:
        logger.warning("the process that starts workflows died; starting another")
        if self._runner is not None:
            self._waking.forget(self._runner.fileno())
            self._runner.close()
            self._runner = None
        for attempt in [one for one in self._attempts.values() if one.run is not None]:
            self._hear(attempt)
            self._close_run(attempt)
            if attempt.wanted is Wanted.CANCELLED or attempt.succeeded:
                self._end(attempt, 0, 0)
            else:
                self._give_back(attempt, vanished=True, reason="the process that starts workflows died")

    def _unreachable(self, error: UnreachableError) -> None:
        self._away = True
        self._pause(error.message, away=error)

    def _go_on(self) -> None:
        if self._ends.full:
            self.away = None  # the database has answered
        elif self.paused is not None:
            logger.info("going on")
            self.paused, self.away, self._until_claim = None, None, False

    def _pause(self, why: str, *, until_claim: bool = False, away: UnreachableError | None = None) -> None:
        """Says once why nothing goes on: until the database answers again, or until something can be claimed."""
        self._until_claim, self.away = until_claim, away
        if self.paused != why:
            logger.warning("%s", why)
            self.paused = why
        self._next_sweep = time.monotonic() + min(1.0, self._options.sweep)
