"""The command line: parse, call, render. What a command does lives in the modules that it calls.

Command modules import nothing heavy at their top, so that `--version`, `--help` and completion stay quick.
"""

import itertools
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from peachctl import __version__
from peachctl.cli import consume, letters, queue, services, streams, system, workflow
from peachctl.cli.render import Format, screen
from peachctl.errors import ConfigError, Exit, PeachError

app = typer.Typer(
    name="peachctl",
    help="The backend of Peach: takes workflows in, runs them, and shows what became of them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # locals of a traceback may hold passwords
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(value: bool) -> None:
    if value:
        print(f"peachctl {__version__}")  # noqa: T201 - the result
        raise typer.Exit


@app.callback()
def _main(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (else the usual places).")
    ] = None,
    color: Annotated[str, typer.Option(metavar="auto|always|never", help="Colours in what people read.")] = "auto",
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; tracebacks of errors.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but results and errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if color not in ("auto", "always", "never"):
        raise typer.BadParameter(f"{color!r} is not one of auto, always, never", param_hint="--color")
    screen.configure(config_file=config, color=color, verbose=verbose, quiet=quiet)


consume.register(app)
workflow.register(app)
queue.register(app)
letters.register(app)
services.register(app)
system.register(app)


def _usage(error: TyperException) -> NoReturn:
    """A mistake on the command line, which typer found; its options are not known yet, so the words are looked at."""
    words = sys.argv[1:]
    wants = {after for word, after in itertools.pairwise(words) if word in ("-o", "--output")}
    wants |= {word.removeprefix("-o").removeprefix("=") for word in words if word.startswith("-o")}
    wants |= {word.removeprefix("--output=") for word in words}
    if {"json", "jsonl"} & wants:
        screen.format = Format.JSON
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        screen.error(ConfigError(message, "peachctl --help"))
    elif hasattr(error, "show"):
        error.show()
    sys.exit(Exit.USAGE)


def main() -> None:
    """Entry point: an error that knows its sentence becomes one line (or JSON) and its exit status."""
    streams.prepare()
    try:
        status = _run()
        sys.stdout.flush()
    except PeachError as error:  # of the flush
        status = _failed(error)
    except streams.ReaderGone:
        # The reader of our output has gone (`| head`); nothing is wrong, and the exit must not complain again.
        streams.discard()
        status = Exit.DONE
    sys.exit(status)


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        _usage(error)
    except PeachError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return code if isinstance(code, int) else Exit.DONE


def _failed(error: PeachError) -> int:
    """Says it, and returns its exit status. The traceback is talk: with `-o json` the error is all there is."""
    if isinstance(error, streams.OutputError):
        streams.discard()
    if screen.verbose and screen.format is Format.TABLE:
        from peachctl.masking import mask

        screen.say(mask("".join(traceback.format_exception(error))).rstrip())
    screen.error(error)
    return error.exit
