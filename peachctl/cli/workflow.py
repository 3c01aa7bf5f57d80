"""`run`, `run-script`, `submit`, `decode`, `encode`, `check`: one workflow at a time."""

import contextlib
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peachctl.cli.render import Format, Output, Reveal, mark, screen
from peachctl.errors import ConfigError, Exit, PeachError, StateError, WireError

if TYPE_CHECKING:
    from rich.console import Console

    from peachctl.config import Config
    from peachctl.workflow import Problem, Workflow

_FILED_WITHIN = 5.0
"""Seconds for which `submit` waits for ingest where it is not told to wait for more."""

File = Annotated[str, typer.Argument(metavar="FILE", help="A workflow: .bin (Avro), .json or .wf; - is stdin.")]
Pdb = Annotated[bool, typer.Option("--pdb", help="Stop in a debugger where a node fails (runs one node at a time).")]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="sync|threads|processes", help="How the nodes of the workflow are run."),
]
HubDir = Annotated[Path | None, typer.Option("--hub", metavar="DIR", help="The service hub to run it against.")]


class Shape(StrEnum):
    """What `decode` shows."""

    TREE = "tree"
    JSON = "json"
    DOT = "dot"
    MERMAID = "mermaid"
    SVG = "svg"
    SCRIPT = "script"


class Kind(StrEnum):
    """What kind of message `decode` reads."""

    AUTO = "auto"
    WORKFLOW = "workflow"
    SERVICES = "services"


def register(app: typer.Typer) -> None:
    for name, command in (
        ("run", run),
        ("run-script", run_script),
        ("submit", submit),
        ("decode", decode),
        ("encode", encode),
        ("check", check),
    ):
        app.command(name)(command)


def _scheduler(word: str | None) -> str | None:
    if word == "distributed":
        raise ConfigError("--scheduler distributed is not in this version yet", "use processes, threads or sync")
    if word is not None and word not in ("sync", "threads", "processes"):
        raise ConfigError(f"--scheduler: {word!r} is not one of sync, threads, processes")
    return word


def run(
    file: File, hub: HubDir = None, scheduler: Scheduler = None, pdb: Pdb = False, output: Output = Format.TABLE
) -> None:
    """Runs one workflow here and now, from decoding to packed output."""
    from peachctl import app, by_hand, present
    from peachctl.cli.live import Progress

    config = screen.config()
    scheduler = _scheduler(scheduler)
    screen.log_to_stderr() if screen.verbose else None
    progress = Progress(Path(file).name)
    with progress if not pdb else contextlib.nullcontext():
        row = by_hand.run_file(
            config,
            file,
            hub=None if hub is None else hub.absolute(),
            scheduler=scheduler,
            observer=progress.hear if not pdb else (lambda _claim, _event: None),
            debug=pdb,
        )
    with contextlib.closing(app.open_store(config)) as store:
        nodes = store.nodes(row.id)
    value = present.detail(row, nodes, config.folders.download_files)
    folder = config.folders.workflow_temp / f"workflow_{row.id}"
    screen.result(value, lambda console: _ended(console, value, folder))
    if row.status.word == "cancelled":
        raise typer.Exit(Exit.INTERRUPTED)
    if row.status.word != "success":
        raise typer.Exit(Exit.WORKFLOW)


def _ended(console: "Console", value: dict[str, Any], folder: Path) -> None:
    from rich.text import Text

    from peachctl.names import printable

    line = Text.assemble(f"Workflow {value['id']} ", mark(value["status"]))
    console.print(line)
    if value["reason"]:
        console.print(f"  {printable(value['reason'], 2000)}")
    for node in value["nodes"]:
        if node["status"] == "error" and node["error"] and node["error"].get("traceback"):
            console.print(f"\n  node {node['id']!r}", style="red")
            for text in node["error"]["traceback"].rstrip().splitlines():
                console.print(f"  {printable(text, 500)}", style="bright_black")
    console.print(f"  files   {folder}", soft_wrap=True)
    if value["output_path"]:
        console.print(f"  packed  {value['output_path']}", soft_wrap=True)
    pages = sorted(folder.glob("*.html")) if folder.is_dir() else []
    for page in pages[:3]:
        console.print(f"  look at {page}", soft_wrap=True)
    screen.say(
        f"Next: peachctl queue show {value['id']}"
        + ("" if value["status"] == "success" else f"   or   peachctl queue logs {value['id']}")
    )


def run_script(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A generated script.")], pdb: Pdb = False
) -> None:
    """Runs one generated script in this terminal; no row, no database needed."""
    if str(script) == "-":
        script = _from_stdin()
    if not script.is_file():
        raise PeachError(f"{script}: no such file")
    from peachctl.script import read_header

    header = read_header(script.read_bytes())
    if header is not None and header.state == "torn":
        raise PeachError(f"{script}: the script is cut off", "render it again: peachctl decode -o script FILE")
    if screen.config_file is not None:
        os.environ["PEACHCTL_CONFIG"] = str(screen.config_file.absolute())
    if pdb:
        os.environ["PEACHCTL_PDB"] = "1"
    screen.config()  # a mistake in it is said before anything runs
    # The script gets an interpreter of its own, as everywhere: nothing of this command's imports is in its way.
    os.execv(  # noqa: S606 - a list, never a shell
        sys.executable, [sys.executable, "-m", "peachctl.runtime", str(script.absolute())]
    )


def _from_stdin() -> Path:
    """A script from standard input as a file; it stays, for tracebacks name it."""
    import tempfile

    with tempfile.NamedTemporaryFile("wb", prefix="peachctl-", suffix=".py", delete=False) as stream:
        stream.write(sys.stdin.buffer.read())
    return Path(stream.name)


def submit(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Workflow files; - is stdin.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow them to their end.")] = False,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="T", help="Give up waiting after T.")] = None,
    priority: Annotated[int, typer.Option("--priority", metavar="N", help="Higher runs first.")] = 1,
    output: Output = Format.TABLE,
) -> None:
    """Hands workflows to the installation: all of them, or none where one is bad."""
    from peachctl import app, by_hand
    from peachctl.config import seconds
    from peachctl.store.rules import check_priority

    config = screen.config()
    app.refuse_unready(config)
    limit = None if timeout is None else seconds(timeout)
    try:
        check_priority(priority)
    except PeachError as error:
        raise ConfigError(f"--priority: {error.message}") from None
    if app.on_kafka(config):
        _submit_over_kafka(config, files, priority, wait=wait, limit=limit)
        return
    app.make_folders(config)
    entries = [(file, by_hand.entry_of(config, file, priority=priority)) for file in files]
    with contextlib.closing(app.open_store(config)) as store:
        done = by_hand.submit(config, store, entries)
        status = dict.fromkeys((one.id for one in done), "queued")
        if wait:
            rows = by_hand.wait_for(store, [one.id for one in done], limit)
            status = {row.id: row.status.word for row in rows}
    _show_submitted([{"file": one.file, "id": one.id, "status": status[one.id], "reason": None} for one in done])
    if not wait:
        screen.say("Next: peachctl consume execute   (runs them)   or   peachctl queue list")
    if any(word in ("error", "cancelled") for word in status.values()):
        raise typer.Exit(Exit.WORKFLOW)


def _submit_over_kafka(config: "Config", files: list[str], priority: int, *, wait: bool, limit: float | None) -> None:
    import time

    from peachctl import app, by_hand
    from peachctl.masking import mask

    began = time.monotonic()
    patience = limit if wait else _FILED_WITHIN
    sent = by_hand.submit_over_kafka(config, files, priority, patience, lambda text: screen.say(text, style="yellow"))
    late: PeachError | None = None
    status: dict[int, tuple[str, str | None]] = {}
    filed = [one.id for one in sent if one.id is not None and one.status == "queued"]
    if wait and filed:
        with contextlib.closing(app.open_store(config)) as store:
            try:
                rows = by_hand.wait_for(store, filed, limit, passed=time.monotonic() - began)
            except PeachError as error:
                late, rows = error, [row for id in filed if (row := store.get(id)) is not None]
        status = {row.id: (row.status.word, row.reason and mask(row.reason)) for row in rows}
    value = []
    for one in sent:
        word, reason = status.get(one.id or 0, (one.status, one.reason))
        value.append({"file": one.file, "id": one.id, "status": word, "reason": reason})
    failed = next((one.error for one in sent if one.error is not None), late)
    _show_submitted(value, failed)
    if failed is not None:
        raise failed
    words = {str(one["status"]) for one in value}
    if "sent" in words:
        screen.say("Not filed yet; ingest does that: peachctl consume ingest", style="yellow")
    elif not wait and "queued" in words:
        screen.say("Next: peachctl queue list")
    if "refused" in words:
        screen.say("Refused messages: peachctl dlq list", style="yellow")
        raise typer.Exit(Exit.FAILED)
    if words & {"error", "cancelled"}:
        raise typer.Exit(Exit.WORKFLOW)


def _show_submitted(value: list[dict[str, Any]], failed: PeachError | None = None) -> None:
    """failed: is said afterwards, and not twice."""
    from peachctl.cli.render import grid
    from peachctl.names import printable

    screen.result(
        value,
        lambda console: grid(
            console,
            ("ID", "STATUS", "FILE"),
            [("" if v["id"] is None else str(v["id"]), mark(v["status"]), printable(v["file"])) for v in value],
            "",
        ),
    )
    for one in value:
        if one["reason"] and (failed is None or one["reason"] != failed.message):
            screen.say(f"{printable(one['file'])}: {printable(one['reason'], 2000)}", style="yellow")


def decode(
    file: File,
    output: Annotated[Shape, typer.Option("-o", "--output", help="What to show.")] = Shape.TREE,
    kind: Annotated[Kind, typer.Option("--type", help="What kind of message it is.")] = Kind.AUTO,
    reveal: Reveal = False,
) -> None:
    """Shows a message: a workflow, a service list or a `service.config`."""
    import hashlib

    from peachctl import app, by_hand, wire

    if output is Shape.JSON:
        screen.format = Format.JSON
    config = screen.config()
    body, name = by_hand.read_input(config, file)
    with named(name):
        if kind is Kind.SERVICES or (kind is Kind.AUTO and _is_services(name, body)):
            _show_services(body, output)
            return
        try:
            workflow = wire.decode_file(body, name, app.limits(config))
        except WireError:
            if kind is Kind.WORKFLOW or not _is_service_list(body):
                raise
            _show_services(body, output)
            return
    if output is Shape.JSON:
        screen.text(wire.workflow_json_text(workflow))
    elif output is Shape.SCRIPT:
        from peachctl.script import render
        from peachctl.workflow import check as problems_of

        with named(name):
            problems = problems_of(workflow, None)
            if problems:
                raise PeachError("; ".join(one.message for one in problems), "see: peachctl check FILE")
            avro = wire.encode_workflow(workflow)
            screen.text(render(workflow, hashlib.md5(avro, usedforsecurity=False).hexdigest()))
    else:
        _draw(workflow, output, reveal=reveal)


def _draw(workflow: "Workflow", shape: Shape, *, reveal: bool) -> None:
    from peachctl import app, draw

    try:
        services = app.load_hub(screen.config()).by_name
    except PeachError:
        services = {}
    if shape is Shape.TREE:
        screen.console(stderr=False).print(draw.tree(workflow, services, reveal=reveal))
    else:
        maker = {Shape.DOT: draw.dot, Shape.MERMAID: draw.mermaid, Shape.SVG: draw.svg}[shape]
        screen.text(maker(workflow, services, reveal=reveal))


def _is_services(name: str, body: bytes) -> bool:
    return Path(name).name == "service.config" or body[:4] == b"Obj\x01"


def _is_service_json(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and "nodes" not in value and "inputPorts" in value)


def _is_service_list(body: bytes) -> bool:
    from peachctl import wire

    try:
        return bool(wire.decode_services(body))
    except WireError:
        return False


def _show_services(body: bytes, shape: Shape) -> None:
    import json

    from peachctl import wire

    container = body[:4] == b"Obj\x01"
    services = [wire.decode_service_config(body)] if container else wire.decode_services(body)
    if shape is Shape.JSON:
        screen.text(json.dumps(wire.services_to_json(services), ensure_ascii=False, indent=1))
    elif shape is Shape.TREE:
        from peachctl.cli.services import service_tree

        for service in services:
            screen.console(stderr=False).print(service_tree(service))
    else:
        raise ConfigError(f"-o {shape.value}: a service list can be shown as tree or json")


@contextlib.contextmanager
def named(name: str) -> Any:
    """Errors inside name the input that they are about."""
    try:
        yield
    except PeachError as error:
        error.message = f"{name}: {error.message}"
        error.args = (error.message,)
        raise


def encode(
    file: File,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write (else stdout).")] = None,
    kind: Annotated[Kind, typer.Option("--type", help="What the JSON is.")] = Kind.AUTO,
) -> None:
    """Writes JSON as Avro binary: a workflow, or services as `decode` shows them.

    A list of services becomes a service list; a single service, or a list of one where --out names a service.config,
    becomes a service.config.
    """
    from peachctl import app, by_hand, wire

    config = screen.config()
    body, name = by_hand.read_input(config, file)
    limits = app.limits(config)
    with named(name):
        value = wire.parse_json(body, limits.json_bytes)
        if kind is Kind.SERVICES or (kind is Kind.AUTO and _is_service_json(value)):
            services = wire.services_from_json(value, limits)
            config_file = out is not None and out.name == "service.config"
            if config_file and len(services) != 1:
                raise PeachError(f"{len(services)} services, where a service.config holds one")
            if config_file or not isinstance(value, list):
                avro = wire.encode_service_config(services[0])
            else:
                avro = wire.encode_services(services)
        else:
            avro = wire.encode_workflow(wire.workflow_from_json(value, limits))
    if out is not None:
        try:
            out.write_bytes(avro)
        except OSError as error:
            raise PeachError(f"{out}: {error.strerror}") from error
        screen.say(f"{len(avro)} bytes written to {out}. Next: peachctl decode {out}")
        return
    if sys.stdout.isatty():
        raise ConfigError("Avro bytes are not for a terminal", "name a file with --out FILE, or redirect stdout")
    sys.stdout.buffer.write(avro)


def check(
    target: Annotated[str, typer.Argument(metavar="FILE|ID", help="A workflow file, or the id of a queued one.")],
    hub: HubDir = None,
    output: Output = Format.TABLE,
) -> None:
    """Checks the graph, and every service, version, port and parameter against the hub. Exit 1 on a problem."""
    from peachctl import app, by_hand, wire
    from peachctl.workflow import check as problems_of

    config = screen.config()
    if target.isascii() and target.isdigit() and not Path(target).exists():
        with contextlib.closing(app.open_store(config)) as store:
            row = store.get(int(target))
        if row is None:
            raise StateError(f"there is no workflow {target}", "peachctl queue list")
        with named(f"workflow {target}"):
            workflow = wire.workflow_from_json(row.workflow_json, app.limits(config))
    else:
        body, name = by_hand.read_input(config, target)
        with named(name):
            workflow = wire.decode_file(body, name, app.limits(config))
    found = app.load_hub(config, hub)
    problems = problems_of(workflow, found.by_name)
    value = {
        "ok": not problems,
        "problems": [{"code": one.code, "where": one.where, "message": one.message} for one in problems],
    }
    screen.result(value, lambda console: _show_problems(console, problems, workflow))
    if problems:
        raise typer.Exit(Exit.FAILED)


def _show_problems(console: "Console", problems: "list[Problem]", workflow: "Workflow") -> None:
    if not problems:
        console.print(f"✓ {len(workflow.nodes)} nodes, no problem", style="green")
    for one in problems:
        console.print(f"✗ {one.where or 'workflow'}: {one.message}  [{one.code}]", style="red")
