"""Scripts of queued rows: their text, and files of a batch made beside the transaction that files their rows.

A script depends on nothing that the database says; only its name is sure when the rows are committed. So the scripts
of a batch are rendered and written under temporary names while the database works (either takes a third of the time of
a batch), and what is left to do after the commit is a rename each. A kill leaves temporary files, up to a batch of
them: nobody takes them for scripts, and the next ingest removes them when they are a minute old.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from peachctl import names, script, script_files, wire
from peachctl.errors import PeachError
from peachctl.failpoint import fail_point
from peachctl.store import Entry
from peachctl.workflow import Workflow

# What is filed was within the limits of its day.
_ANY = wire.Limits(message_bytes=sys.maxsize, nodes=sys.maxsize)


def text_of(execution_file: str, workflow_json: str, workflow: Workflow | None = None) -> str | None:
    """The script of a queued row; None for one without nodes, which stands for a script of somebody's own.

    workflow: what the row was filed from, where that is at hand. It renders the same as what is read from the row, but
    for numbers that JSON has no words for. Raises WireError.
    """
    if workflow is None or '"NaN"' in workflow_json or 'Infinity"' in workflow_json:
        workflow = wire.workflow_from_json(workflow_json, _ANY)
    if not workflow.nodes:
        return None
    found = names.parse_script_name(execution_file)
    return script.render(workflow, found[1] if found else "")


def place(queue_folder: Path, execution_file: str, workflow_json: str) -> None:
    """Renders and places the script of a queued row that was filed before. Raises WireError, FilesError."""
    text = text_of(execution_file, workflow_json)
    if text is not None:
        script_files.place(queue_folder, execution_file, text)
        fail_point("ingest:placed-later")


class Drafts:
    """The scripts of one batch, made in a thread while the block runs; gone at its end unless they were placed. A
    single one is made when it is placed: a thread for it would take longer than it saves.

    given: what may become a queued row, or None; a script is known by its index in it.
    """

    def __init__(self, queue_folder: Path, given: Sequence[tuple[Entry, Workflow] | None]) -> None:
        self._folder = queue_folder
        self._given = given
        self._thread = ThreadPoolExecutor(1, "drafts")
        self._making: Future[None] | None = None
        self._made: dict[int, script_files.Draft | PeachError] = {}

    def __enter__(self) -> "Drafts":
        if len(self._given) > 1:
            self._making = self._thread.submit(self._make_all)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        for made in self._made.values():
            if isinstance(made, script_files.Draft):
                script_files.drop(made)

    def _make_all(self) -> None:
        for index in range(len(self._given)):
            self._make(index)

    def _make(self, index: int) -> None:
        pair = self._given[index]
        if pair is None:
            return
        entry, workflow = pair
        try:
            text = text_of(entry.execution_file, entry.workflow_json, workflow)
            if text is not None:
                self._made[index] = script_files.draft(self._folder, entry.execution_file, text)
                fail_point("ingest:drafted")
        except PeachError as error:
            self._made[index] = error

    def place(self, index: int, execution_file: str) -> None:
        """Gives a script its name. Raises WireError, FilesError: what kept it from being made, too."""
        if self._making is not None:
            self._making.result()
        else:
            self._make(index)
        made = self._made.get(index)
        if isinstance(made, PeachError):
            raise made
        if made is not None:
            script_files.place(self._folder, execution_file, made.text, made)
            fail_point("ingest:placed")
            del self._made[index]
