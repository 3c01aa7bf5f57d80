"""A hostile name anywhere in a message changes nothing outside the data folder and breaks no output."""

import contextlib
import json
import os
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Peach, node, workflow

NAMES = {
    "path": "../../x",
    "absolute": "/tmp/../etc/passwd",
    "nul": "a\0b",
    "quotes": "'\"`$(touch pwned);--",
    "newlines": 'a\nb\r\n[e](info): "forged"\u2028c',
    "long": "n" * 400,
    "keyword": "class",
    "markup": "<script>alert(1)</script>&amp;[bold]x[/bold]",
    "four bytes": "𝕏🧠\U0010ffff",
    "escapes": "\x1b[2J\x1b]0;title\x07\u202e",
    "dots": "..",
    "template": "{0.__class__}%s%(x)s${HOME}",
    "graph key": "('A', 0)",
}


def tree(folder: Path, besides: Path) -> dict[str, Any]:
    """All that lies below a folder, but for one folder in it."""
    return {
        str(path): path.stat().st_size
        for path in folder.rglob("*")
        if besides not in (path, *path.parents) and "stderr." not in path.name
    }


def hostile(name: str) -> dict[str, Any]:
    return workflow(
        node(name, "Text", [name]),
        node(name + "2", "Save", [name], name),
        node("literal", "Upper", [], [name]),
        node("equal", "Text", [name + "2"]),
        name=name,
        user=name,
    )


@pytest.mark.fault("E8")
@pytest.mark.parametrize("kind", NAMES)
def test_a_hostile_name_stays_a_name(kind: str, peach: Peach) -> None:
    name = NAMES[kind]
    peach.inbox.mkdir(parents=True)
    file = peach.file(hostile(name))
    unknown = hostile(name)
    unknown["nodes"][0]["service"]["id"] = name
    before = tree(peach.home, peach.data)
    safe = "w" + name.replace("/", "_").replace("\0", "_")[:200] + ".json"
    (peach.inbox / safe).write_text(json.dumps(unknown))
    done = peach("watch", "--once")
    ran = json.loads(peach("run", file, "-o", "json").stdout)
    outputs = [done.stderr]
    for command in (
        *(("queue", "list"), ("queue", "show", 1), ("queue", "show", 2), ("queue", "logs", 2), ("dlq", "list")),
        *(("dlq", "show", 1), ("check", 2), ("check", file), ("decode", file)),
    ):
        outputs.append(peach.inside(*command))
    assert tree(peach.home, peach.data) == before
    for text in outputs:
        assert not {"\x1b", "\0", "\x07", "\u202e", "\r"} & set(text)
    assert ran["status"] == "success"
    assert [one["id"] for one in ran["nodes"] if one["id"] == name] == [name]
    assert {one["id"]: one["outputs"] for one in ran["nodes"]}["equal"] == [name + "2"], "a text is no graph key"
    svg = peach.inside("decode", file, "-o", "svg")
    assert not [one for one in ET.fromstring(svg).iter() if one.tag.endswith("script")]
    compile(peach.inside("decode", file, "-o", "script"), "script", "exec")
    assert json.loads(peach.inside("decode", file, "-o", "json")) == hostile(name)
    with contextlib.closing(sqlite3.connect(peach.database)) as database:
        user, title, script = database.execute(
            "SELECT user, original_workflow_file, execution_file FROM queue WHERE id = 2"
        ).fetchone()
    assert user == name and script.isascii() and "/" not in script and len(script) <= 255
    assert "<" not in title and len(title) <= 255
    assert os.path.basename(script) == script
    assert json.loads(peach.inside("queue", "list", "-o", "json"))
    assert json.loads(peach.inside("dlq", "list", "-o", "json"))
