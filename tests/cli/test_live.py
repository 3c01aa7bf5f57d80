"""What people see of a run while it runs."""

import time
from typing import Any

import pytest

from peachctl.cli.live import Progress, Story
from peachctl.cli.render import screen
from peachctl.config import load
from tests.conftest import Peach


class _Row:
    name, execution_file = "new\nline", "x.py"


class _Claim:
    id, row = 1, _Row()


CLAIM: Any = _Claim()


def _graph(count: int) -> dict[str, Any]:
    return {"event": "graph", "nodes": [{"id": f"n{k}", "service": "S", "version": 1} for k in range(count)]}


def _seconds_per_node(count: int) -> float:
    progress = Progress("many")
    progress.hear(CLAIM, _graph(count))
    began = time.process_time()
    for k in range(count):
        for status in ("running", "success"):
            progress.hear(CLAIM, {"event": "node", "id": f"n{k}", "status": status, "at": 1.0})
    return (time.process_time() - began) / count


def test_an_event_costs_the_same_however_many_nodes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "say", lambda text, style=None: None)  # rich's own time is not what is measured
    assert min(_seconds_per_node(8000) for _ in range(3)) < 4 * min(_seconds_per_node(500) for _ in range(3))


def test_the_most_telling_nodes_are_shown_and_the_rest_counted() -> None:
    progress = Progress("many")
    progress.hear(CLAIM, _graph(100))
    for k in range(98):
        progress.hear(CLAIM, {"event": "node", "id": f"n{k}", "status": "success", "at": 1.0})
    progress.hear(CLAIM, {"event": "node", "id": "n50", "status": "running", "at": 1.0})
    progress.hear(CLAIM, {"event": "node", "id": "n98", "status": "error", "at": 2.0, "error": {"type": "E"}})
    with screen.console(stderr=True).capture() as drawn:
        screen.console(stderr=True).print(progress._draw())
    lines = drawn.get().splitlines()
    assert "98/100 nodes" in lines[0] and lines[-1] == "... 76 more"
    assert ["n98" in lines[1], "n50" in lines[2], "n99" in lines[3]] == [True, True, True]


def test_watch_escapes_a_name_once(peach: Peach, capsys: pytest.CaptureFixture[str]) -> None:
    screen.configure(config_file=None, color="never", verbose=0, quiet=False)
    story = Story(load(environ=peach.environment()))
    story.hear(CLAIM, {"event": "started"})
    story.hear(CLAIM, _graph(1))
    story.hear(CLAIM, {"event": "node", "id": "a\nb", "status": "error", "error": {"type": "E", "message": "m"}})
    said = capsys.readouterr().err
    assert r"'new\nline'" in said and r"'a\nb'" in said
