"""`queue list|show|logs|cancel|retry`."""

import contextlib
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peachctl.cli.render import Format, Output, Reveal, ago, duration, grid, mark, screen
from peachctl.errors import ConfigError, StateError, UnreachableError

if TYPE_CHECKING:
    from rich.console import Console

    from peachctl.store import NodeState, Row, Store

queue = typer.Typer(no_args_is_help=True, help="The queue: what waits, runs and has ended.")

Id = Annotated[int, typer.Argument(metavar="ID", help="The workflow's id in the queue.")]
Ids = Annotated[list[int], typer.Argument(metavar="ID...", help="Ids of workflows in the queue.")]


def register(app: typer.Typer) -> None:
    app.add_typer(queue, name="queue")


@queue.command("list")
def list_(
    user: Annotated[str | None, typer.Option("--user", help="Of this user only.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="queued|processing|cancelled|success|error", help="In this state.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The newest N only.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Workflows, the newest first."""
    from peachctl import app, present

    wanted = None
    if status is not None:
        try:
            wanted = present.status_of(status)
        except KeyError:
            raise ConfigError(
                f"--status: {status!r} is not one of queued, processing, cancelled, success, error"
            ) from None
    config = screen.config()
    with contextlib.closing(app.open_store(config)) as store:
        rows = store.rows(user=user, status=wanted, limit=limit)
    screen.result([present.row(row) for row in rows], lambda console: _rows(console, rows))


def _rows(console: "Console", rows: "list[Row]") -> None:
    from peachctl.masking import mask
    from peachctl.names import printable

    grid(
        console,
        ("ID", "STATUS", "%", "NAME", "USER", "SENT", "WHY"),
        [
            (
                str(row.id),
                mark(row.status.word),
                str(row.progress),
                mask(printable(row.name, 40)),
                mask(printable(row.user, 30)),
                ago(row.sending_date),
                mask(printable(row.reason or "", 80)),
            )
            for row in rows
        ],
        "The queue is empty. Next: peachctl run FILE   or   peachctl submit FILE",
    )


def _existing(id: int) -> "tuple[Row, list[NodeState], Any]":
    from peachctl import app

    config = screen.config()
    with contextlib.closing(app.open_store(config)) as store:
        row = store.get(id)
        if row is None:
            raise StateError(f"there is no workflow {id}", "peachctl queue list")
        return row, store.nodes(id), config


@queue.command("show")
def show(id: Id, reveal: Reveal = False, output: Output = Format.TABLE) -> None:
    """One workflow with the state of each node."""
    from peachctl import present

    row, nodes, config = _existing(id)
    value = present.detail(row, nodes, config.folders.download_files, reveal=reveal)
    screen.result(value, lambda console: _detail(console, value, row, nodes))


def _detail(console: "Console", value: dict[str, Any], row: "Row", nodes: "list[NodeState]") -> None:
    from rich.text import Text

    from peachctl.names import printable

    console.print(Text.assemble((f"Workflow {row.id}  ", "bold"), mark(row.status.word), f"  {row.progress} %"))
    facts = (
        ("name", printable(value["name"], 200)),
        ("user", printable(value["user"], 100)),
        ("why", value["reason"]),
        ("sent", f"{row.sending_date} ({ago(row.sending_date)})" if row.sending_date else None),
        ("ended", f"{row.finished_date} ({ago(row.finished_date)})" if row.finished_date else None),
        ("attempt", f"{row.attempt}" + (f" on {row.host}" if row.host else "") if row.attempt else None),
        ("priority", row.priority),
        ("script", row.execution_file),
        ("output", value["output_path"]),
    )
    for label, fact in facts:
        if fact is not None:
            console.print(f"  {label:9}{printable(str(fact), 2000)}", soft_wrap=True)
    if nodes:
        console.print()
    grid(
        console,
        ("NODE", "SERVICE", "STATUS", "TOOK", "SAYS"),
        [
            (
                printable(node.id, 40),
                f"{printable(node.service, 30)} v{node.version}",
                mark(node.status.value),
                duration(node.finished - node.started) if node.finished and node.started else "",
                printable(f"{node.error.get('type')}: {node.error.get('message')}", 120) if node.error else "",
            )
            for node in nodes
        ],
        "No node is known yet.",
    )


@queue.command("logs")
def logs(
    id: Id,
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Of this node only.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the workflow has ended.")] = False,
    reveal: Reveal = False,
    output: Output = Format.TABLE,
) -> None:
    """What a workflow, or one of its nodes, has printed and logged.

    As JSON a list of `node level line`: node and level are null for what was printed and not logged.
    """
    from peachctl import app
    from peachctl import logs as written
    from peachctl.masking import mask

    row, nodes, config = _existing(id)
    if node is not None and node not in {one.id for one in nodes}:
        raise StateError(f"workflow {id} has no node {node!r}", f"peachctl queue show {id}")
    log = written.Log(config.folders.workflow_temp, id, node)
    ids = {one.id for one in nodes}
    lines: list[dict[str, Any]] = []
    anything = False
    with contextlib.closing(app.open_store(config)) as store:
        while True:
            latest = store.get(id)
            over = not follow or latest is None or latest.status.ended
            while new := log.more(last=over):
                anything = True
                text = _plain(new if reveal else mask(new))
                lines += [_line(line, ids) for line in text.splitlines()]
                if screen.format is not Format.JSON:
                    screen.result(lines, lambda _, text=text: screen.text(text))  # type: ignore[misc]
                    lines = []
                if not follow:
                    break
            if over:
                break
            time.sleep(0.3)
    if screen.format is Format.JSON:
        screen.result(lines, lambda _: None)
    elif not anything:
        screen.say(row.reason or "Nothing was printed.")


def _line(line: str, ids: set[str]) -> dict[str, Any]:
    """A line with the node that logged it, if one did. ids: of the workflow's nodes; what services name otherwise
    (`A_custom_script`) counts too, unless a node's id holds what looks like the end of one."""
    found = re.match(r"\[(.+?)\]\((info|warning|error)\): \"", line)
    for longer in re.finditer(r"\]\((info|warning|error)\): \"", line):
        if line[1 : longer.start()] in ids:
            return {"node": line[1 : longer.start()], "level": longer[1], "line": line}
    return {"node": found[1] if found else None, "level": found[2] if found else None, "line": line}


def _plain(text: str) -> str:
    """What services print, without what would command a terminal: colours, titles, lines drawn over themselves."""
    from peachctl.names import printable

    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    return "\n".join(printable(line, len(line) + 1) for line in lines)


@queue.command("cancel")
def cancel(ids: Ids, output: Output = Format.TABLE) -> None:
    """Cancels workflows that wait or run; what runs of them is ended by its executor."""
    _change(ids, lambda store, id: f"workflow {id} is cancelled (it was {store.cancel(id).word})", "retry")


@queue.command("retry")
def retry(
    ids: Ids,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Anything that ended, and run also what succeeded.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Queues workflows again that ended in error or were cancelled, or that an adoption found unfinished.

    Nodes that succeeded keep their results, unless told otherwise.
    """

    def again(store: "Store", id: int) -> str:
        store.retry(id, from_start=from_start)
        return f"workflow {id} is queued again" + (", from its start" if from_start else "")

    _change(ids, again, "show")


def _change(ids: list[int], change: "Callable[[Store, int], str]", after: str) -> None:
    """Does it to each workflow by itself: one that is not there, or not in a state for it, holds up no other. change:
    does it and returns what was done. after: the verb to type next. Raises typer.Exit with the worst exit status."""
    from peachctl import app, present

    done: list[Row] = []
    told: list[str] = []
    worst = 0
    with contextlib.closing(app.open_store(screen.config())) as store:
        for id in dict.fromkeys(ids):
            try:
                told.append(change(store, id))
            except UnreachableError:
                if told:
                    screen.say("; ".join(told))
                raise
            except StateError as error:
                screen.error(error)
                worst = max(worst, error.exit)
                continue
            row = store.get(id)
            if row is not None:  # else a client has just deleted it
                done.append(row)
    screen.result(
        [present.row(row) for row in done],
        lambda console: console.print("\n".join(f"{line[0].upper()}{line[1:]}." for line in told)) if told else None,
    )
    if told and screen.format is Format.TABLE:
        next_one = f"peachctl queue {after} {done[0].id}" if len(done) == 1 else "peachctl queue list"
        screen.say(f"Next: {next_one}")
    if worst:
        raise typer.Exit(worst)
