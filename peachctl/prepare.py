"""What an attempt starts with: its folder, its script and its job.

`prepare` reads and writes files only; the loop has a thread for it.
"""

import os
from pathlib import Path

from peachctl import drafts, files, script, script_files
from peachctl.errors import PeachError, WireError
from peachctl.failpoint import fail_point
from peachctl.names import printable, quoted
from peachctl.options import Options
from peachctl.runtime.job import Job
from peachctl.store import Claim

_NAME_BYTES = 255


def prepare(claim: Claim, queue: Path, workflow_temp: Path, *, edited: bool) -> None:
    """Makes the folder of a claim's attempt (`files.attempt_folder`) and writes the script to run into it.

    edited: whether a script that was edited runs as edited (`watch`). Raises FilesError or OSError for what the host
    is at fault, any other PeachError for what the row is.
    """
    text = text_to_run(claim, queue, edited=edited)
    folder = files.prepare_attempt(workflow_temp, claim.id, claim.attempt, claim.resumed, claim.row.execution_file)
    fail_point("execute:prepared")
    files.write(folder.script, text)
    fail_point("execute:written")


def text_to_run(claim: Claim, queue: Path, *, edited: bool) -> str:
    """The text to run: what is rendered from the row, unless the file is somebody's own and may run (`edited`). The
    file's checksum is no more than a hint for people: whoever edits the one can make the other. Raises PeachError."""
    name = claim.row.execution_file
    try:
        rendered = drafts.text_of(name, claim.row.workflow_json)
    except WireError as error:
        raise PeachError(
            f"workflow_json of this row cannot be read ({error.message})", "the workflow must be sent again"
        ) from error
    text = None
    if name:
        if Path(name).name != name or "\0" in name or name == "..":
            # Clients write this column too.
            raise PeachError(f"execution_file {quoted(name)} is a path, not a name in the queue folder")
        if len(os.fsencode(name)) > _NAME_BYTES:
            raise PeachError(f"execution_file {quoted(name)} is too long for a file's name")
        text = script_files.read_script(queue / name)
    header = script.read_header(text, rendered) if text is not None else None
    if rendered is None:
        if text is not None and edited and (header is None or header.state != "torn"):
            return text
        raise PeachError("the workflow has no nodes", "only `peachctl watch` runs scripts of somebody's own")
    if text is not None and header is not None and text != rendered and header.state != "torn":
        if edited:
            return text
        if header.state == "edited" or _differs(header, rendered):
            raise PeachError(
                f"the script {printable(name)} was edited after it was written",
                "delete it to have it written anew, or run it with `peachctl watch` or `peachctl run-script`",
            )
    if name and (text is None or (header is not None and header.state == "torn")):
        script_files.place(queue, name, rendered)
        fail_point("execute:rendered")
    return rendered


def job(claim: Claim, folder: files.AttemptFolder, options: Options) -> Job:
    """What the workflow's process is told. folder: of this attempt."""
    return Job(
        queue_id=claim.id,
        attempt=claim.attempt,
        script=str(folder.script),
        hub=claim.row.hub or str(options.hub),
        scheduler=claim.row.scheduler or options.scheduler,
        workers=options.workers,
        folder=str(folder.folder),
        download_workflows=str(options.download_workflows),
        download_files=str(options.download_files),
        published=str(folder.published),
        results=str(folder.results),
        reuse=claim.resumed,
        debug=options.debug,
        plain=not options.edited,
        reach=options.reach,
    )


def _differs(header: script.Header, rendered: str) -> bool:
    """Whether an intact script does something else than the row says. Another format: another peachctl wrote it."""
    ours = script.read_header(rendered)
    return ours is not None and header.format == ours.format and header.checksum != ours.checksum
