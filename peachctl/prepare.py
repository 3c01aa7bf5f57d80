"""What an attempt starts with: its folder and its script. Reads and writes files only; the loop has a thread for it."""

import re
import sys
from pathlib import Path

from peachctl import files, script, wire
from peachctl.errors import PeachError
from peachctl.failpoint import fail_point
from peachctl.names import printable, quoted
from peachctl.store import Claim

# What was filed was within the limits of its day.
_ANY = wire.Limits(message_bytes=sys.maxsize, nodes=sys.maxsize)
_MD5 = re.compile(r"_([0-9a-f]{32})_")


def prepare(claim: Claim, queue: Path, workflow_temp: Path, *, edited: bool) -> None:
    """Makes the folder of a claim's attempt (`files.attempt_folder`) and writes the script to run into it.

    edited: whether a script that was edited runs as edited (`watch`). Raises FilesError or OSError for what the host
    is at fault, any other PeachError for what the row is.
    """
    text = text_to_run(claim, queue, edited=edited)
    folder = files.prepare_attempt(workflow_temp, claim.id, claim.attempt, claim.resumed)
    fail_point("execute:prepared")
    files.write(folder.script, text)
    fail_point("execute:written")


def text_to_run(claim: Claim, queue: Path, *, edited: bool) -> str:
    """The text to run: the file's as far as it may be trusted, else rendered from the row. Raises PeachError."""
    name = claim.row.execution_file
    if Path(name).name != name or "\0" in name:
        # Clients write this column too.
        raise PeachError(f"execution_file {quoted(name)} is a path, not a name in the queue folder")
    text = files.read_script(queue / name)
    foreign = is_foreign(claim.row.workflow_json)
    rendered = None if foreign else render_row(claim.row.workflow_json, name)
    header = script.read_header(text, rendered) if text is not None else None
    if text is not None and header is not None and header.state == "intact":
        return text
    if text is not None and header is not None and header.state == "edited":
        if edited:
            return text
        raise PeachError(
            f"the script {printable(name)} was edited after it was written",
            "delete it to have it written anew, or run it with `peachctl watch` or `peachctl run-script`",
        )
    if rendered is None:
        if text is not None and header is None and edited:
            return text
        raise PeachError("the workflow has no nodes", "only `peachctl watch` runs scripts of somebody's own")
    if text is None or header is not None:
        files.place(queue, name, rendered)
        fail_point("execute:rendered")
    return rendered


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
