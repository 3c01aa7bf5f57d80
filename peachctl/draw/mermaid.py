"""A workflow as a Mermaid flowchart, as Markdown pages of many sites draw it."""

import json

from peachctl.draw.picture import Box, Edge, Picture, picture
from peachctl.workflow import Hub, Workflow

_LONGEST = 60
# Everything else could be syntax (`"`, `]`, `;`, `%%`, Markdown, HTML) and is written as its number.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,/:_-+@…")


def mermaid(workflow: Workflow, services: Hub | None, *, reveal: bool = False) -> str:
    """The workflow as a flowchart from left to right. Names of the message stand in quoted labels only.

    Passwords are masked unless `reveal`.
    """
    shown = picture(workflow, services, reveal=reveal)
    lines = ["---", f"title: {_title(shown)}", "---", "flowchart LR"]
    for number, box in enumerate(shown.boxes):
        lines.append(f"  {_box(number, box)}")
    red = [number for number, edge in enumerate(shown.edges) if edge.kind in ("missing", "cycle")]
    lines += [f"  {_edge(edge, shown)}" for edge in shown.edges]
    lines.append("  classDef literal stroke:#4f9d94,font-family:monospace")
    lines.append("  classDef wrong stroke:#d3363f,stroke-dasharray:5 4")
    if red:
        lines.append(f"  linkStyle {','.join(map(str, red))} stroke:#d3363f")
    return "\n".join(lines) + "\n"


def _text(text: str, limit: int = _LONGEST, *, tail: bool = False) -> str:
    """A printable text inside a quoted label: what is not plain becomes Mermaid's `#number;`."""
    if len(text) > limit:
        text = "…" + text[1 - limit :] if tail else text[: limit - 1] + "…"
    return "".join(char if char in _PLAIN or (ord(char) > 0xA0) else f"#{ord(char)};" for char in text) or " "


def _title(shown: Picture) -> str:
    """The title as a quoted text of YAML (the front matter), without what Mermaid's clean-up takes for HTML."""
    title = json.dumps(f"{shown.title[:120]} ({shown.user[:80]})", ensure_ascii=False)
    return title.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _box(number: int, box: Box) -> str:
    if box.kind == "literal":
        return f'b{number}(["{_text(box.title, tail=True)}"]):::literal'
    if box.kind == "missing":
        return f'b{number}["{_text(box.title)}<br/>{_text(box.subtitle)}"]:::wrong'
    rows = [f"<b>{_text(box.title)}</b>", _text(box.subtitle)]
    rows += [f"{_text(name)} = {_text(value)}" for name, value in box.parameters[:40] if value is not None]
    free = [_text(port.label, 30) for port in box.inputs[:40] if not port.connected]
    if free:
        rows.append(f"<i>not connected: {', '.join(free)}</i>")
    if box.problem:
        rows.append(f"<i>{_text(box.problem)}</i>")
    return f'b{number}["{"<br/>".join(rows)}"]{":::wrong" if box.problem else ""}'


def _edge(edge: Edge, shown: Picture) -> str:
    inputs, outputs = shown.boxes[edge.target].inputs, shown.boxes[edge.source].outputs
    arrow = "-.->" if edge.kind in ("missing", "cycle") else "-->"
    if shown.simple:
        return f"b{edge.source} {arrow} b{edge.target}"
    label = _text(inputs[edge.into].label, 30)
    if shown.boxes[edge.source].kind == "node":
        label = f"{_text(outputs[edge.out].label, 30)} → {label}"
    return f'b{edge.source} {arrow}|"{label}"| b{edge.target}'
