"""Dead letters, worked on: what share a cause, what becomes of one that is tried again, patched or dropped.

A letter is read and checked once more against the hub and the limits of today. What is good now is filed under the
origin that the letter has (a refused row becomes queued, under its own id), in one transaction with the letter's end.

What a kill leaves behind, and who mends it:

- after the filing, before the script and the event: the same that `ingest` leaves, mended by the same;
- after that, before the copies were removed: a packed log, or a file in `.refused`, that nothing names any more.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from peachctl import ingest, wire
from peachctl.avro import field_parts
from peachctl.bus.folder import remove_refused
from peachctl.errors import Exit, PeachError, StateError, WireError
from peachctl.failpoint import fail_point
from peachctl.fault import Fault, examine, without_indices
from peachctl.files import FilesError
from peachctl.hub import Hub
from peachctl.masking import mask
from peachctl.names import printable
from peachctl.store import Filed, Letter, Row, Store
from peachctl.workflow import Problem, Workflow, check

logger = logging.getLogger(__name__)

_FIELDS = ("name", "user", "nodes")


def read_patch(body: bytes, limits: wire.Limits) -> dict[str, object]:
    """A patch from its JSON text: an object whose keys are fields as refusals name them (`user`,
    `nodes[3].service.version`) and whose values are put there. A whole workflow is a patch as well. Raises PeachError.
    """
    patch = wire.parse_json(body, limits.json_bytes)
    if not isinstance(patch, dict) or not patch:
        raise PeachError(
            "a patch is a JSON object: a whole workflow, or fields and what to put there",
            'for example {"nodes[3].service.version": 2}',
        )
    return patch


def is_whole(patch: Mapping[str, object]) -> bool:
    """Whether a patch is a whole workflow."""
    return set(_FIELDS) <= set(patch)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a letter that was tried again. id: its row, None where the letter stays; then reason says why,
    problems are what the check found, and exit is the status that it alone would have."""

    number: int
    id: int | None = None
    reason: str | None = None
    hint: str | None = None
    problems: list[Problem] = field(default_factory=list)
    exit: Exit = Exit.DONE


@dataclass(frozen=True, slots=True)
class Examined:
    """What can be told of a letter. alike: how many others share its cause. fault: why it does not decode, else its
    workflow, with what is wrong with it by the hub of today (None where there is no hub). row: that it stands for."""

    letter: Letter
    alike: int
    fault: Fault | None
    workflow: Workflow | None
    problems: list[Problem] | None
    row: Row | None


def code(letter: Letter) -> str:
    """The word that a reason begins with: `malformed`, `too-large`, or the code of the first problem, such as
    `cycle`."""
    return letter.reason.partition(":")[0]


def cause(letter: Letter) -> tuple[str, str]:
    """What letters have in common that were refused for the same mistake: code, and field without its indices."""
    return code(letter), without_indices(letter.field)


def chosen(letters: Sequence[Letter], numbers: Sequence[int], reason: str | None) -> list[Letter]:
    """The letters of these numbers, in that order; else those of a code; else all. Raises StateError for a number or
    code that none has."""
    if numbers:
        known = {letter.number: letter for letter in letters}
        for number in numbers:
            if number not in known:
                raise StateError(f"there is no dead letter {number}", "peachctl dlq list")
        return [known[number] for number in dict.fromkeys(numbers)]
    if reason is None:
        return list(letters)
    found = [letter for letter in letters if code(letter) == reason]
    if not found:
        codes = ", ".join(sorted({code(letter) for letter in letters}))
        raise StateError(
            f"there is no dead letter of reason {reason!r}" + (f"; there are {codes}" if codes else ""),
            "peachctl dlq list",
        )
    return found


def decoded_of(examined: Examined) -> object:
    """The JSON values of what decodes, passwords and all; None where nothing does."""
    if examined.workflow is not None:
        return wire.workflow_to_json(examined.workflow)
    return None if examined.fault is None else examined.fault.decoded


def whole(letter: Letter) -> bool:
    """Whether all bytes of the message were kept."""
    return len(letter.body) == letter.size


def read(letter: Letter, limits: wire.Limits) -> Workflow:
    """The workflow of a letter. Raises WireError, StateError where only the beginning of it was kept."""
    if not whole(letter):
        raise StateError(
            f"dead letter {letter.number}: only {len(letter.body)} of its {letter.size} bytes were kept, so it cannot"
            " be tried again: the message must be sent again",
            f"raise limits.message_bytes, have it sent again, then   peachctl dlq drop {letter.number}",
        )
    return wire.decode_file(letter.body, letter.file or "", limits)


def starting_point(examined: Examined) -> str:
    """What there is to edit for a patch: the text as it came where that is JSON (also under a name, or in a topic, for
    Avro), else the JSON of what was decoded, whole or up to the fault. Raises StateError where nothing is."""
    letter, decoded = examined.letter, decoded_of(examined)
    if wire.may_be_json(letter.file or "") or (
        decoded is None and letter.body.lstrip(b"\xef\xbb\xbf \r\n")[:1] == b"{"
    ):
        return letter.body.decode(errors="backslashreplace")
    if not decoded:
        raise StateError(f"nothing of dead letter {letter.number} decodes", "write the whole workflow, or drop it")
    return json.dumps(decoded, indent=1, ensure_ascii=False) + "\n"


def patched(letter: Letter, patch: Mapping[str, object], limits: wire.Limits) -> Workflow:
    """The workflow that a letter becomes by a patch (`read_patch`), which must be a whole one where the letter does
    not decode. Raises PeachError, WireError for a result that is no workflow."""
    if is_whole(patch):
        return wire.workflow_of(patch, limits)
    value = _decoded(letter, limits)
    for key, new in patch.items():
        _put(value, key, new)
    return wire.workflow_of(value, limits)


def _decoded(letter: Letter, limits: wire.Limits) -> dict[str, object]:
    """The JSON values that the fields of a patch are put into."""
    try:
        if whole(letter) and wire.may_be_json(letter.file or ""):
            value = wire.parse_json(letter.body, limits.json_bytes)
            if isinstance(value, dict):
                return value
        return wire.workflow_to_json(read(letter, limits))
    except (WireError, StateError) as error:
        raise PeachError(
            f"dead letter {letter.number} does not decode, so the patch must be a whole workflow with name, user and"
            f" nodes ({printable(mask(error.message), 500)})",
            f"peachctl dlq show {letter.number} --out FILE.json   (what there is, to be edited)",
        ) from None


def _put(value: dict[str, object], key: str, new: object) -> None:
    """Puts a value at the field that a key names; behind the last item of a list too."""
    parts = field_parts(key)
    shown = printable(key, 80)
    if not parts or parts[0] not in _FIELDS:
        raise PeachError(
            f"the patch names {shown!r}, which is no field of a workflow",
            "fields are spelled as in nodes[3].connections[0].node_id",
        )
    place: object = value
    absent = PeachError(f"the patch names {shown}, which the workflow does not have")
    for part in parts[:-1]:
        held = dict(enumerate(place)) if isinstance(place, list) else place if isinstance(place, dict) else {}
        if part not in held:
            raise absent
        place = held[part]
    last = parts[-1]
    if isinstance(last, int) and isinstance(place, list) and last <= len(place):
        place[last : last + 1] = [new]
    elif isinstance(last, str) and isinstance(place, dict):
        place[last] = new
    else:
        raise absent


class Letters:
    """The dead letters of an installation. embedded: the script in the queue folder is the event; else what is owed
    is published by an ingest, which looks for it every few seconds. load_hub: finds the services of today. inbox: may
    be None."""

    def __init__(
        self,
        store: Store,
        *,
        queue_folder: Path,
        download_files: Path,
        inbox: Path | None,
        load_hub: Callable[[], Hub],
        limits: wire.Limits,
        embedded: bool,
    ) -> None:
        self._store = store
        self._queue_folder = queue_folder
        self._download_files = download_files
        self._inbox = inbox
        self._load_hub = load_hub
        self._limits = limits
        self._embedded = embedded

    def examine(self, number: int) -> Examined:
        """Reads a letter as far as it goes. Raises StateError where there is none, UnreachableError."""
        letter = self._store.letter(number)
        if letter is None:
            raise StateError(f"there is no dead letter {number}", "peachctl dlq list")
        mine = cause(letter)
        alike = sum(cause(other) == mine for other in self._store.letters(bodies=False)) - 1
        row = None if letter.queue_id is None else self._store.get(letter.queue_id)
        fault = examine(letter.body, letter.file or "", self._limits)
        if fault is not None or not whole(letter):
            if not whole(letter):  # what is wrong with its beginning says nothing
                fault = Fault(WireError(letter.reason), fault.decoded if fault else None)
            return Examined(letter, max(alike, 0), fault, None, None, row)
        workflow = read(letter, self._limits)
        problems = None
        with suppress(PeachError):
            problems = check(workflow, ingest.known_services(self._load_hub()))
        return Examined(letter, max(alike, 0), None, workflow, problems, row)

    def retry(self, letter: Letter, patch: Mapping[str, object] | None = None) -> Retried:
        """Reads a letter (or what a patch makes of it) and checks it against the hub of today; files it where it is
        good. Else nothing is changed. Raises UnreachableError, and PeachError where the hub cannot be read."""
        known = ingest.known_services(self._load_hub())
        try:
            workflow = read(letter, self._limits) if patch is None else patched(letter, patch, self._limits)
        except PeachError as error:
            return Retried(letter.number, None, mask(error.message), error.hint, exit=error.exit)
        problems = check(workflow, known)
        if problems:
            text = "; ".join(problem.message for problem in problems[:20])
            return Retried(letter.number, None, mask(text), None, problems, Exit.FAILED)
        try:
            filed = self._file(letter, workflow, patched=patch is not None)
        except StateError as error:  # dropped meanwhile, or its row is no refused one any more
            return Retried(letter.number, None, error.message, error.hint, exit=error.exit)
        return Retried(letter.number, filed.id)

    def _file(self, letter: Letter, workflow: Workflow, *, patched: bool) -> Filed:
        before = None if letter.queue_id is None else self._store.get(letter.queue_id)
        body, name = (wire.encode_workflow(workflow), "") if patched else (letter.body, letter.file or "")
        entry = ingest.entry_of(workflow, body, name, 1 if before is None else before.priority)
        filed = ingest.unique_name(entry, lambda named: self._store.refile(letter.number, named))
        fail_point("letters:filed")
        if self._embedded:
            try:
                ingest.place_scripts(self._store, [filed], self._queue_folder)
            except FilesError as error:
                logger.warning("%s; it is tried again by whoever takes the workflow", printable(error.message, 500))
        if before is not None:
            self._remove_log(before)
        self._remove_copies([letter])
        return filed

    def drop(self, letters: Sequence[Letter]) -> int:
        """Forgets letters; returns how many were still there. A row that one stands for stays, refused."""
        dropped = self._store.drop_letters([letter.number for letter in letters])
        fail_point("letters:dropped")
        self._remove_copies(letters)
        return dropped

    def _remove_log(self, row: Row) -> None:
        """The packed log of a refusal, which its row names no more."""
        if re.fullmatch(rf"[0-9]+_workflow_{row.id}\.tar", row.output_file):
            with suppress(OSError):
                (self._download_files / row.output_file).unlink()
            fail_point("letters:unpacked")

    def _remove_copies(self, letters: Sequence[Letter]) -> None:
        origins = [letter.origin for letter in letters if letter.origin is not None and letter.file is not None]
        if self._inbox is not None and origins:
            remove_refused(self._inbox, origins)
            fail_point("letters:removed")
