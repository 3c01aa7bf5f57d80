"""`dlq list|show|retry|drop`: dead letters, the messages that were refused."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peachctl.cli.render import Format, Output, Reveal, ago, agreed, grid, mark, paragraph, screen
from peachctl.errors import ConfigError, Exit, PeachError, StateError
from peachctl.names import printable

if TYPE_CHECKING:
    from rich.console import Console

    from peachctl.config import Config
    from peachctl.letters import Examined, Retried
    from peachctl.store import Letter, Store

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: refused messages.")

Numbers = Annotated[list[int] | None, typer.Argument(metavar="N...", help="Numbers of letters.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="CODE", help="Those that were refused for this, such as `cycle`.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(dlq, name="dlq")


def _advise(text: str) -> None:
    """What happened and what to type next, for people: `-o json` is read by programs."""
    if screen.format is Format.TABLE:
        screen.say(text)


@contextlib.contextmanager
def _opened() -> "Iterator[tuple[Config, Store]]":
    from peachctl import app

    config = screen.config()
    with contextlib.closing(app.open_store(config)) as store:
        yield config, store


@dlq.command("list")
def list_(reason: Reason = None, output: Output = Format.TABLE) -> None:
    """Refused messages, the oldest first."""
    from peachctl import letters, present

    with _opened() as (_, store):
        found = store.letters(bodies=False)
    found = found if reason is None else letters.chosen(found, [], reason)
    screen.result([present.letter(one) for one in found], lambda console: _rows(console, found))
    if found:
        _advise(f"Next: peachctl dlq show {found[0].number}")


def _rows(console: "Console", found: "list[Letter]") -> None:
    from peachctl import letters

    grid(
        console,
        ("#", "RECEIVED", "REASON", "FROM", "ID", "SAYS"),
        [
            (
                str(one.number),
                ago(datetime.fromtimestamp(one.received)),
                letters.code(one),
                printable(_source(one), 60),
                "" if one.queue_id is None else str(one.queue_id),
                _short(one),
            )
            for one in found
        ],
        "There are no dead letters.",
        cut=("FROM", "SAYS"),
    )


def _short(one: "Letter", most: int = 160) -> str:
    """The sentence without the byte offset."""
    return re.sub(r"\Abyte \d+(?:, field |: )|\Afield ", "", _sentence(one, most))


def _sentence(one: "Letter", most: int) -> str:
    """The reason without its code, which stands beside it."""
    from peachctl.masking import mask

    return printable(mask(one.reason.partition(": ")[2] or one.reason), most)


def _source(one: "Letter") -> str:
    if one.file is not None:
        return Path(one.file).name
    if one.origin is not None:
        return f"{one.origin.topic}[{one.origin.partition}] {one.origin.offset}"
    return ""


@dlq.command("show")
def show(
    number: Annotated[int, typer.Argument(metavar="N", help="The letter's number.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE.json", help="Write what there is to edit for `retry --patch` (exact, unmasked)."
        ),
    ] = None,
    reveal: Reveal = False,
    output: Output = Format.TABLE,
) -> None:
    """One refused message: why, where in it, what is expected there, and what it holds up to there.

    With --out also writes the workflow as JSON, as far as it decodes, as a beginning for `dlq retry N --patch`.
    """
    from peachctl import app, letters

    with _opened() as (config, store):
        examined = app.open_letters(config, store).examine(number)
    if out == "-":
        screen.text(letters.starting_point(examined))
        return
    if out is not None:
        _write(out, letters.starting_point(examined))
    value = _detail(examined, reveal=reveal)
    screen.result(value, lambda console: _draw(console, examined, value, reveal=reveal))
    if out is not None:
        _advise(f"{out} is written. Next: edit it, then   peachctl dlq retry {number} --patch {out}")
    else:
        _advise(f"Next: {value['next']}")


def _write(path: str, text: str) -> None:
    """For its owner alone: it may hold passwords. Does not write over a file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise PeachError(f"{path}: {error.strerror}", "name another file with --out") from error


def _detail(examined: "Examined", *, reveal: bool) -> dict[str, Any]:
    from peachctl import letters, present
    from peachctl.masking import mask, mask_value

    one, fault = examined.letter, examined.fault
    offset = one.byte_offset if fault is None or fault.error.offset is None else fault.error.offset
    decoded = letters.decoded_of(examined)
    problems = None
    if examined.problems is not None:
        problems = [{"code": p.code, "where": p.where, "message": mask(p.message)} for p in examined.problems]
    return {
        **present.letter(one),
        "byte_offset": offset,
        "line": fault.line if fault else None,
        "column": fault.column if fault else None,
        "expected": fault.expected if fault else None,
        "spot": _spot(examined, offset, reveal=reveal),
        "alike": examined.alike,
        "complete": letters.whole(one),
        "decodes": examined.workflow is not None,
        "decoded": decoded if reveal else mask_value(decoded),
        "problems": problems,
        "next": _next(examined),
    }


def _spot(examined: "Examined", offset: int | None, *, reveal: bool) -> list[str] | None:
    """Lines of the message around what is wrong."""
    from peachctl.hexdump import around, around_text

    one, fault = examined.letter, examined.fault
    if fault is None:
        return None
    if fault.line is not None and fault.column is not None and fault.error.offset is None:
        return around_text(one.body.decode("utf-8-sig", "replace"), fault.line, fault.column, reveal=reveal)
    return around(one.body, offset, reveal=reveal) if offset is not None and offset <= len(one.body) else None


def _next(examined: "Examined") -> str:
    from peachctl import letters
    from peachctl.store import Status

    number, row = examined.letter.number, examined.row
    drop = f"peachctl dlq drop {number}"
    if row is not None and (row.status is not Status.ERROR or row.attempt):
        return f"{drop}   (workflow {row.id} is no refused one any more)"
    if not letters.whole(examined.letter):
        return f"send the message again, then   {drop}"
    if examined.workflow is not None:
        if examined.problems == []:
            return f"peachctl dlq retry {number}   (nothing is wrong with it today)"
        return f"peachctl dlq retry {number} --patch FILE.json   or   {drop}"
    try:
        letters.starting_point(examined)
    except StateError:
        return f"{drop}   or   peachctl dlq retry {number} --patch WORKFLOW.json"
    return f"peachctl dlq show {number} --out FILE.json   (to be edited, for retry --patch)"


def _draw(console: "Console", examined: "Examined", value: dict[str, Any], *, reveal: bool) -> None:
    from rich.text import Text

    one, fault = examined.letter, examined.fault
    console.print(Text.assemble((f"Dead letter {one.number}  ", "bold"), ("✗ " + value["code"], "red")))
    told = "; ".join(problem["message"] for problem in value["problems"] or [])
    if not told.startswith(_sentence(one, 2000)):
        paragraph(console, _short(one, 2000), "red")
    if fault is not None and fault.error.hint:
        paragraph(console, fault.error.hint, "yellow")
    console.print()
    for label, fact in _facts(examined):
        paragraph(console, fact, indent=f"  {label:9} ", hang=12)
    if value["spot"]:
        where = f"byte {value['byte_offset']}"
        if value["line"] is not None:
            where = f"line {value['line']}, column {value['column']}"
        console.print()
        console.print(Text.assemble((f"At {where}", "bold"), f"  {printable(value['field'] or '', 300)}"))
        if value["expected"]:
            paragraph(console, value["expected"], "green", indent="  expected  ", hang=12)
        for line in value["spot"]:
            console.print(f"  {line}", style="red" if line.strip() in ("^", "^^") else "bright_black", soft_wrap=True)
    if examined.workflow is not None:
        _draw_workflow(console, examined, reveal=reveal)
    elif isinstance(value["decoded"], dict):
        console.print()
        console.print("What there is" if value["byte_offset"] is None else "What there is, up to there", style="bold")
        lines = _summary(value["decoded"], value["field"] or "")
        width = max((len(label) for label, _ in lines), default=0)
        for label, text in lines:
            paragraph(console, text, indent=f"  {label:{width}}  ", hang=width + 4)


def _facts(examined: "Examined") -> Iterator[tuple[str, str]]:
    from peachctl import letters

    one, row = examined.letter, examined.row
    yield "from", printable(_source(one), 300)
    moment = datetime.fromtimestamp(one.received)
    yield "received", f"{ago(moment)} ({moment:%Y-%m-%d %H:%M:%S})"
    yield "size", f"{one.size} bytes" + ("" if letters.whole(one) else f", of which {len(one.body)} were kept")
    if examined.alike:
        yield "alike", f"{examined.alike} other letter{'s have' if examined.alike != 1 else ' has'} the same cause"
    if one.queue_id is not None:
        state = "deleted since" if row is None else f"{row.status.word}: peachctl queue show {row.id}"
        yield "workflow", f"{one.queue_id}, {state}"


def _draw_workflow(console: "Console", examined: "Examined", *, reveal: bool) -> None:
    from peachctl import app, draw
    from peachctl.masking import mask

    workflow, problems = examined.workflow, examined.problems
    assert workflow is not None
    console.print()
    if problems is None:
        console.print("There is no service hub to check it against.", style="yellow")
    elif problems:
        console.print("What is wrong with it today", style="bold")
    for one in (problems or [])[:20]:
        paragraph(console, f"{one.where}: {printable(mask(one.message), 500)}", "red", indent="  ✗ ", hang=4)
    if problems and len(problems) > 20:
        console.print(f"    and {len(problems) - 20} more")
    if problems:
        console.print(f'  In a patch: {{"{problems[0].where}": ...}}', style="green")
    if 0 < len(workflow.nodes) <= 40:
        services = {}
        with contextlib.suppress(PeachError):
            services = app.load_hub(screen.config()).by_name
        console.print()
        console.print(draw.tree(workflow, services, reveal=reveal))


def _summary(decoded: dict[str, Any], field: str) -> list[tuple[str, str]]:
    """A workflow that is not all right: a line per node, and a line per field of the one at fault."""
    import json

    from peachctl.avro import field_parts

    def shown(value: Any) -> str:
        return printable(json.dumps(value, ensure_ascii=False), 80)

    lines: list[tuple[str, str]] = [(key, shown(decoded[key])) for key in ("name", "user") if key in decoded]
    nodes = decoded.get("nodes")
    if not isinstance(nodes, list):
        return lines
    parts = field_parts(field) or ()
    index = parts[1] if len(parts) > 1 and isinstance(parts[1], int) else len(nodes)
    first = max(0, min(index, len(nodes) - 1) - 5)
    if first:
        lines.append((f"nodes[0..{first - 1}]", f"{first} nodes"))
    for number, node in enumerate(nodes[first : first + 10], first):
        if number != index or not isinstance(node, dict):
            lines.append((f"nodes[{number}]", _node(node, shown)))
            continue
        for key, value in node.items():
            inner = [("", value)]
            if isinstance(value, dict):
                inner = [(f".{name}", item) for name, item in value.items()]
            elif isinstance(value, list):
                inner = [(f"[{k}]", item) for k, item in enumerate(value)][-8:]
            lines += [(f"nodes[{number}].{printable(key + part, 60)}", shown(item)) for part, item in inner]
    if len(nodes) > first + 10:
        lines.append(("...", f"{len(nodes) - first - 10} more nodes"))
    return lines


def _node(node: Any, shown: Callable[[Any], str]) -> str:
    service = node.get("service") if isinstance(node, dict) else None
    if not isinstance(service, dict):
        return shown(node)
    return f"{shown(node.get('id'))}  {printable(str(service.get('id')), 40)} v{printable(str(service.get('version')))}"


def _select(
    store: "Store", numbers: list[int] | None, everything: bool, reason: str | None, verb: str
) -> "list[Letter]":
    """The letters that a command is about, without their bodies."""
    from peachctl import letters

    if sum((bool(numbers), everything, reason is not None)) != 1:
        raise ConfigError("name letters, or --reason CODE, or --all: one of the three", f"peachctl dlq {verb} --help")
    return letters.chosen(store.letters(bodies=False), numbers or [], reason)


@dlq.command("retry")
def retry(
    numbers: Numbers = None,
    patch: Annotated[
        str | None,
        typer.Option(
            "--patch",
            metavar="FILE.json",
            help="What to put right: a whole workflow (for one letter), or fields as `dlq show` names them and their"
            ' new values, {"nodes[3].service.version": 2}; - is stdin.',
        ),
    ] = None,
    everything: All = False,
    reason: Reason = None,
    output: Output = Format.TABLE,
) -> None:
    """Reads refused messages again, and files those that are good now, or made good by a patch.

    Each is checked against the service hub of today and keeps the origin that it had; a workflow that was refused
    keeps its id. One that is still bad stays as it is (exit 1).

    A patch is a JSON object. A whole workflow (with name, user and nodes) takes the place of the message: the only
    way where the message does not decode, and `dlq show N --out FILE.json` writes a beginning of it. Else its keys are
    fields, spelled as in nodes[3].connections[0], and its values are put there; null disconnects a port or unsets a
    parameter.
    """
    from peachctl import app, by_hand, letters

    with _opened() as (config, store):
        chosen = _select(store, numbers, everything, reason, "retry")
        change = None if patch is None else _patch(config, patch)
        if change is not None and letters.is_whole(change) and len(chosen) != 1:
            raise ConfigError(f"--patch: a whole workflow is for one letter, not for {len(chosen)}")
        by_hand.need_space(config)
        desk = app.open_letters(config, store)
        done = []
        for head in chosen:
            letter = store.letter(head.number)
            if letter is not None:  # else somebody else has just seen to it
                done.append(desk.retry(letter, change))
    screen.result([_retried(one) for one in done], lambda console: _draw_retried(console, done))
    good = [one for one in done if one.id is not None]
    bad = [one for one in done if one.id is None]
    if len(good) == 1:
        _advise(f"Dead letter {good[0].number} is workflow {good[0].id}. Next: peachctl queue show {good[0].id}")
    elif good:
        _advise(f"{_many(len(good))} became workflows. Next: peachctl queue list")
    if bad:
        hint = bad[0].hint if len(bad) == 1 and bad[0].hint else f"peachctl dlq show {bad[0].number}"
        _advise(f"{_many(len(bad))} {'stays' if len(bad) == 1 else 'stay'} as before. Next: {hint}")
        raise typer.Exit(bad[0].exit if len(done) == 1 else Exit.FAILED)
    if not done:
        _advise("There are no dead letters.")


def _patch(config: "Config", file: str) -> "dict[str, object]":
    from peachctl import app, by_hand, letters
    from peachctl.cli.workflow import named

    body, name = by_hand.read_input(config, file)
    with named(name):
        return letters.read_patch(body, app.limits(config))


def _retried(one: "Retried") -> dict[str, Any]:
    from peachctl.masking import mask

    return {
        "number": one.number,
        "id": one.id,
        "status": "refused" if one.id is None else "queued",
        "reason": one.reason,
        "problems": [{"code": p.code, "where": p.where, "message": mask(p.message)} for p in one.problems],
    }


def _draw_retried(console: "Console", done: "list[Retried]") -> None:
    def says(one: "Retried") -> str:
        if one.problems:
            first = one.problems[0]
            more = f" (and {len(one.problems) - 1} more)" if len(one.problems) > 1 else ""
            return f"{first.where}: {one.reason if not more else first.message}{more}"
        return one.reason or ""

    if done:
        grid(
            console,
            ("#", "STATUS", "ID", "SAYS"),
            [
                (
                    str(one.number),
                    mark("refused" if one.id is None else "queued"),
                    "" if one.id is None else str(one.id),
                    printable(says(one), 500),
                )
                for one in done
            ],
            "",
        )


@dlq.command("drop")
def drop(
    numbers: Numbers = None,
    everything: All = False,
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Forgets refused messages, with the files that were set aside for them.

    A workflow that was refused stays in the queue, with its reason. --all and --reason ask first.
    """
    from peachctl import app, present

    with _opened() as (config, store):
        chosen = _select(store, numbers, everything, reason, "drop")
        if chosen and not numbers and not _may_drop(chosen, yes=yes):
            screen.say("Nothing was dropped.")
            raise typer.Exit(Exit.FAILED)
        dropped = app.open_letters(config, store).drop(chosen)
    screen.result(
        [{**present.letter(one), "status": "dropped"} for one in chosen],
        lambda console: console.print(f"{_many(dropped)} dropped." if chosen else "There are no dead letters."),
    )
    if chosen:
        _advise("Next: peachctl dlq list")


def _may_drop(chosen: "list[Letter]", *, yes: bool) -> bool:
    from peachctl import letters

    details = [
        f"  {one.number}  {letters.code(one)}  {printable(_source(one), 30)}  {_short(one, 34)}" for one in chosen[:3]
    ]
    if len(chosen) > 3:
        details.append(f"  and {len(chosen) - 3} more")
    return agreed(f"drop {_many(len(chosen))}", details, yes=yes)


def _many(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
