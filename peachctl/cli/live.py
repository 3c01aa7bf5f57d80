"""A run while it runs: a live table on a terminal, lines everywhere else; and the story that `watch` tells."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peachctl.cli.render import MARKS, duration, mark, screen, to_terminal
from peachctl.names import printable, quoted
from peachctl.store import Claim

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from peachctl.config import Config


class Progress:
    """Live progress of one workflow on stderr. Use as a context; `hear` is the observer of the execute loop."""

    SHOWN = 24

    def __init__(self, title: str) -> None:
        self._title = title
        self._nodes: dict[str, dict[str, Any]] = {}
        # The same nodes by status, so that nothing walks through all of them at each event or frame.
        self._by_status: dict[str, dict[str, dict[str, Any]]] = {}
        self._started = time.monotonic()
        self._live: Live | None = None
        self._animate = to_terminal(sys.stderr) and not screen.quiet
        self._note = ""

    def __enter__(self) -> "Progress":
        if self._animate:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._draw, console=screen.console(stderr=True), refresh_per_second=10, transient=False
            )
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def hear(self, claim: Claim, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "graph":
            for item in event["nodes"]:
                id, service = str(item["id"]), str(item["service"])
                node = {"id": id, "service": service, "status": "", "at": None, "took": None, "say": ""}
                self._nodes[id] = node
                self._set_status(node, "waiting")
        elif kind == "node":
            self._hear_node(event)
        elif kind == "log" and event.get("node") in self._nodes:
            self._nodes[event["node"]]["say"] = str(event.get("message", ""))
        elif kind == "given back":
            self._note = str(event.get("reason"))
            if not self._animate:
                screen.say(f"workflow {claim.id}: {self._note}; it starts again")

    def _hear_node(self, event: Mapping[str, Any]) -> None:
        node = self._nodes.get(event["id"])
        if node is None:
            return
        status, at = str(event["status"]), event.get("at")
        self._set_status(node, status)
        if status == "running":
            node["at"] = at
        elif node["at"] is not None and at is not None:
            node["took"] = at - node["at"]
        error = event.get("error")
        if error:
            node["say"] = f"{error.get('type')}: {error.get('message')}".split("\n")[0]
        if not self._animate and not screen.quiet:
            took = f" ({duration(node['took'])})" if node["took"] is not None else ""
            more = f": {printable(node['say'], 160)}" if error else ""
            count = f"[{self._done()}/{len(self._nodes)}]" if status != "running" else "      "
            screen.say(f"{count} {printable(event['id'], 40)} {status}{took}{more}")

    def _set_status(self, node: dict[str, Any], status: str) -> None:
        self._by_status.get(node["status"], {}).pop(node["id"], None)
        node["status"] = status
        self._by_status.setdefault(status, {})[node["id"]] = node

    def _done(self) -> int:
        return len(self._nodes) - sum(len(self._by_status.get(status, ())) for status in ("waiting", "running"))

    def _draw(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done = self._done()
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(printable(self._title, 60), style="bold"),
            ProgressBar(total=max(1, len(self._nodes)), completed=done, width=24),
            Text(f"{done}/{len(self._nodes)} nodes"),
            Text(duration(time.monotonic() - self._started), style="bright_black"),
        )
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for id, node in self._most_telling():
            took = node["took"]
            if took is None and node["status"] == "running" and node["at"]:
                took = max(0.0, time.time() - node["at"])
            say = Text(printable(node["say"], 100), style="red" if node["status"] == "error" else "bright_black")
            table.add_row(
                mark(node["status"]),
                Text(printable(id, 32)),
                Text(printable(node["service"], 24), style="cyan"),
                Text(duration(took)),
                say,
            )
        parts: list[RenderableType] = [head, table]
        if len(self._nodes) > self.SHOWN:
            parts.append(Text(f"... {len(self._nodes) - self.SHOWN} more", style="bright_black"))
        if self._note:
            parts.append(Text(self._note, style="yellow"))
        return Group(*parts)

    def _most_telling(self) -> list[tuple[str, dict[str, Any]]]:
        # Copies (`list`), for the frames are drawn in a thread of their own while events come in.
        if len(self._nodes) <= self.SHOWN:
            return list(self._nodes.items())
        first = ("error", "running", "waiting", "skipped")
        shown: list[tuple[str, dict[str, Any]]] = []
        for status in (*first, *(one for one in list(self._by_status) if one not in first)):
            shown += list(self._by_status.get(status, {}).items())[: self.SHOWN - len(shown)]
        return shown


class Story:
    """What `watch` tells of each run: its failures with node, traceback and log, and its end."""

    def __init__(self, config: "Config") -> None:
        self._config = config
        self._services: dict[int, dict[str, str]] = {}

    def hear(self, claim: Claim, event: Mapping[str, Any]) -> None:
        console = screen.console(stderr=True)
        title = f"workflow {claim.id} {quoted(claim.row.name, 60)}"
        kind = event.get("event")
        if kind == "started":
            console.print(f"{MARKS['running'][0]} {title} runs ({claim.row.execution_file})", style="yellow")
        elif kind == "graph":
            for item in event["nodes"]:
                self._services.setdefault(claim.id, {})[item["id"]] = f"{item['service']} v{item['version']}"
        elif kind == "log":
            console.print(f"  [{printable(event['node'], 40)}] {event['level']}: {printable(event['message'], 300)}")
        elif kind == "node" and event["status"] == "error":
            error = event.get("error") or {}
            service = self._services.get(claim.id, {}).get(event["id"], "")
            console.print(f"{MARKS['error'][0]} node {quoted(event['id'], 60)} ({service})", style="red bold")
            message = f"{error.get('type')}: {error.get('message')}"
            console.print(f"  {printable(message, 2000)}", style="red")
            for line in (error.get("traceback") or "").rstrip().splitlines():
                console.print(f"  {printable(line, 500)}", style="bright_black")
        elif kind == "ended":
            self._ended(claim, event, title)

    def _ended(self, claim: Claim, event: Mapping[str, Any], title: str) -> None:
        console = screen.console(stderr=True)
        self._services.pop(claim.id, None)
        sign, style = MARKS[event["status"]]
        console.print(f"{sign} {title}: {event['status']}", style=style)
        if event["status"] == "success":
            console.print(f"  output: {self._config.folders.download_files / event['output_file']}")
            return
        console.print(f"  {printable(str(event['reason']), 2000)}")
        for line in tail(self._config.folders.workflow_temp, claim.id, 12):
            console.print(f"  | {line}", style="bright_black")
        console.print(f"  all of its log: peachctl queue logs {claim.id}")


def tail(workflow_temp: Path, id: int, lines: int) -> list[str]:
    """The last lines of what the workflow printed."""
    from peachctl.logs import of_workflow

    return [printable(line, 300) for line in of_workflow(workflow_temp, id).splitlines()[-lines:]]
