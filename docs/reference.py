"""Writes docs/cli.md, the command reference, from the program itself. `tests/test_docs.py` fails while it is stale."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from peachctl.cli import app
from peachctl.errors import Exit

TARGET = Path(__file__).with_name("cli.md")

HEAD = """\
# Commands

*Written by `make docs` from the program; a test fails when it is stale.*

A command is a noun and a verb (`queue list`), or a verb where there is but one noun (`run`). The result goes to
stdout, talk (progress, hints, warnings) to stderr. `-o json` makes stdout one JSON value and nothing else, an error one
JSON object `{"error": {"message", "hint", "code"}}` on stderr; `-o jsonl` writes a line per item of a list. A file
argument `-` is standard input. Passwords inside URIs are masked wherever something is shown; `--reveal` shows them.
`NO_COLOR`, `FORCE_COLOR` and `TERM=dumb` are honoured.
"""

STATUSES = {
    Exit.DONE: "Done.",
    Exit.FAILED: "Failed: bad input, or a check that found something.",
    Exit.USAGE: "Wrong usage or configuration.",
    Exit.WORKFLOW: "The workflow that was run or waited for ended in error, or was cancelled.",
    Exit.STATE: "No such id, or a thing that is not in a state for this.",
    Exit.UNREACHABLE: "Kafka or the database cannot be reached.",
    Exit.INTERRUPTED: "Ctrl-C.",
}


def reference() -> str:
    """The whole of docs/cli.md."""
    root = typer.main.get_command(app)
    context = root.make_context("peachctl", [], resilient_parsing=True)
    lines = [HEAD, "## Exit statuses", "", "| status | meaning |", "|---|---|"]
    lines += [f"| {int(status)} | {STATUSES[status]} |" for status in Exit]
    lines += [
        "",
        "## Options of all commands",
        "",
        "They stand before the command: `peachctl --color never queue list`.",
        "",
    ]
    lines += options(root, context)
    commands = list(walk(root, context))
    lines += ["", "## The commands", "", "| command | does |", "|---|---|"]
    lines += [f"| [`{path}`](#{anchor(path)}) | {cell(first_line(command))} |" for path, command, _ in commands]
    for path, command, inner in commands:
        lines += ["", f"### {path}", "", "```", usage(path, command, inner), "```", "", paragraphs(command)]
        lines += ["", *options(command, inner)]
    return "\n".join(lines).rstrip() + "\n"


def walk(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path such as `queue list`, command, its context) of every command that is not hidden, in the program's order."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        inner = type(context)(command, parent=context, info_name=name)
        if hasattr(command, "list_commands"):
            yield from walk(command, inner)
        else:
            yield inner.command_path.removeprefix("peachctl "), command, inner


def usage(path: str, command: Any, context: Any) -> str:
    arguments = (param for param in command.get_params(context) if param.param_type_name == "argument")
    words = (name(param) if param.required else f"[{name(param)}]" for param in arguments)
    return " ".join(["peachctl", path, "[OPTIONS]", *words])


def name(argument: Any) -> str:
    text = (argument.metavar or argument.name.upper()).strip("[]{}")
    return f"{text}..." if argument.nargs == -1 and not text.endswith("...") else text


def options(command: Any, context: Any) -> list[str]:
    """The table of arguments and options, without `--help`, which all have."""
    rows = []
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None or "--help" in param.opts:
            continue
        spelling, text = record
        if param.param_type_name == "argument":
            spelling, text = name(param), text.removesuffix("[required]")
        rows.append(f"| `{cell(spelling)}` | {cell(text)} |")
    return ["| | |", "|---|---|", *rows] if rows else []


def paragraphs(command: Any) -> str:
    """The command's help, its lines joined to paragraphs."""
    blocks = (command.help or "").strip().split("\n\n")
    return "\n\n".join(" ".join(block.split()) for block in blocks)


def first_line(command: Any) -> str:
    return paragraphs(command).split("\n\n")[0]


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def anchor(path: str) -> str:
    return path.replace(" ", "-")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text(encoding="utf-8") != reference())
    TARGET.write_text(reference(), encoding="utf-8")
