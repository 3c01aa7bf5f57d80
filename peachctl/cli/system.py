"""`init-db` and `config show|check|init`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from peachctl.cli.render import Format, Output, grid, screen
from peachctl.errors import Exit, PeachError

config_app = typer.Typer(no_args_is_help=True, help="The configuration.")


def register(app: typer.Typer) -> None:
    app.command("init-db")(init_db)
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
    if sql:
        from peachctl.store.schema import sql_text

        screen.text(sql_text(plan))
        return
    value = {"database": plan.database, "version": plan.version, "steps": plan.steps}

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
) -> None:
    """Writes a commented configuration file."""
    from peachctl import config as configuration

    text = configuration.from_2017(old) if old else configuration.example_text()
    if str(out) == "-":
        screen.text(text)
        return
    try:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise PeachError(f"{out} is there already", "choose another name with --out FILE") from None
    except OSError as error:
        raise PeachError(f"{out}: {error.strerror}") from error
    screen.say(f"{out} written (readable by you alone). Next: peachctl config check")
