"""`consume ingest|execute|all` and `watch`: the long-lived commands."""

import contextlib
import getpass
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peachctl.cli.render import LogFormat, log_to_stderr, screen
from peachctl.errors import Exit

if TYPE_CHECKING:
    from peachctl.config import Config
    from peachctl.stop import Stop

Once = Annotated[bool, typer.Option("--once", help="End when all that was there at the start is done.")]

consume = typer.Typer(no_args_is_help=True, help="The consumers, each until SIGTERM (drains, exit 0).")


def register(app: typer.Typer) -> None:
    app.add_typer(consume, name="consume")
    app.command("consume-ingest", hidden=True)(ingest)
    app.command("consume-execute", hidden=True)(execute)
    app.command("watch")(watch)


@consume.command("ingest")
def ingest(once: Once = False, log_format: LogFormat = "text") -> None:
    """Files workflows that arrive, writes their scripts and announces them."""
    config, stop = _begin(log_format)
    from peachctl import app
    from peachctl.serve import serve_ingest

    with _ending(stop), app.serving_ingest(config, stop, once=once) as (loop, store):
        source = config.kafka.topic_execute if app.on_kafka(config) else config.folders.inbox

        def began() -> None:
            screen.say(f"Taking workflows from {source}. Run them: peachctl consume execute")

        serve_ingest(loop, store, stop, once=once, began=began)


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


def _begin(log_format: str) -> "tuple[Config, Stop]":
    from peachctl.stop import Stop

    stop = Stop()
    stop.install()  # before what takes time: a SIGTERM in it is an end like any other
    from peachctl import app

    config = screen.config()
    log_to_stderr(log_format)
    app.refuse_unready(config)
    app.make_folders(config)
    return config, stop


@contextlib.contextmanager
def _ending(stop: "Stop") -> Iterator[None]:
    """How the command ends when it was told to: by SIGTERM with 0, by Ctrl-C with 130."""
    from peachctl.stop import Stopped

    with contextlib.suppress(Stopped):
        yield
    if stop.interrupted:
        raise typer.Exit(Exit.INTERRUPTED)


def _serve(*, once: bool, log_format: str, with_ingest: bool, with_scripts: bool, existing: bool = False) -> None:
    """The executor, embedded or on Kafka. `watch` (with_scripts) knows no Kafka."""
    config, stop = _begin(log_format)
    from peachctl import app

    with _ending(stop):
        if app.on_kafka(config) and not with_scripts:
            _serve_kafka(config, stop, once=once, with_ingest=with_ingest)
        else:
            _serve_folders(
                config,
                stop,
                once=once,
                with_ingest=with_ingest,
                story=log_format == "text",
                scripts=with_scripts,
                existing=existing,
            )


def _serve_folders(
    config: "Config", stop: "Stop", *, once: bool, with_ingest: bool, scripts: bool, story: bool, existing: bool
) -> None:
    from peachctl import app
    from peachctl.cli.live import Story
    from peachctl.serve import Scripts, serve

    with (
        app.opened_store(config, stop, once=once, executes=True) as store,
        contextlib.closing(app.open_folder_bus(config)) as bus,
    ):
        seen = Scripts(store, bus, config.folders.queue, getpass.getuser(), existing=existing) if scripts else None
        told = Story(config) if scripts and story else None

        def observe(claim: Any, event: Any) -> None:
            if seen is not None:
                seen.started(claim, event)
            if told is not None:
                told.hear(claim, event)

        options = app.options(config, edited=scripts)
        with app.execute_loop(config, store, options, observer=observe) as (loop, _):
            what = f"Running workflows, {options.slots} at once, scheduler {options.scheduler}."
            if scripts:
                what += f"\nScripts: {config.folders.queue}\nInbox:   {config.folders.inbox}"
            screen.say(what)
            ingest = app.open_ingest(config, store, bus) if with_ingest else None
            serve(loop, bus, store, stop, ingest=ingest, scripts=seen, once=once)


def _serve_kafka(config: "Config", stop: "Stop", *, once: bool, with_ingest: bool) -> None:
    """With `--once` first the one, then the other: all that was there."""
    from peachctl import app
    from peachctl.serve import IngestThread, serve_events, serve_ingest

    if once and with_ingest:
        with app.serving_ingest(config, stop, once=True) as (first, store):
            serve_ingest(first, store, stop, once=True)
    with app.opened_store(config, stop, once=once, executes=True) as store:
        options = app.options(config)
        with app.execute_loop(config, store, options) as (loop, _):
            screen.say(f"Running workflows, {options.slots} at once, scheduler {options.scheduler}.")
            events = None if once else app.open_events(config, loop.poke)
            ingest = None
            if with_ingest and not once:
                ingest = IngestThread(
                    lambda inner: app.serving_ingest(config, inner, once=False),
                    loop.poke,
                    lambda: screen.say(f"Taking workflows from {config.kafka.topic_execute}."),
                )
            serve_events(loop, store, stop, events, ingest, once=once)
