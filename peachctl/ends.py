"""The ends of workflows: the folder is published (rename), packed (temporary name, rename), then one UPDATE of the row.

Folders may be large, so all that touches them is done in threads, while the execute loop renews its leases; the
database is the loop's thread's alone. A crash in between leaves a row in processing whose next attempt finds all nodes
done, publishes and packs again.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from peachctl import files
from peachctl.attempt import Attempt, Verdict, log_text
from peachctl.backoff import Backoff
from peachctl.errors import PeachError, UnreachableError
from peachctl.failpoint import fail_point
from peachctl.names import printable
from peachctl.store import Claim, Row, Status, Store

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class End:
    """An end that is not yet in the row. attempt: None where there was no run. published: the folder, once it is
    there. packed: the packing, None when nothing is left but the row. full: whether the disk was when it was last
    tried; again: the time of the next try."""

    claim: Claim
    verdict: Verdict
    attempt: Attempt | None
    published: Path | None = None
    output_file: str = ""
    packed: "Future[str] | None" = None
    full: bool = False
    again: Backoff = field(default_factory=Backoff)


@dataclass(slots=True)
class _Refusal:
    """A row that ended before, and whose packed output is still to be made."""

    row: Row
    packed: "Future[str]"


class Ends:
    """All ends that one executor has to write.

    wake: called from other threads when a step is due. between: called between two writes to the database, each of
    which may take its time; raises UnreachableError as they do. pause: is told why nothing goes on for now. ended: is
    told each end that was written, and whether the claim still held.
    """

    def __init__(
        self,
        store: Store,
        workflow_temp: Path,
        download_files: Path,
        *,
        wake: Callable[[], None],
        between: Callable[[], None],
        pause: Callable[[str], None],
        ended: Callable[[End, bool], None],
    ) -> None:
        self._store = store
        self._workflow_temp = workflow_temp
        self._download_files = download_files
        self._wake = wake
        self._between = between
        self._pause = pause
        self._ended = ended
        self._ends: list[End] = []
        self._refusals: list[_Refusal] = []
        self._packer = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pack")
        self._closing = False

    @property
    def busy(self) -> int:
        """Ends that are not written yet."""
        return len(self._ends) + len(self._refusals)

    @property
    def working(self) -> int:
        """Ends that a thread has in hand."""
        futures = [end.packed for end in self._ends] + [refusal.packed for refusal in self._refusals]
        return sum(future is not None and not future.done() for future in futures)

    @property
    def full(self) -> bool:
        """Whether there are ends for which the disk is too full."""
        return any(end.full for end in self._ends)

    @property
    def claims(self) -> list[Claim]:
        """Whose leases must be renewed meanwhile."""
        return [end.claim for end in self._ends]

    def add(self, attempt: Attempt, verdict: Verdict) -> None:
        """A run has ended so: its folder is published and packed, then its row ends."""
        self._pack(End(attempt.claim, verdict, attempt))

    def refuse(self, claim: Claim, reason: str) -> None:
        """The workflow cannot be run at all: its row ends in error, with a packed output that says why."""
        logger.warning("workflow %d: %s", claim.id, reason)
        self._pack(End(claim, Verdict(Status.ERROR, reason), None))

    def pack_refusals(self) -> None:
        """Rows that ended without a run (refused by ingest, attempts used up) get a packed output that says why."""
        if self._refusals or self._closing:
            return
        for row in self._store.unpacked(20):
            self._refusals.append(_Refusal(row, self._submit(partial(self._write_refusal, row))))

    def remove(self, id: int) -> None:
        """Removes the folders of a workflow that was deleted."""
        if not self._closing:
            self._packer.submit(self._remove, id)

    def _clear(self, end: End) -> None:
        """What was packed for a row that was deleted, or is somebody else's by now, is nobody's."""
        row = self._store.get(end.claim.id)
        if end.output_file and (row is None or row.output_file != end.output_file):
            with suppress(OSError):
                (self._download_files / end.output_file).unlink()
        if row is None:
            self.remove(end.claim.id)

    def collect(self) -> None:
        """Takes in what the threads have done; never waits."""
        for end in [one for one in self._ends if one.packed is not None and one.packed.done()]:
            assert end.packed is not None
            try:
                end.output_file = end.packed.result()
                end.full = False
            except files.DiskFull as error:
                # It is a matter of time, not of the workflow; the claim is renewed meanwhile.
                if not end.full:
                    self._pause(error.message)
                end.full = True
                if end.again.due and not self._closing:
                    self._ends.remove(end)
                    self._pack(end)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the workflow's end must be written
                self._cannot_pack(end, error)
            end.packed = None
            if end.attempt is not None and end.published is not None:
                end.attempt.move_paths()
                if end.verdict.reason is not None:
                    end.verdict = replace(end.verdict, reason=end.attempt.as_published(end.verdict.reason))

    def write(self) -> None:
        """Writes the ends that are packed into their rows. Raises UnreachableError; they are kept then."""
        for refusal in [one for one in self._refusals if one.packed.done()]:
            self._between()
            self._attach(refusal)
            self._refusals.remove(refusal)
        for end in [one for one in self._ends if one.packed is None]:
            self._between()
            held = self._store.finish(
                end.claim,
                end.verdict.status,
                reason=end.verdict.reason,
                output_file=end.output_file,
                nodes=[] if end.attempt is None else list(end.attempt.nodes.values()),
                progress=None if end.attempt is None else end.attempt.percent,
            )
            fail_point("execute:finished")
            if not held:
                self._clear(end)
            self._ends.remove(end)
            self._ended(end, held)

    def close(self, *, writes: bool = True) -> bool:
        """Waits for what the threads have in hand, and writes it. Returns whether no end is left. writes: False where
        the database is away."""
        self._closing = True
        self._packer.shutdown(wait=True)
        self.collect()
        try:
            if writes:
                self.write()
        except UnreachableError as error:
            logger.warning("ends could not be written: %s", error.message)
        return not self._ends

    def _submit(self, work: Callable[[], str]) -> "Future[str]":
        future = self._packer.submit(work)
        future.add_done_callback(lambda _: self._wake())
        return future

    def _pack(self, end: End) -> None:
        end.again.later()
        end.packed = self._submit(partial(self._publish_and_pack, end))
        self._ends.append(end)

    def _publish_and_pack(self, end: End) -> str:
        """In a thread. What was published is not published again after a full disk."""
        claim, attempt = end.claim, end.attempt
        if attempt is None:
            name = files.write_refusal(
                self._workflow_temp,
                self._download_files,
                claim.id,
                claim.attempt,
                end.verdict.reason or "",
                claim.row.execution_file,
            )
            fail_point("execute:failure-packed")
            return name
        if end.published is None:
            if end.verdict.status is not Status.SUCCESS:
                text = attempt.as_published(log_text(claim, end.verdict, attempt.nodes.values()))
                files.write_log(attempt.folder.folder, text)
                fail_point("execute:logged")
            published = files.publish(attempt.folder)
            fail_point("execute:published")
            end.published = published
        name = files.pack(end.published, self._download_files, claim.id)
        fail_point("execute:packed")
        return name

    def _cannot_pack(self, end: End, error: Exception) -> None:
        logger.warning("workflow %d: %s", end.claim.id, error)
        if end.attempt is None:
            return  # its row says why, and whoever sweeps next packs what says it too
        reason = f"{end.verdict.reason}; and its" if end.verdict.reason else "its"
        what = "published" if end.published is None else "packed"
        end.verdict = Verdict(Status.ERROR, f"{reason} output could not be {what}: {error}")

    def _write_refusal(self, row: Row) -> str:
        """In a thread."""
        reason = row.reason or "no reason is known"
        name = files.write_refusal(
            self._workflow_temp, self._download_files, row.id, row.attempt, reason, row.execution_file
        )
        fail_point("execute:refusal-packed")
        return name

    def _attach(self, refusal: _Refusal) -> None:
        id = refusal.row.id
        try:
            name = refusal.packed.result()
            self._store.attach(id, name)
            fail_point("execute:refusal-attached")
            now = self._store.get(id)
            if now is None or now.output_file != name:
                # Somebody else was faster, or the row was deleted.
                (self._download_files / name).unlink(missing_ok=True)
        except UnreachableError:
            raise
        except (PeachError, OSError) as error:
            logger.warning("workflow %d: %s", id, printable(str(error), 500))

    def _remove(self, id: int) -> None:
        """In a thread."""
        try:
            files.remove_workflow(self._workflow_temp, id)
            fail_point("execute:removed")
        except (PeachError, OSError) as error:
            logger.warning("workflow %d: %s", id, error)
