"""`consume ingest|execute|all` and `watch`: the long-lived commands."""

import contextlib
import getpass
from typing import Annotated, Any

import typer

from peachctl.cli.render import screen
from peachctl.errors import Exit

Once = Annotated[bool, typer.Option("--once", help="End when all that was there at the start is done.")]
LogFormat = Annotated[str, typer.Option("--log-format", metavar="text|json", help="How the log is written.")]

consume = typer.Typer(no_args_is_help=True, help="The consumers, each until SIGTERM (drains, exit 0).")


def register(app: typer.Typer) -> None:
    app.add_typer(consume, name="consume")
    app.command("consume-ingest", hidden=True)(ingest)
    app.command("consume-execute", hidden=True)(execute)
    app.command("watch")(watch)


@consume.command("ingest")
def ingest(once: Once = False, log_format: LogFormat = "text") -> None:
    """Files workflows that arrive, writes their scripts and announces them."""
    from peachctl import app
    from peachctl.serve import serve_ingest

    config = screen.config()
    _log(log_format)
    app.refuse_unready(config)
    app.make_folders(config)
    with contextlib.closing(app.open_store(config)) as store, contextlib.closing(app.open_bus(config)) as bus:
        screen.say(f"Taking workflow files from {config.folders.inbox}. Run them: peachctl consume execute")
        if serve_ingest(app.open_ingest(config, store, bus), once=once):
            raise typer.Exit(Exit.INTERRUPTED)


@consume.command("execute")
def execute(once: Once = False, log_format: LogFormat = "text") -> None:
    """Runs queued workflows."""
    _serve(once=once, log_format=log_format, with_ingest=False, with_scripts=False)


@consume.command("all")
def all_(once: Once = False, log_format: LogFormat = "text") -> None:
    """Both consumers in one process."""
    _serve(once=once, log_format=log_format, with_ingest=True, with_scripts=False)


def watch(
    once: Once = False,
    existing: Annotated[bool, typer.Option("--existing", help="Also run scripts that are there and not ours.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Runs the scripts of the queue folder as they appear or are saved again, and the files of the inbox.

    For the author of a service: save the script again, and it runs again from its start; a failure is shown with its
    node, its traceback (the service's frames first) and its log.
    """
    _serve(once=once, log_format=log_format, with_ingest=True, with_scripts=True, existing=existing)


def _log(log_format: str) -> None:
    if log_format not in ("text", "json"):
        raise typer.BadParameter(f"{log_format!r} is not one of text, json", param_hint="--log-format")
    screen.log_to_stderr(log_format)


def _serve(*, once: bool, log_format: str, with_ingest: bool, with_scripts: bool, existing: bool = False) -> None:
    from peachctl import app
    from peachctl.cli.live import Story
    from peachctl.serve import Scripts, serve

    config = screen.config()
    _log(log_format)
    app.refuse_unready(config)
    app.make_folders(config)
    with (
        contextlib.closing(app.open_store(config, executes=True)) as store,
        contextlib.closing(app.open_bus(config)) as bus,
    ):
        scripts = (
            Scripts(store, bus, config.folders.queue, getpass.getuser(), existing=existing) if with_scripts else None
        )
        story = Story(config) if with_scripts and log_format == "text" else None

        def observe(claim: Any, event: Any) -> None:
            if scripts is not None:
                scripts.started(claim, event)
            if story is not None:
                story.hear(claim, event)

        options = app.options(config, edited=with_scripts)
        with app.execute_loop(config, store, options, observer=observe) as (loop, _):
            what = f"Running workflows, {options.slots} at once, scheduler {options.scheduler}."
            if with_scripts:
                what += f"\nScripts: {config.folders.queue}\nInbox:   {config.folders.inbox}"
            screen.say(what)
            ingest = app.open_ingest(config, store, bus) if with_ingest else None
            interrupted = serve(loop, bus, ingest=ingest, scripts=scripts, once=once)
        if interrupted:
            raise typer.Exit(Exit.INTERRUPTED)
