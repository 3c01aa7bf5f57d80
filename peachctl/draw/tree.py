"""A workflow for the terminal: its nodes layer by layer, and at each port what is attached to it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from peachctl.draw.picture import Box, Edge, Picture, Port, picture, ports_shown
from peachctl.workflow import Hub, Workflow

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

_LONGEST = 100
_MOST_TARGETS = 6
_FAINT = "bright_black"
_STATES = {
    "waiting": ("·", "bright_black"),
    "running": ("▶", "blue"),
    "success": ("✓", "green"),
    "error": ("✗", "bold red"),
    "skipped": ("-", "bright_black"),
    "cancelled": ("-", "yellow"),
    "reused": ("✓", "cyan"),
}


def tree(
    workflow: Workflow,
    services: Hub | None,
    states: Mapping[str, str] | None = None,
    *,
    reveal: bool = False,
) -> "Tree":
    """The workflow as a rich renderable. states: the state of each node of a run by its id, or None.

    A layer holds the nodes whose inputs all come from layers above it. Passwords are masked unless `reveal`. Beyond
    500 nodes each node is one line.
    """
    from rich.tree import Tree

    shown = picture(workflow, services, reveal=reveal)
    nodes = shown.boxes[: shown.nodes]
    many = f"{shown.nodes} node{'' if shown.nodes == 1 else 's'}"
    root = Tree(
        _line((shown.title or "(no name)", "bold"), (f"  {shown.user or 'nobody'} · {many}", _FAINT)),
        guide_style=_FAINT,
    )
    into: list[dict[int, Edge]] = [{} for _ in nodes]
    out: list[dict[int, list[Edge]]] = [{} for _ in nodes]
    for edge in shown.edges:
        into[edge.target][edge.into] = edge
        if edge.source < len(nodes):
            out[edge.source].setdefault(edge.out, []).append(edge)
    layers: dict[int, list[int]] = {}
    for position, box in enumerate(nodes):
        layers.setdefault(box.layer, []).append(position)
    for number, layer in sorted(layers.items()):
        branch = root.add(_line((f"layer {number + 1}", "cyan"), (_of(len(layer)), _FAINT)))
        for position in layer:
            box = nodes[position]
            head = _head(box, states.get(box.id, "") if states else "")
            if shown.simple:
                head.append_text(_sources(shown, into[position]))
                branch.add(head)
                continue
            leaf = branch.add(head)
            for line in [*_inputs(shown, box, into[position]), *_parameters(box), *_outputs(shown, box, out[position])]:
                leaf.add(line)
    return root


def _line(*parts: tuple[str, str]) -> "Text":
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    for text, style in parts:
        line.append(text, style=style)
    return line


def _of(many: int) -> str:
    return "" if many == 1 else f"  {many} nodes"


def _cut(text: str, *, tail: bool = False) -> str:
    if len(text) <= _LONGEST:
        return text
    return "…" + text[1 - _LONGEST :] if tail else text[: _LONGEST - 1] + "…"


def _head(box: Box, state: str) -> "Text":
    mark, style = _STATES.get(state, ("", ""))
    parts = [(f"{mark} ", style)] if mark else []
    parts += [(_cut(box.title) or "(no id)", "bold"), (f"  {_cut(box.subtitle)}", "magenta")]
    if mark:
        parts.append((f"  {state}", style))
    if box.problem:
        parts.append((f"  {_cut(box.problem)}", "red"))
    return _line(*parts)


def _inputs(shown: Picture, box: Box, into: dict[int, Edge]) -> list["Text"]:
    ports, more = ports_shown(box.inputs)
    width = _label_width(ports)
    lines = []
    for row, port in enumerate(ports):
        label = _label(port, width)
        edge = into.get(row)
        if edge is None:
            lines.append(_line(("○ ", _FAINT), label, ("  not connected", _FAINT)))
            continue
        source = shown.boxes[edge.source]
        if source.kind == "literal":
            text = _cut(source.title, tail=True)
            below = [(f" on {_cut(source.subtitle)}", _FAINT)] if source.subtitle else []
            lines.append(_line(("● ", "green"), label, ("← ", _FAINT), (f"“{text}”", "green"), *below))
        elif source.kind == "missing":
            lines.append(
                _line(("● ", "red"), label, ("← ", _FAINT), (f"{_cut(source.title)} ({source.subtitle})", "red"))
            )
        else:
            closes = [(" (closes a cycle)", "red")] if edge.kind == "cycle" else []
            lines.append(_line(("● ", "blue"), label, ("← ", _FAINT), *_end(source, edge.out, "out"), *closes))
    if more:
        lines.append(_line((f"… {more} more inputs", _FAINT)))
    return lines


def _label_width(ports: list[Port]) -> int:
    """Columns that port labels are filled up to (wide scripts take two a character)."""
    from rich.cells import cell_len

    return min(24, max((cell_len(port.label) for port in ports), default=0))


def _label(port: Port, width: int) -> tuple[str, str]:
    from rich.cells import cell_len

    text = _cut(port.label)
    return text + " " * (max(0, width - cell_len(text)) + 1), "red" if port.wrong else "default"


def _end(box: Box, row: int, side: str) -> list[tuple[str, str]]:
    port = (box.outputs if side == "out" else box.inputs)[row]
    return [(_cut(box.title), "bold"), (" › ", _FAINT), (_cut(port.label), "red" if port.wrong else "default")]


def _parameters(box: Box) -> list["Text"]:
    lines = []
    for name, value in box.parameters[:40]:
        if value is None:
            lines.append(_line(("  ", ""), (_cut(name), _FAINT), ("  not set", _FAINT)))
        else:
            lines.append(_line(("  ", ""), (_cut(name), "default"), (" = ", _FAINT), (_cut(value), "yellow")))
    if len(box.parameters) > 40:
        lines.append(_line((f"  … {len(box.parameters) - 40} more parameters", _FAINT)))
    return lines


def _outputs(shown: Picture, box: Box, out: dict[int, list[Edge]]) -> list["Text"]:
    ports, more = ports_shown(box.outputs)
    width = _label_width(ports)
    lines = []
    for row, port in enumerate(ports):
        parts = [_label(port, width)]
        edges = out.get(row, [])
        if not edges:
            lines.append(_line(("○ ", _FAINT), *parts, ("  nobody reads it", _FAINT)))
            continue
        parts.append(("→ ", _FAINT))
        for number, edge in enumerate(edges[:_MOST_TARGETS]):
            parts += [(", ", _FAINT)] if number else []
            parts += _end(shown.boxes[edge.target], edge.into, "in")
        if len(edges) > _MOST_TARGETS:
            parts.append((f", … {len(edges) - _MOST_TARGETS} more", _FAINT))
        lines.append(_line(("◆ ", "blue"), *parts))
    if more:
        lines.append(_line((f"… {more} more outputs", _FAINT)))
    return lines


def _sources(shown: Picture, into: dict[int, Edge]) -> "Text":
    sources = list(dict.fromkeys(edge.source for edge in into.values()))
    if not sources:
        return _line()
    names = ", ".join(_cut(shown.boxes[source].title) for source in sources[:_MOST_TARGETS])
    more = f", … {len(sources) - _MOST_TARGETS} more" if len(sources) > _MOST_TARGETS else ""
    return _line(("  ← ", _FAINT), (names + more, "default"))
