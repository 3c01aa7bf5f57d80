"""What the commands print: results on stdout, talk on stderr; tables and colours for people, JSON for machines."""

import json
import logging
import os
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peachctl.errors import ConfigError, PeachError, WireError

if TYPE_CHECKING:
    from rich.console import Console

    from peachctl.config import Config


class Format(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


MARKS = {
    "success": ("✓", "green"),
    "reused": ("✓", "cyan"),
    "running": ("▶", "yellow"),
    "processing": ("▶", "yellow"),
    "error": ("✗", "red"),
    "refused": ("✗", "red"),
    "skipped": ("-", "bright_black"),
    "cancelled": ("■", "magenta"),
    "waiting": ("·", "bright_black"),
    "queued": ("·", "blue"),
    "sent": ("·", "blue"),
    "unsent": ("-", "bright_black"),
    "unknown": ("?", "yellow"),
}


class Screen:
    """The two streams, and what the global options say of them."""

    def __init__(self) -> None:
        self.config_file: Path | None = None
        self.color = "auto"
        self.verbose = 0
        self.quiet = False
        self.format = Format.TABLE
        self._consoles: dict[bool, Console] = {}

    def configure(self, *, config_file: Path | None, color: str, verbose: int, quiet: bool) -> None:
        self.config_file, self.color, self.verbose, self.quiet = config_file, color, verbose, quiet
        self.format = Format.TABLE
        self._consoles.clear()

    def config(self) -> "Config":
        """The configuration that this call works with. Raises ConfigError."""
        from peachctl.config import load

        return load(self.config_file)

    def console(self, *, stderr: bool) -> "Console":
        """rich's console for one stream. NO_COLOR, FORCE_COLOR and TERM=dumb are honoured by rich itself."""
        from rich.console import Console

        if stderr not in self._consoles:
            forced = {"auto": None, "always": True, "never": None}[self.color]
            watched = (sys.stderr if stderr else sys.stdout).isatty()
            self._consoles[stderr] = Console(
                stderr=stderr,
                force_terminal=forced,
                color_system=None if self.color == "never" else "auto",
                highlight=False,
                markup=False,
                emoji=False,
                soft_wrap=not watched,
                # A pipe has no width: rows stay on one line for grep, unless COLUMNS says otherwise.
                width=None if watched or "COLUMNS" in os.environ else 240,
            )
        return self._consoles[stderr]

    def log_to_stderr(self, style: str = "text") -> None:
        """Sends the loops' log there: lines for people, or one JSON object a line. kafka stays at INFO: its DEBUG
        prints payloads."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_JsonLines() if style == "json" else logging.Formatter("%(asctime)s %(message)s"))
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(logging.WARNING)
        level = logging.DEBUG if self.verbose else logging.WARNING if self.quiet else logging.INFO
        logging.getLogger("peachctl").setLevel(level)

    def say(self, text: str, style: str | None = None) -> None:
        """Talk, on stderr."""
        if not self.quiet:
            self.console(stderr=True).print(text, style=style)

    def error(self, error: PeachError) -> None:
        """One line (and the hint, in a line of its own but for a message that is refused) on stderr; JSON where the
        result would have been JSON."""
        if self.format is not Format.TABLE:
            body = {"error": {"message": error.message, "hint": error.hint, "code": int(error.exit)}}
            print(json.dumps(body, ensure_ascii=False), file=sys.stderr)  # noqa: T201
            return
        console = self.console(stderr=True)
        if isinstance(error, WireError) and error.hint:
            console.print(f"peachctl: {error.message}; {error.hint}", style="red")
            return
        console.print(f"peachctl: {error.message}", style="red")
        if error.hint:
            console.print(f"  {error.hint}")

    def text(self, text: str) -> None:
        """A result that is text."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def result(self, value: Any, table: "Callable[[Console], None]") -> None:
        """A result: `value` as JSON, or what `table` draws for people."""
        if self.format is Format.JSON:
            self.text(json.dumps(value, ensure_ascii=False, indent=1, default=str))
        elif self.format is Format.JSONL:
            items = value if isinstance(value, list) else [value]
            if items:
                self.text("\n".join(json.dumps(item, ensure_ascii=False, default=str) for item in items))
        else:
            table(self.console(stderr=False))


class _JsonLines(logging.Formatter):
    """One JSON object a line, for journals that are read by machines."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().isoformat()
        body = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        return json.dumps(body, ensure_ascii=False)


screen = Screen()


def _set_format(value: Format) -> Format:
    screen.format = value
    return value


Output = Annotated[
    Format, typer.Option("-o", "--output", help="How the result is written.", callback=_set_format, show_choices=True)
]
LogFormat = Annotated[str, typer.Option("--log-format", metavar="text|json", help="How the log is written.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show passwords inside URIs.")]


def agreed(what: str, details: Iterable[str], *, yes: bool) -> bool:
    """Whether a thing that cannot be undone may be done: by `--yes`, or by the answer of a person who is shown the
    details. what: such as `drop 3 dead letters`. Raises ConfigError where nobody can be asked."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(f"to {what}, somebody has to agree, and there is no terminal to ask at", "add --yes")
    for line in details:
        screen.say(line)
    return typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True)


def log_to_stderr(style: str) -> None:
    """What a long-lived command does first. Raises BadParameter for another `--log-format` than there is."""
    if style not in ("text", "json"):
        raise typer.BadParameter(f"{style!r} is not one of text, json", param_hint="--log-format")
    screen.log_to_stderr(style)


def mark(status: str) -> Any:
    """A state as a sign and a word, so that it reads without colour too."""
    from rich.text import Text

    sign, style = MARKS.get(status, (" ", ""))
    # Not sys.stdout: rich stands in for it while something is live.
    stream = sys.__stdout__
    if stream is None or (stream.encoding or "").lower().replace("-", "") != "utf8":
        sign = sign if sign.isascii() else " "
    return Text(f"{sign} {status}", style=style)


def grid(
    console: "Console",
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    empty: str,
    cut: Container[str] = (),
) -> None:
    """A table without frames; `empty` is said on stderr when there are no rows. cut: headings of columns that are cut
    to the width that is left, so that a row stays one line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        whole = heading not in cut if cut else heading in ("ID", "#", "STATUS")
        table.add_column(heading, overflow="fold", no_wrap=whole)
    count = 0
    for row in rows:
        cells = [Text(cell) if isinstance(cell, str) else cell for cell in row]
        for heading, cell in zip(headings, cells, strict=True):
            if heading in cut:
                cell.no_wrap, cell.overflow = True, "ellipsis"
        table.add_row(*cells)
        count += 1
    if count:
        console.print(table)
    else:
        screen.say(empty)


def paragraph(console: "Console", text: str, style: str | None = None, *, indent: str = "  ", hang: int = 2) -> None:
    """A text that begins after `indent` and goes on `hang` columns in; not wrapped where no terminal is."""
    import textwrap

    lines = [indent + text]
    if not console.soft_wrap:
        width = max(30, console.width)
        lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=" " * hang) or [indent]
    for line in lines:
        console.print(line, style=style, soft_wrap=True)


def ago(moment: datetime | None) -> str:
    """A time relative to now, for tables: `3 min ago`."""
    if moment is None:
        return ""
    seconds = int((datetime.now(moment.tzinfo) - moment).total_seconds())
    if seconds < 0:
        return moment.strftime("%Y-%m-%d %H:%M")
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def duration(seconds: float | None) -> str:
    """How long something took: `35 ms`, `2.4 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def to_terminal(stream: Any) -> bool:
    """Whether a person watches this stream and it can be animated."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
