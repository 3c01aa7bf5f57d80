"""`init-db`, `init-kafka` and `config show|check|init`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from peachctl.cli.render import Format, Output, grid, screen
from peachctl.errors import Exit, PeachError

config_app = typer.Typer(no_args_is_help=True, help="The configuration.")


def register(app: typer.Typer) -> None:
    app.command("init-db")(init_db)
    app.command("init-kafka")(init_kafka)
    app.add_typer(config_app, name="config")


def init_db(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if something is to do.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Change nothing; print what would be executed.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Creates or upgrades the database, and adopts one of 2017 in place."""
    from peachctl import app

    config = screen.config()
    plan = app.schema_plan(config) if check or sql else app.migrate(config)
    value = {"database": plan.database, "version": plan.version, "steps": plan.steps}
    if sql:
        from peachctl.store.schema import sql_text

        screen.result({**value, "sql": sql_text(plan)}, lambda _: screen.text(sql_text(plan)))
        return

    def table(console: Any) -> None:
        if not plan.steps:
            console.print(f"✓ {plan.database} is up to date (schema version {plan.version})", style="green")
        for step in plan.steps:
            console.print(("to do: " if check else "done: ") + step)

    screen.result(value, table)
    if check and plan.steps:
        raise typer.Exit(Exit.FAILED)
    if plan.steps:
        screen.say("Next: peachctl consume all   or   peachctl run FILE")


def init_kafka(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if a topic is missing.")] = False,
    accept_new: Annotated[
        str | None,
        typer.Option(
            "--accept-new",
            metavar="TOPIC",
            help="The topic was deleted and made anew: its messages are new ones, read from its beginning.",
        ),
    ] = None,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, metavar="N", help="Of a new topic of workflows, and of events.")
    ] = 3,
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas", min=1, metavar="N", help="Brokers that keep a new topic; 3 where there are as many."
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Creates the topics that are missing."""
    from peachctl import app

    config = screen.config()
    if accept_new is not None:
        if check:
            raise typer.BadParameter("--check changes nothing, --accept-new does", param_hint="--check")
        accepted = app.accept_new(config, accept_new)
        text = (
            f"done: {accept_new} begins anew; its messages are ingested from its beginning"
            if accepted
            else f"✓ {accept_new} holds the messages that were ingested from it: nothing is to do"
        )
        screen.result({"topic": accept_new, "accepted": accepted}, lambda console: console.print(text))
        if accepted:
            screen.say("Next: peachctl consume ingest")
        return
    made: set[str] = set() if check else {one.name for one in app.make_topics(config, partitions, replicas)}
    topics = app.kafka_topics(config)
    rows = [
        {
            "topic": one.name,
            "key": one.key,
            "partitions": one.partitions,
            "state": "created" if one.name in made else "present" if one.partitions else "missing",
        }
        for one in topics
    ]
    screen.result(
        rows,
        lambda console: grid(
            console,
            ("TOPIC", "PARTITIONS", "STATE", "KEY"),
            [(row["topic"], str(row["partitions"]), row["state"], row["key"]) for row in rows],
            "",
        ),
    )
    if check and any(row["state"] == "missing" for row in rows):
        screen.say("Next: peachctl init-kafka")
        raise typer.Exit(Exit.FAILED)
    if made:
        screen.say("Next: peachctl consume all")


@config_app.command("show")
def show(
    sources: Annotated[bool, typer.Option("--sources", help="Also show where each value comes from.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """The configuration in force, secrets masked."""
    from peachctl import config as configuration

    config = screen.config()
    flat = {
        f"{section}.{key}": item for section, items in configuration.show(config).items() for key, item in items.items()
    }
    value = (
        {key: {"value": item, "source": config.sources.get(key, "default")} for key, item in flat.items()}
        if sources
        else flat
    )

    def text(item: Any) -> str:
        return "" if item is None else ", ".join(map(str, item)) if isinstance(item, list) else str(item)

    screen.result(
        value,
        lambda console: grid(
            console,
            ("KEY", "VALUE", "SOURCE") if sources else ("KEY", "VALUE"),
            [
                (key, text(item), config.sources.get(key, "default")) if sources else (key, text(item))
                for key, item in flat.items()
            ],
            "",
        ),
    )


@config_app.command("check")
def check(output: Output = Format.TABLE) -> None:
    """Exit 2 on a mistake, with file, key, what is expected and the nearest known key."""
    from peachctl import app

    config = screen.config()
    app.refuse_unready(config)
    files = sorted(set(config.sources.values()) - {"default"})
    screen.result(
        {"ok": True, "problems": []},
        lambda console: console.print(
            "✓ " + (", ".join(files) if files else "nothing is configured: embedded"), style="green"
        ),
    )


@config_app.command("init")
def init(
    old: Annotated[
        list[Path] | None, typer.Option("--from", metavar="FILE", help="A configuration file of 2017; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it; - is stdout.")] = Path(
        "peachctl.toml"
    ),
    output: Output = Format.TABLE,
) -> None:
    """Writes a commented configuration file."""
    from peachctl import config as configuration

    text = configuration.from_2017(old) if old else configuration.example_text()
    if str(out) == "-":
        screen.result({"file": None, "text": text}, lambda _: screen.text(text))
        return
    try:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise PeachError(f"{out} is there already", "choose another name with --out FILE") from None
    except OSError as error:
        raise PeachError(f"{out}: {error.strerror}") from error
    screen.result({"file": str(out), "text": text}, lambda _: None)
    screen.say(f"{out} written (readable by you alone). Next: peachctl config check")
