"""A workflow as an SVG page of its own: light and dark, no script, no font and no address from elsewhere.

Also made to stand inside an HTML page: its classes begin with `pw-`, it has no ids.
"""

from collections.abc import Mapping
from html import escape

from peachctl.draw.layout import (
    HEADER,
    PARAMETER_ROW,
    Layout,
    Place,
    Way,
    fitted,
    layout,
    parameters_shown,
    parameters_top,
    port_height,
    text_width,
)
from peachctl.draw.picture import Box, Picture, Port, picture, ports_shown
from peachctl.workflow import Hub, Workflow

_TITLE = 66
_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Helvetica Neue', Arial, sans-serif"
_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', 'Noto Sans Mono', monospace"

# selector: (property, light, dark). Written out for both: not every renderer knows CSS variables.
_COLOURS = (
    (".pw-page", "fill", "#ffffff", "#14161b"),
    (".pw-name", "fill", "#1b1f27", "#f1f3f7"),
    (".pw-sub", "fill", "#5d6675", "#9aa4b5"),
    (".pw-text", "fill", "#2a303b", "#dbe0e9"),
    (".pw-faint", "fill", "#8a93a3", "#747e8f"),
    (".pw-box", "fill", "#ffffff", "#1e222a"),
    (".pw-box", "stroke", "#cfd5df", "#3a414e"),
    (".pw-head", "fill", "#fdf0e9", "#2b2725"),
    (".pw-rule", "stroke", "#e4e8ee", "#323844"),
    (".pw-bar", "fill", "#f0814f", "#f0814f"),
    (".pw-way", "stroke", "#7f8ba0", "#7d899d"),
    (".pw-way-literal", "stroke", "#4f9d94", "#4fa79d"),
    (".pw-bad", "stroke", "#d3363f", "#ff6b70"),
    (".pw-bad-text", "fill", "#c02831", "#ff8a8d"),
    (".pw-out", "fill", "#7f8ba0", "#7d899d"),
    (".pw-in", "fill", "#7f8ba0", "#7d899d"),
    (".pw-open", "fill", "#ffffff", "#1e222a"),
    (".pw-open", "stroke", "#a3acbb", "#667082"),
    (".pw-literal", "fill", "#e9f6f4", "#17302e"),
    (".pw-literal", "stroke", "#8fc9c2", "#33685f"),
    (".pw-literal-text", "fill", "#1d5f57", "#9fdcd3"),
    (".pw-value", "fill", "#8a4b12", "#f0b489"),
    (".pw-missing", "fill", "#fdeeee", "#3a1d20"),
)
# state: (light, dark) of its bar and badge. Words and marks say the same, so that colour is never alone.
_STATES = {
    "waiting": ("#8a93a3", "#748094"),
    "running": ("#2f7de1", "#4e97f5"),
    "success": ("#2a9d5c", "#3fb874"),
    "error": ("#d3363f", "#f2575e"),
    "skipped": ("#8a93a3", "#748094"),
    "cancelled": ("#b7791f", "#d9a03f"),
    "reused": ("#1f93a0", "#36b3c1"),
}
_MARKS = {
    "success": "M-3.4 .2 l2.4 2.5 l4.4 -5",
    "reused": "M-3.4 .2 l2.4 2.5 l4.4 -5",
    "error": "M-2.8 -2.8 l5.6 5.6 M2.8 -2.8 l-5.6 5.6",
    "skipped": "M-3.2 0 h6.4",
    "cancelled": "M-3.2 0 h6.4",
    "running": "M-1.6 -3 l4.4 3 l-4.4 3 z",
    "waiting": "M-2.6 0 h.1 M0 0 h.1 M2.6 0 h.1",
}


def svg(
    workflow: Workflow,
    services: Hub | None,
    states: Mapping[str, str] | None = None,
    *,
    reveal: bool = False,
) -> str:
    """The workflow as an SVG text. states: the state of each node of a run by its id (`NodeStatus` words), or None.

    Passwords are masked unless `reveal`. Beyond 500 nodes only nodes and their connections are drawn.
    """
    shown = picture(workflow, services, reveal=reveal)
    placed = layout(shown, badges=bool(states))
    width = max(placed.width, min(560, text_width(shown.title, 20) + 64), 320)
    height = placed.height + _TITLE - 20
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pw" viewBox="0 0 {_n(width)} {_n(height)}" '
        f'width="{_n(width)}" height="{_n(height)}" role="img">',
        f"<title>{_x(f'Workflow {shown.title} of {shown.user}')}</title>",
        f"<style>{_style(states)}</style>",
        f'<rect class="pw-page" width="{_n(width)}" height="{_n(height)}" rx="12"/>',
        *_heading(shown, width, states),
        f'<g transform="translate({_n((width - placed.width) / 2)} {_TITLE - 14})">',
        *_ways(placed),
    ]
    for box, place in zip(shown.boxes, placed.places, strict=True):
        state = states.get(box.id, "") if states and box.kind == "node" else ""
        pieces += _box(box, place, state if state in _STATES else "", simple=shown.simple)
    pieces.append("</g></svg>")
    return "\n".join(pieces) + "\n"


def _x(text: str) -> str:
    """A printable text inside XML, as content or attribute."""
    return escape(text)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _style(states: Mapping[str, str] | None) -> str:
    fixed = (
        f".pw text{{font-family:{_SANS};font-size:12px}}"
        ".pw .pw-title{font-size:20px;font-weight:650}.pw .pw-name{font-weight:600}"
        ".pw .pw-h{font-size:14px}.pw .pw-s{font-size:11.5px}.pw .pw-t{font-size:10.5px}"
        f".pw .pw-mono{{font-family:{_MONO};font-size:12px}}.pw .pw-mono.pw-s{{font-size:11.5px}}"
        ".pw-way{fill:none;stroke-width:1.8}.pw-way-literal{stroke-width:1.4}.pw-back{fill:none;stroke-width:1.8}"
        ".pw-bad{stroke-dasharray:5 4}.pw-open{stroke-width:1.4}.pw-mark{fill:none;stroke:#fff;stroke-width:1.6;"
        "stroke-linecap:round;stroke-linejoin:round}"
    )
    light = "".join(f"{where}{{{what}:{colour}}}" for where, what, colour, _ in _COLOURS)
    dark = "".join(f"{where}{{{what}:{colour}}}" for where, what, _, colour in _COLOURS)
    if states:
        light += "".join(f".pw-{state}{{fill:{colour}}}" for state, (colour, _) in _STATES.items())
        dark += "".join(f".pw-{state}{{fill:{colour}}}" for state, (_, colour) in _STATES.items())
    return f"{fixed}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _heading(shown: Picture, width: float, states: Mapping[str, str] | None) -> list[str]:
    about = f" · {shown.nodes} node{'' if shown.nodes == 1 else 's'}"
    if states:
        words = [states.get(box.id, "") for box in shown.boxes if box.kind == "node"]
        about += "".join(f" · {words.count(word)} {word}" for word in _STATES if word in words)
    title, user, room = shown.title or "(no name)", shown.user or "nobody", width - 56
    return [
        f'<g><title>{_x(title)}</title><text class="pw-name pw-title" x="28" y="36"'
        f"{_line(fitted(title, room, 20.5), title, room)}</text></g>",
        f'<text class="pw-sub" x="28" y="55"'
        f"{_line(fitted(user, room - text_width(about, 12), 12) + about, user + about, room)}</text>",
    ]


def _line(cut: str, whole: str, room: float) -> str:
    """A line of the heading, from the end of its tag's attributes on. What had to be cut is as wide as the room, which
    it shall not leave in any font: `fitted` knows none."""
    fixed = "" if cut == whole else f' textLength="{_n(room)}" lengthAdjust="spacingAndGlyphs"'
    return f"{fixed}>{_x(cut)}"


def _ways(placed: Layout) -> list[str]:
    bottom = placed.height - 20
    return [
        _way(way, bottom if way.edge.source != way.edge.target else _below(placed.places[way.edge.source]))
        for way in placed.ways
    ]


def _below(place: Place) -> float:
    return place.y + place.height + 9


def _way(way: Way, bottom: float) -> str:
    kind = way.edge.kind
    if kind == "cycle":
        (_, right, start), (left, _, end) = way.points[0], way.points[-1]
        return (
            f'<path class="pw-back pw-bad" d="M{_n(right)} {_n(start)} C{_n(right + 46)} {_n(start)} '
            f"{_n(right + 46)} {_n(bottom)} {_n((left + right) / 2)} {_n(bottom)} S{_n(left - 46)} {_n(end)} "
            f'{_n(left)} {_n(end)}"/>'
        )
    drawn = f"M{_n(way.points[0][1])} {_n(way.points[0][2])}"
    right, height = way.points[0][1], way.points[0][2]
    for left, next_right, next_height in way.points[1:]:
        bend = max(16, (left - right) / 2)
        drawn += f" C{_n(right + bend)} {_n(height)} {_n(left - bend)} {_n(next_height)} {_n(left)} {_n(next_height)}"
        if next_right > left:
            drawn += f" H{_n(next_right)}"
        right, height = next_right, next_height
    extra = {"literal": " pw-way-literal", "missing": " pw-bad"}.get(kind, "")
    return f'<path class="pw-way{extra}" d="{drawn}"/>'


def _box(box: Box, place: Place, state: str, *, simple: bool) -> list[str]:
    if simple:
        return _simple(box, place, state)
    if box.kind != "node":
        return _pill(box, place)
    bad = " pw-bad" if box.problem else ""
    width, height = _n(place.width), _n(place.height)
    bar = f"pw-{state}" if state else "pw-bar"
    tooltip = box.tooltip + (f" ({box.problem})" if box.problem else "") + (f": {state}" if state else "")
    room = place.width - (44 if state else 24)
    pieces = [
        f'<g transform="translate({_n(place.x)} {_n(place.y)})"><title>{_x(tooltip)}</title>',
        f'<rect class="pw-box{bad}" width="{width}" height="{height}" rx="8"/>',
        f'<path class="pw-head" d="M1 {HEADER} V8 a7 7 0 0 1 7 -7 H{_n(place.width - 8)} a7 7 0 0 1 7 7 V{HEADER} z"/>',
        f'<path class="{bar}" d="M1 {HEADER} V8 a7 7 0 0 1 3 -5.8 V{HEADER} z"/>',
        f'<text class="pw-name pw-h" x="13" y="18.5">{_x(fitted(box.title, room, 16.5))}</text>',
        f'<text class="pw-sub pw-s" x="13" y="34">{_x(fitted(box.subtitle, room, 11.5))}</text>',
    ]
    if state:
        pieces.append(
            f'<g transform="translate({_n(place.width - 18)} 21)"><circle class="pw-{state}" r="8"/>'
            f'<path class="pw-mark" d="{_MARKS[state]}"/></g>'
        )
    pieces += _ports(box, box.inputs, place.width, left=True)
    pieces += _ports(box, box.outputs, place.width, left=False)
    pieces += _parameters(box, place.width)
    pieces.append("</g>")
    return pieces


def _simple(box: Box, place: Place, state: str) -> list[str]:
    bad = " pw-bad" if box.problem else ""
    fill = f'<rect class="pw-{state or "bar"}" width="4" height="{_n(place.height)}"/>'
    return [
        f'<g transform="translate({_n(place.x)} {_n(place.y)})"><title>{_x(box.tooltip)}</title>'
        f'<rect class="pw-box{bad}" width="{_n(place.width)}" height="{_n(place.height)}" rx="3"/>{fill}'
        f'<text class="pw-text pw-s" x="9" y="16">{_x(fitted(box.title, place.width - 14, 11.5))}</text></g>'
    ]


def _pill(box: Box, place: Place) -> list[str]:
    middle = place.height / 2
    start = f'<g transform="translate({_n(place.x)} {_n(place.y)})"><title>{_x(box.tooltip)}</title>'
    if box.kind == "missing":
        room = place.width - 20
        return [
            f'{start}<rect class="pw-missing pw-bad" width="{_n(place.width)}" height="{_n(place.height)}" rx="8"/>'
            f'<text class="pw-bad-text pw-name" x="11" y="16">{_x(fitted(box.title, room, 12))}</text>'
            f'<text class="pw-bad-text pw-t" x="11" y="30">{_x(fitted(box.subtitle, room, 10.5))}</text></g>'
        ]
    text = _x(fitted(box.title, place.width - 20, 12, mono=True, tail=True))
    below = _x(fitted(box.subtitle, place.width - 26, 10.5))
    return [
        f'{start}<rect class="pw-literal" width="{_n(place.width)}" height="{_n(place.height)}" rx="{_n(middle)}"/>'
        f'<text class="pw-literal-text pw-mono" x="11" y="{_n(15 if below else middle + 4)}">{text}</text>'
        + (f'<text class="pw-literal-text pw-t" x="13" y="28">{below}</text></g>' if below else "</g>")
    ]


def _ports(box: Box, ports: list[Port], width: float, *, left: bool) -> list[str]:
    shown, more = ports_shown(ports)
    others = box.outputs if left else box.inputs
    room = width - 26 if not others else (width - 36) * _share(ports, others)
    pieces = []
    x = "0" if left else _n(width)
    text = 'x="11"' if left else f'x="{_n(width - 11)}" text-anchor="end"'
    for row, port in enumerate(shown):
        y = port_height(box, ports, row, simple=False)
        tooltip = f"{'input' if left else 'output'} {port.index}: {port.label}"
        label = "pw-text" if port.connected else "pw-faint"
        if port.wrong:
            label, tooltip = "pw-bad-text", f"{tooltip}: the service has no such port"
        elif not port.connected:
            tooltip += ": not connected" if left else ": nobody reads it"
        dot = ("pw-in" if left else "pw-out") if port.connected else "pw-open"
        mark = (
            f'<path class="{dot}" d="M-4 {_n(y - 4.5)} l8 4.5 l-8 4.5 z"/>'
            if left and port.connected
            else f'<circle class="{dot}" cx="{x}" cy="{_n(y)}" r="4"/>'
        )
        pieces.append(
            f"<g><title>{_x(tooltip)}</title>{mark}"
            f'<text class="{label}" {text} y="{_n(y + 4)}">{_x(fitted(port.label, room, 12))}</text></g>'
        )
    if more:
        y = port_height(box, ports, len(shown), simple=False)
        pieces.append(f'<text class="pw-faint" {text} y="{_n(y + 4)}">… {more} more</text>')
    return pieces


def _share(ports: list[Port], others: list[Port]) -> float:
    """Which part of the width the labels of one side may take: both sides by their need."""
    own = max((text_width(port.label, 12) for port in ports_shown(ports)[0]), default=0)
    other = max((text_width(port.label, 12) for port in ports_shown(others)[0]), default=0)
    return min(0.8, max(0.2, own / (own + other))) if own + other else 0.5


def _parameters(box: Box, width: float) -> list[str]:
    if not box.parameters:
        return []
    top = parameters_top(box)
    pieces = []
    if box.inputs or box.outputs:
        pieces.append(f'<path class="pw-rule" d="M1 {_n(top)} H{_n(width - 1)}"/>')
    shown, more = parameters_shown(box)
    for row, (name, value) in enumerate(shown):
        y = top + 18 + row * PARAMETER_ROW
        room = width - 24
        after = text_width(value, 11.5, mono=True) if value is not None else text_width("not set", 11.5)
        # The name is cut only where the value needs the room, and then to half of it at most.
        known = fitted(name, max(room / 2, room - after - 22), 11.5)
        tooltip = f"{name} = {value}" if value is not None else f"{name}: not set"
        text = f'<tspan class="pw-faint">{_x(known)}</tspan>'
        if value is None:
            text += '<tspan class="pw-faint" dx="6">not set</tspan>'
        else:
            cut = fitted(value, room - text_width(known, 11.5) - 18, 11.5, mono=True)
            text += (
                f'<tspan class="pw-faint" dx="4">=</tspan><tspan class="pw-value pw-mono pw-s" dx="4">{_x(cut)}</tspan>'
            )
        pieces.append(f'<g><title>{_x(tooltip)}</title><text class="pw-s" x="11" y="{_n(y)}">{text}</text></g>')
    if more:
        y = top + 18 + len(shown) * PARAMETER_ROW
        pieces.append(f'<text class="pw-faint pw-s" x="11" y="{_n(y)}">… {more} more</text>')
    return pieces
