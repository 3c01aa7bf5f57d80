"""`services list|show|check|port|publish` and `example list|copy`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peachctl.cli.render import Format, LogFormat, Output, grid, log_to_stderr, screen
from peachctl.errors import Exit, PeachError, StateError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from peachctl.hub import Found, Hub
    from peachctl.porting import Ported
    from peachctl.workflow import Service

services = typer.Typer(no_args_is_help=True, help="The service hub.")
example = typer.Typer(no_args_is_help=True, help="The example hub and workflows that come with the package.")

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="This service only.")]


def register(app: typer.Typer) -> None:
    app.add_typer(services, name="services")
    app.add_typer(example, name="example")


def _listed(hub: "Hub", service: "Service") -> dict[str, Any]:
    """A service as `services list` and `services show` name it."""
    from peachctl import wire

    [body] = wire.services_to_json([service])
    found = hub.find(service.id, service.version)
    assert found is not None
    return {**body, "versions": sorted(hub.by_name[service.id]), "path": str(found.path)}


@services.command("list")
def list_(output: Output = Format.TABLE) -> None:
    """The services of the hub, the newest version of each."""
    from peachctl import app
    from peachctl.hub import newest

    config = screen.config()
    hub = app.load_hub(config)
    value = [_listed(hub, service) for service in newest(hub)]
    screen.result(
        value,
        lambda console: grid(
            console,
            ("SERVICE", "VERSIONS", "IN", "OUT", "PARAMETERS", "DESCRIPTION"),
            [
                (
                    one["id"],
                    ", ".join(map(str, one["versions"])),
                    ", ".join(one["inputPorts"]),
                    ", ".join(one["outputPorts"]),
                    ", ".join(param["key"] for param in one["params"]),
                    one["description"],
                )
                for one in value
            ],
            f"No service below {config.folders.hub}. Next: peachctl example copy",
        ),
    )
    for problem in hub.problems:
        screen.say(f"{problem.where}: {problem.message}", style="yellow")


@services.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A service of `services list`.")],
    output: Output = Format.TABLE,
) -> None:
    """One service at its newest version: ports, parameters, and where it stands."""
    from peachctl import app

    hub = app.load_hub(screen.config())
    newest = max(_named(hub, name), key=lambda one: one.service.version)
    value = _listed(hub, newest.service)

    def table(console: "Console") -> None:
        console.print(service_tree(newest.service))
        console.print(f"  versions  {', '.join(map(str, value['versions']))}")
        console.print(f"  code      {newest.code}", soft_wrap=True)

    screen.result(value, table)


@services.command("publish")
def publish(
    once: Annotated[bool, typer.Option("--once", help="Publish the list now, and end.")] = False,
    output: Output = Format.TABLE,
    log_format: LogFormat = "text",
) -> None:
    """Publishes the list of services over Kafka, again and again: where `consume ingest` does not see the hub."""
    from peachctl import app
    from peachctl.bus.kafka_client import PATIENCE
    from peachctl.serve import serve_announcer
    from peachctl.stop import Stop

    config = screen.config()
    log_to_stderr(log_format)
    if not once:
        stop = Stop()
        stop.install()
        with app.announcing(config) as announcer:
            screen.say(f"Publishing the services of {config.folders.hub} to {config.kafka.topic_services}.")
            serve_announcer(announcer, stop)
        if stop.interrupted:
            raise typer.Exit(Exit.INTERRUPTED)
        return
    with app.announcing(config, patience=PATIENCE) as announcer:
        found = announcer.publish()
    assert found is not None
    value = {
        "topic": config.kafka.topic_services,
        "services": [service.id for service in found.services],
        "bytes": len(found.body),
        "problems": [{"code": one.code, "where": one.where, "message": one.message} for one in found.problems],
    }
    screen.result(
        value,
        lambda console: console.print(
            f"✓ {len(found.services)} services published to {config.kafka.topic_services} ({len(found.body)} bytes)",
            style="green",
        ),
    )


def _chosen(name: str | None) -> "list[Found]":
    from peachctl import app

    hub = app.load_hub(screen.config())
    return hub.services if name is None else _named(hub, name)


def _named(hub: "Hub", name: str) -> "list[Found]":
    """All versions of a service. Raises StateError, naming the nearest, where there is none."""
    from peachctl.hub import nearest

    found = [one for one in hub.services if one.service.id == name]
    if not found:
        close = nearest(name, hub.by_name)
        raise StateError(
            f"there is no service {name!r} in the hub", f"did you mean {close}?" if close else "peachctl services list"
        )
    return found


@services.command("check")
def check(name: Name = None, output: Output = Format.TABLE) -> None:
    """Checks the services of the hub, without importing them. Exit 1 on a problem."""
    from peachctl import app
    from peachctl.hub import check_service

    found = _chosen(name)
    problems = [] if name is not None else list(app.load_hub(screen.config()).problems)
    for one in found:
        problems += check_service(one)
    unique = list(dict.fromkeys(problems))
    value = {
        "ok": not unique,
        "problems": [{"code": one.code, "where": one.where, "message": one.message} for one in unique],
    }

    def table(console: Any) -> None:
        for one in unique:
            console.print(f"✗ {one.where}: {one.message}  [{one.code}]", style="red")
        if not unique:
            console.print(f"✓ {len(found)} services, no problem", style="green")

    screen.result(value, table)
    if unique:
        raise typer.Exit(Exit.FAILED)


@services.command("port")
def port(
    name: Name = None,
    write: Annotated[bool, typer.Option("--write", help="Rewrite the files (the old ones are kept as .py2).")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Brings Python 2 services to Python 3; shows the difference unless told to write. Exit 1 where a file cannot be
    brought there; the others are."""
    from peachctl import porting
    from peachctl.hub import code_files

    value: list[dict[str, Any]] = []
    for one in _chosen(name):
        for file in code_files(one.path):
            if file.suffix != ".py":
                continue
            try:
                ported = porting.port_file(file)
                kept = porting.write(file, ported) if write else None
            except PeachError as error:
                value.append(_ported(file, problem=error.message))
                continue
            if ported.changed or ported.warnings:
                value.append(_ported(file, ported, kept))
    screen.result(value, lambda _: _tell_ported(value, name))
    if any(one["problem"] for one in value):
        raise typer.Exit(Exit.FAILED)


def _ported(
    file: Path, ported: "Ported | None" = None, kept: Path | None = None, problem: str | None = None
) -> dict[str, Any]:
    return {
        "file": str(file),
        "changes": list(ported.changes) if ported else [],
        "warnings": list(ported.warnings) if ported else [],
        "diff": ported.diff if ported else "",
        "written": kept is not None,
        "kept": None if kept is None else str(kept),
        "problem": problem,
    }


def _tell_ported(value: list[dict[str, Any]], name: str | None) -> None:
    for one in value:
        for warning in one["warnings"]:
            screen.say(f"{one['file']}: {warning}", style="yellow")
        if one["problem"]:
            screen.say(one["problem"], style="red")
        elif one["written"]:
            screen.say(f"{one['file']} rewritten")
        elif one["diff"]:
            screen.text(one["diff"])
    changed = [one for one in value if one["diff"]]
    if not changed:
        screen.say("Nothing to port." if not value else "Nothing else to port.")
    elif not any(one["written"] for one in changed):
        screen.say(
            f"{len(changed)} files would change. Next: peachctl services port {name or ''} --write".replace("  ", " ")
        )


def service_tree(service: "Service") -> "Tree":
    """A service as a small tree."""
    from rich.text import Text
    from rich.tree import Tree

    kinds = {0: "text", 1: "int", 2: "float", 3: "long", 4: "double", 5: "text", 6: "bool"}
    tree = Tree(Text.assemble((service.id, "bold cyan"), f" v{service.version}  {service.name}"))
    if service.description:
        tree.add(Text(service.description, style="italic"))
    for label, ports in (("in", service.input_ports), ("out", service.output_ports)):
        for index, name in enumerate(ports):
            tree.add(Text(f"{label} {index}  {name}"))
    for param in service.params:
        kind = kinds.get(param.parameter_type, str(param.parameter_type))
        tree.add(Text(f"parameter {param.key} ({kind})  {param.name}"))
    return tree


@example.command("list")
def example_list(output: Output = Format.TABLE) -> None:
    """The examples that come with peachctl."""
    from peachctl import catalogue

    value = [one.to_json() for one in catalogue.examples()]
    screen.result(
        value,
        lambda console: grid(
            console,
            ("NAME", "NEEDS", "WHAT"),
            [(one["name"], f"peachctl[{one['extra']}]" if one["extra"] else "", one["description"]) for one in value],
            "No example came with this installation.",
        ),
    )


@example.command("copy")
def example_copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An example of `example list`.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    output: Output = Format.TABLE,
) -> None:
    """Copies an example's workflow and the hub that it needs into a folder of yours."""
    from peachctl import catalogue

    copied = catalogue.copy(name, folder)
    screen.result(
        {"name": name, "workflow": str(copied.workflow), "hub": str(copied.hub)},
        lambda _: screen.text(str(copied.workflow)),
    )
    screen.say(f"Next: peachctl run {copied.workflow} --hub {copied.hub}")
