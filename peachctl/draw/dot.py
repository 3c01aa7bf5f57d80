"""A workflow in the language of Graphviz: `peachctl decode -o dot FILE | dot -Tsvg`."""

from html import escape

from peachctl.draw.picture import Box, Edge, Port, picture, ports_shown
from peachctl.workflow import Hub, Workflow

_LONGEST = 60


def dot(workflow: Workflow, services: Hub | None, *, reveal: bool = False) -> str:
    """The workflow as a directed graph. Names of the message stand in labels only, never in names of the graph.

    Passwords are masked unless `reveal`.
    """
    shown = picture(workflow, services, reveal=reveal)
    lines = [
        "digraph workflow {",
        "  rankdir=LR;",
        f"  label={_quoted(f'{shown.title}  ({shown.user})')}; labelloc=t; fontname=sans;",
        '  node [shape=plain, fontname=sans, fontsize=11]; edge [color="#7f8ba0", arrowsize=0.7];',
    ]
    for number, box in enumerate(shown.boxes):
        lines.append(f"  b{number} {_box(box, simple=shown.simple)};")
    for edge in shown.edges:
        lines.append(f"  {_edge(edge, shown.boxes, simple=shown.simple)};")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A quoted string of DOT. Backslashes are doubled and `&` is named: Graphviz replaces `\\N` and `&lt;`."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") + '"'


def _html(text: str, limit: int = _LONGEST) -> str:
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return escape(cut) or " "


def _box(box: Box, *, simple: bool) -> str:
    tooltip = f"tooltip={_quoted(box.tooltip[:500])}"
    cut = box.title if len(box.title) <= _LONGEST else "…" + box.title[1 - _LONGEST :]
    if box.kind == "literal":
        return f'[shape=note, color="#4f9d94", fontname=monospace, label={_quoted(cut)}, {tooltip}]'
    if box.kind == "missing":
        return f'[shape=box, style=dashed, color="#d3363f", label={_quoted(f"{cut}: {box.subtitle}")}, {tooltip}]'
    colour = "#d3363f" if box.problem else "#8a93a3"
    if simple:
        return f'[shape=box, color="{colour}", label={_quoted(cut)}, {tooltip}]'
    rows = [f"<b>{_html(box.title)}</b><br/>{_html(box.subtitle)}"]
    if box.problem:
        rows.append(f'<font color="#d3363f">{_html(box.problem)}</font>')
    for name, value in box.parameters[:40]:
        rows.append(f"{_html(name)} = {_html(value)}" if value is not None else f"<i>{_html(name)}: not set</i>")
    middle = "".join(f"<tr><td>{row}</td></tr>" for row in rows)
    table = (
        f'<table border="1" color="{colour}" style="rounded" cellborder="0" cellspacing="0" cellpadding="3"><tr>'
        f'<td>{_ports(box.inputs, "i")}</td><td><table border="0" cellborder="0" cellspacing="0">{middle}</table></td>'
        f"<td>{_ports(box.outputs, 'o')}</td></tr></table>"
    )
    return f"[label=<{table}>, {tooltip}]"


def _ports(ports: list[Port], side: str) -> str:
    if not ports:
        return " "
    shown, more = ports_shown(ports)
    cells = []
    for row, port in enumerate(shown):
        colour = "#d3363f" if port.wrong else "#2a303b" if port.connected else "#8a93a3"
        label = _html(port.label, 30) + ("" if port.connected else " ○")
        cells.append(f'<tr><td port="{side}{row}"><font color="{colour}">{label}</font></td></tr>')
    if more:
        cells.append(f'<tr><td port="{side}{len(shown)}">… {more} more</td></tr>')
    return f'<table border="0" cellborder="1" color="#cfd5df" cellspacing="2" cellpadding="2">{"".join(cells)}</table>'


def _edge(edge: Edge, boxes: list[Box], *, simple: bool) -> str:
    source, target = f"b{edge.source}", f"b{edge.target}"
    if not simple:
        if boxes[edge.source].kind == "node":
            source += f":o{_row(boxes[edge.source].outputs, edge.out)}:e"
        target += f":i{_row(boxes[edge.target].inputs, edge.into)}:w"
    style = {
        "flow": "",
        "literal": ' [color="#4f9d94"]',
        "missing": ' [color="#d3363f", style=dashed]',
        "cycle": ' [color="#d3363f", style=dashed, constraint=false]',
    }[edge.kind]
    return f"{source} -> {target}{style}"


def _row(ports: list[Port], row: int) -> int:
    shown, _ = ports_shown(ports)
    return min(row, len(shown))
