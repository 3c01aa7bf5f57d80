"""What people do with workflow files by hand: check, send or file them, run one here, wait for their ends.

As in `app`, what costs time to load is imported inside the functions.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from peachctl import app
from peachctl.config import Config
from peachctl.errors import PeachError, StateError, UnreachableError
from peachctl.failpoint import fail_point
from peachctl.store import Claim, Entry, Row, Store

if TYPE_CHECKING:
    from peachctl.execute import Observer
    from peachctl.submission import Submission

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A file that became a row."""

    file: str
    id: int


def read_input(config: Config, file: str) -> tuple[bytes, str]:
    """The bytes of a file argument (`-`: standard input), at most one more than may be, and the name to report them
    under. Raises PeachError."""
    import sys

    from peachctl.names import printable, quoted

    most = max(app.limits(config).json_bytes, config.limits.message_bytes) + 1
    try:
        if file == "-":
            body = sys.stdin.buffer.read(most)
            return body, "-"
        with open(file, "rb") as stream:
            return stream.read(most), file
    except OSError as error:
        raise PeachError(f"{printable(file)}: {error.strerror}") from error
    except ValueError as error:
        raise PeachError(f"{quoted(file)}: {error}") from error


def need_space(config: Config) -> None:
    """Nothing is filed below `limits.free_space`. Raises PeachError."""
    from peachctl import files

    low = files.too_little_space(config.folders.workflow_temp, config.limits.free_space)
    if low is not None:
        raise PeachError(low, "make room, or lower limits.free_space")


def entry_of(config: Config, file: str, *, hub: Path | None = None, priority: int = 1) -> Entry:
    """A workflow file as it would be filed. Raises PeachError with every problem that its check found."""
    from peachctl.ingest import prepare_entry

    body, name = read_input(config, file)
    return prepare_entry(body, name, app.load_hub(config, hub), app.limits(config), priority=priority)


def submit_over_kafka(
    config: Config, files: list[str], priority: int, patience: float | None, said: Callable[[str], None]
) -> "list[Submission]":
    """Checks all files, sends all as messages, and finds their rows for `patience` seconds (None: for ever). said: is
    told what stands against that. Raises PeachError where a file is bad or Kafka cannot be reached: nothing was sent
    then."""
    from peachctl import submission
    from peachctl.bus.kafka_client import PATIENCE
    from peachctl.ingest import prepare_message

    hub, most = app.load_hub(config), app.limits(config)
    messages = []
    for file in files:
        body, name = read_input(config, file)
        messages.append((file, prepare_message(body, name, hub, most)))
    with closing(app.open_sender(config, config.limits.message_bytes, PATIENCE)) as sender:
        sent = submission.send(sender, config.kafka.topic_execute, messages, priority)
    try:
        with closing(app.open_store(config)) as store:
            submission.find(store, sent, patience)
    except PeachError as error:
        said(f"what became of them is not known: {error.message}")
    return sent


def submit(config: Config, store: Store, entries: list[tuple[str, Entry]]) -> list[Submitted]:
    """Files all entries (each beside its file's name; all or none), places their scripts, and returns the ids."""
    from peachctl.ingest import file_entries

    need_space(config)
    filed = file_entries(store, [entry for _, entry in entries], config.folders.queue)
    return [Submitted(file, one.id) for (file, _), one in zip(entries, filed, strict=True)]


def run_file(
    config: Config,
    file: str,
    *,
    hub: Path | None,
    scheduler: str | None,
    observer: "Observer",
    debug: bool = False,
) -> Row:
    """One workflow from decoding to packed output, here and now. Returns its row after the end.

    Ctrl-C (SIGINT) and SIGTERM cancel it: its processes are ended, and the row says cancelled.
    """
    import signal

    from peachctl.ingest import unique_name

    app.make_folders(config)
    need_space(config)
    entry = entry_of(config, file, hub=hub)
    chosen = "sync" if debug else scheduler
    entry = replace(entry, hub=str(hub or config.folders.hub), scheduler=chosen or config.execute.scheduler)
    opts = app.options(config, slots=1, scheduler=entry.scheduler, debug=debug)
    with (
        closing(app.open_store(config, executes=True)) as store,
        app.execute_loop(config, store, opts, observer=observer, alone=True, terminal=debug) as (loop, executor),
    ):
        asked: list[int] = []

        def stop(signum: int, _frame: object) -> None:
            asked.append(signum)
            loop.poke()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            store.join(executor)
            fail_point("run:joined")
            claim = unique_name(entry, lambda one: store.file_claimed(one, executor, opts.lease))
            fail_point("run:filed")
            loop.adopt(claim)
            heard, owed = 0, False
            while loop.busy or _unfinished(store, claim):
                loop.step(0.5)
                if len(asked) > heard:
                    heard, owed = len(asked), True
                owed = owed and not _cancelled(store, claim)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        row = store.get(claim.id)
    if row is None:
        raise PeachError(f"workflow {claim.id} was deleted while it ran")
    return row


def _unfinished(store: Store, claim: Claim) -> bool:
    try:
        row = store.get(claim.id)
    except UnreachableError:
        return True  # nobody knows; the loop has said so, and goes on when the database is back
    return row is not None and not row.status.ended


def _cancelled(store: Store, claim: Claim) -> bool:
    """Writes that the workflow is cancelled; False where the database was away, and it must be tried again."""
    try:
        store.cancel(claim.id)
        fail_point("run:cancelled")
    except StateError:
        pass  # it has just ended by itself
    except UnreachableError as error:
        logger.warning("workflow %d is not cancelled yet: %s", claim.id, error.message)
        return False
    return True


def wait_for(store: Store, ids: list[int], timeout: float | None, *, passed: float = 0.0) -> list[Row]:
    """Follows rows to their end. passed: seconds of the time-out that are over already. Raises PeachError at the
    time-out, StateError for a row that is gone."""
    until = None if timeout is None else time.monotonic() + timeout - passed
    ended: dict[int, Row] = {}
    while len(ended) < len(ids):
        for id in ids:
            if id in ended:
                continue
            row = store.get(id)
            if row is None:
                raise StateError(f"workflow {id} was deleted")
            if row.status.ended and (row.output_file or row.finished_date):
                ended[id] = row
        if len(ended) == len(ids):
            break
        if until is not None and time.monotonic() > until:
            raise PeachError(f"{len(ids) - len(ended)} of {len(ids)} workflows had not ended after {timeout:g} s")
        time.sleep(0.1)
    return [ended[id] for id in ids]
