"""Where the boxes of a picture stand: layers from left to right, few crossings, straight long connections.

The layered drawing of Sugiyama, Tagawa and Toda (1981): longest-path layers, bends in the layers that a long
connection passes, order within a layer by barycenters, heights by a least-squares fit that keeps boxes apart.
Lengths are pixels. Deterministic: ties are broken by the order of the workflow.
"""

from bisect import bisect_left
from dataclasses import dataclass

from peachctl.draw.picture import Box, Edge, Picture, Port, ports_shown

HEADER = 42
PORT_ROW = 20
PARAMETER_ROW = 17
LITERAL = 24
SIMPLE = 24
_GAP = 18
_BEND = 10
_MARGIN = 28
_SLOPE = 24
_MOST_PARAMETERS = 8
_SWEEPS = 16
# Above this many boxes and bends a sweep is not worth its time.
_MUCH = 4000
_MOST_BENDS = 20_000

_NARROW = frozenset("iIjl.,:;'|!()[]{}ft /\\-")
_BROAD = frozenset("mwMW@%—…")


def text_width(text: str, size: float, mono: bool = False) -> float:
    """About how wide a text is in a system font of `size` pixels: no font is asked, so rather more than less."""
    if mono:
        return sum(1.1 if ord(char) > 0x2E7F else 0.62 for char in text) * size
    total = 0.0
    for char in text:
        if char in _NARROW:
            total += 0.34
        elif char in _BROAD:
            total += 0.92
        elif ord(char) > 0x2E7F:  # where the wide scripts begin
            total += 1.1
        else:
            total += 0.7 if char.isupper() else 0.57
    return total * size


def fitted(text: str, width: float, size: float, *, mono: bool = False, tail: bool = False) -> str:
    """The text, cut with an ellipsis to fit a width. tail: keep its end (of a path the file name tells most)."""
    if text_width(text, size, mono) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        part = text[len(text) - middle :] if tail else text[:middle]
        if text_width(part + "…", size, mono) <= width:
            low = middle
        else:
            high = middle - 1
    return ("…" + text[len(text) - low :]) if tail else (text[:low].rstrip() + "…")


@dataclass(slots=True)
class Place:
    """Where a box stands (left, top), and how much room it takes."""

    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0


@dataclass(frozen=True, slots=True)
class Way:
    """A connection's way: its points from an output port over bends to an input port, each (left, right, height)."""

    edge: Edge
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture with places: one per box, the ways of its connections, and the room that all of it takes."""

    places: list[Place]
    ways: list[Way]
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Segment:
    """A piece of a connection between neighbouring layers. at_source, at_target: heights below the boxes' tops."""

    source: int
    at_source: float
    target: int
    at_target: float
    weight: float


def parameters_shown(box: Box) -> tuple[list[tuple[str, str | None]], int]:
    """The parameters that a box has room for, and how many more there are."""
    if len(box.parameters) <= _MOST_PARAMETERS:
        return box.parameters, 0
    return box.parameters[: _MOST_PARAMETERS - 1], len(box.parameters) - _MOST_PARAMETERS + 1


def port_height(box: Box, ports: list[Port], row: int, *, simple: bool) -> float:
    """How far below the box's top a port's middle is. Ports that have no room share the last row."""
    if simple:
        return SIMPLE / 2
    if box.kind != "node":
        return _plain_height(box) / 2
    shown, more = ports_shown(ports)
    return HEADER + 6 + PORT_ROW * (min(row, len(shown) - 1 + (1 if more else 0)) + 0.5)


def parameters_top(box: Box) -> float:
    """How far below the box's top its parameters begin."""
    rows = max(_rows(box.inputs), _rows(box.outputs))
    return HEADER + (rows * PORT_ROW + 10 if rows else 0)


def _rows(ports: list[Port]) -> int:
    shown, more = ports_shown(ports)
    return len(shown) + (1 if more else 0)


def _plain_height(box: Box) -> float:
    return LITERAL if box.kind == "literal" and not box.subtitle else 36


def layout(picture: Picture, *, badges: bool = False) -> Layout:
    """Places all boxes of a picture and the ways of its connections. badges: leaves room for one in each node."""
    return _Layers(picture, badges).layout()


class _Layers:
    """The work on one picture: boxes and bends as items, layers as lists of items."""

    def __init__(self, picture: Picture, badges: bool) -> None:
        self.picture = picture
        self.simple = picture.simple
        self.places = [Place(width=_width(box, self.simple, badges), height=self._height(box)) for box in picture.boxes]
        self.level = [box.layer for box in picture.boxes]
        self.segments: list[_Segment] = []
        self.chains: list[list[int]] = []
        self._pull_sources()
        self._bend()
        lowest = min(self.level, default=0)
        self.layers: list[list[int]] = [[] for _ in range(max(self.level, default=-1) - lowest + 1)]
        for item, level in enumerate(self.level):
            self.layers[level - lowest].append(item)
        self.before: list[list[_Segment]] = [[] for _ in self.level]
        self.after: list[list[_Segment]] = [[] for _ in self.level]
        for segment in self.segments:
            self.before[segment.target].append(segment)
            self.after[segment.source].append(segment)

    def layout(self) -> Layout:
        self._order()
        self._heights()
        width = self._columns()
        top = min((place.y for place in self.places), default=0)
        for place in self.places:
            place.y += _MARGIN - top
        bottom = max((place.y + place.height for place in self.places), default=0)
        ways = [self._way(edge, chain) for edge, chain in zip(self.picture.edges, self.chains, strict=True)]
        boxes = self.places[: len(self.picture.boxes)]
        returning = [way for way in ways if way.edge.kind == "cycle"]
        return Layout(boxes, ways, width, bottom + _MARGIN + (34 if returning else 0))

    def _height(self, box: Box) -> float:
        if self.simple:
            return SIMPLE
        if box.kind != "node":
            return _plain_height(box)
        shown, more = parameters_shown(box)
        rows = len(shown) + (1 if more else 0)
        return max(HEADER + 8, parameters_top(box) + (rows * PARAMETER_ROW + 12 if rows else 0))

    def _pull_sources(self) -> None:
        """Nodes that nothing feeds stand next to what they feed, not all in the first layer."""
        fed = {edge.target for edge in self.picture.edges if edge.kind == "flow"}
        first: dict[int, int] = {}
        for edge in self.picture.edges:
            if edge.kind == "flow" and edge.source not in fed:
                first[edge.source] = min(self.level[edge.target] - 1, first.get(edge.source, self.level[edge.target]))
        for source, level in first.items():
            by = level - self.level[source]
            self.level[source] = level
            for edge in self.picture.edges if by and not self.simple else ():
                if edge.target == source and edge.kind in ("literal", "missing"):
                    self.level[edge.source] = level - 1

    def _bend(self) -> None:
        """Cuts connections over several layers into pieces, with a bend in each layer between."""
        edges = self.picture.edges
        boxes = self.picture.boxes
        spans = sum(max(0, self.level[edge.target] - self.level[edge.source] - 1) for edge in edges)
        bent = spans <= _MOST_BENDS and not (self.simple and spans > _MUCH)
        shared: dict[tuple[int, int], list[int]] = {}
        for edge in edges:
            chain: list[int] = []
            self.chains.append(chain)
            if edge.kind == "cycle":
                continue
            low, high = self.level[edge.source], self.level[edge.target]
            # Connections of the same port go together until they part.
            run = shared.setdefault((edge.source, edge.out), [])
            for level in range(low + 1, high if bent else low + 1):
                if len(run) < level - low:
                    self._add_bend(edge, level, run)
                chain.append(run[level - low - 1])
            last = chain[-1] if chain else edge.source
            at_source = _BEND / 2 if chain else self._out(edge)
            into = port_height(boxes[edge.target], boxes[edge.target].inputs, edge.into, simple=self.simple)
            self.segments.append(_Segment(last, at_source, edge.target, into, 2 if chain else 1))

    def _add_bend(self, edge: Edge, level: int, run: list[int]) -> None:
        """Adds the bend of a connection in one layer, behind the bends that it has."""
        bend = len(self.level)
        self.level.append(level)
        self.places.append(Place(height=_BEND))
        if run:
            self.segments.append(_Segment(run[-1], _BEND / 2, bend, _BEND / 2, 8))
        else:
            self.segments.append(_Segment(edge.source, self._out(edge), bend, _BEND / 2, 2))
        run.append(bend)

    def _out(self, edge: Edge) -> float:
        box = self.picture.boxes[edge.source]
        return port_height(box, box.outputs, edge.out, simple=self.simple)

    # --- order within the layers

    def _order(self) -> None:
        for layer in self.layers:
            layer.sort()
        position = [0.0] * len(self.level)
        self._number(position)
        much = len(self.level) > _MUCH
        best = [list(layer) for layer in self.layers]
        fewest = self._crossings(position)
        for sweep in range(4 if much else _SWEEPS):
            if not fewest:
                break
            forward = sweep % 2 == 0
            for layer in self.layers if forward else reversed(self.layers):
                sides = self.before if forward else self.after
                centers = {item: self._barycenter(item, sides[item], position) for item in layer}
                layer.sort(key=lambda item, centers=centers: centers[item])  # type: ignore[misc]
                for place, item in enumerate(layer):
                    position[item] = place
            if not much:
                self._swap(position)
            crossings = self._crossings(position)
            if crossings < fewest:
                fewest, best = crossings, [list(layer) for layer in self.layers]
        self.layers = best

    def _number(self, position: list[float]) -> None:
        for layer in self.layers:
            for place, item in enumerate(layer):
                position[item] = place

    def _barycenter(self, item: int, segments: list[_Segment], position: list[float]) -> float:
        if not segments:
            return position[item]
        total = 0.0
        for segment in segments:
            if segment.source == item:
                total += position[segment.target] + segment.at_target / 1000
            else:
                total += position[segment.source] + segment.at_source / 1000
        return total / len(segments)

    def _crossings(self, position: list[float]) -> int:
        """How many pieces cross, by the positions of their ends in their layers."""
        total = 0
        for layer in self.layers:
            ends = sorted(
                (position[s.source] + s.at_source / 10_000, position[s.target] + s.at_target / 10_000)
                for item in layer
                for s in self.after[item]
            )
            seen: list[float] = []
            for _, end in ends:
                at = bisect_left(seen, end + 1e-9)
                total += len(seen) - at
                seen.insert(at, end)
        return total

    def _swap(self, position: list[float]) -> None:
        """Swaps neighbours as long as that takes crossings away."""
        for _ in range(4):
            changed = False
            for layer in self.layers:
                for place in range(len(layer) - 1):
                    upper, lower = layer[place], layer[place + 1]
                    if len(self.before[upper]) + len(self.after[upper]) > 60:
                        continue
                    if self._between(upper, lower, position) > self._between(lower, upper, position):
                        layer[place], layer[place + 1] = lower, upper
                        position[lower], position[upper] = place, place + 1
                        changed = True
            if not changed:
                return

    def _between(self, upper: int, lower: int, position: list[float]) -> int:
        """Crossings among the pieces of two neighbours if `upper` stands above `lower`."""
        total = 0
        for sides, source in ((self.before, True), (self.after, False)):
            ends = sorted(_far_end(segment, source, position) for segment in sides[lower])
            total += sum(bisect_left(ends, _far_end(segment, source, position)) for segment in sides[upper])
        return total

    # --- heights and columns

    def _heights(self) -> None:
        top = [0.0] * len(self.level)
        for layer in self.layers:
            below = 0.0
            for item in layer:
                top[item] = below
                below += self.places[item].height + _GAP
            for item in layer:
                top[item] -= below / 2
        passes = ["before", "after"] * (2 if len(self.level) > _MUCH else 5) + ["both"] * 8
        for which in passes:
            for layer in reversed(self.layers) if which == "after" else self.layers:
                self._fit(layer, which, top)
        for layer in self.layers[1:]:
            for number, item in enumerate(layer):
                self._straighten(layer, number, item, top)
        for item, place in enumerate(self.places):
            place.y = top[item]

    def _straighten(self, layer: list[int], number: int, item: int, top: list[float]) -> None:
        """Takes a small slope out of the connection before an item, if its neighbours leave the room."""
        slopes = [top[s.source] + s.at_source - s.at_target - top[item] for s in self.before[item]]
        slope = min(slopes, key=abs, default=0)
        if not 0 < abs(slope) <= _SLOPE:
            return
        there = top[item] + slope
        if number and there < top[layer[number - 1]] + self._apart(layer[number - 1], item):
            return
        if number + 1 < len(layer) and there + self._apart(item, layer[number + 1]) > top[layer[number + 1]]:
            return
        top[item] = there

    def _apart(self, upper: int, lower: int) -> float:
        """How far below the top of `upper` the top of its neighbour `lower` is at least."""
        return self.places[upper].height + (_GAP if self._is_box(upper) or self._is_box(lower) else 4)

    def _fit(self, layer: list[int], which: str, top: list[float]) -> None:
        """Moves a layer's items to where their connections are straight, in their order and apart (least squares)."""
        blocks: list[list[float]] = []  # [sum of weight x place, weight, first item's number]
        offset = 0.0
        offsets = []
        for number, item in enumerate(layer):
            if number:
                offset += self._apart(layer[number - 1], item)
            offsets.append(offset)
            total = weight = 0.0
            if which != "after":
                for s in self.before[item]:
                    total += s.weight * (top[s.source] + s.at_source - s.at_target)
                    weight += s.weight
            if which != "before":
                for s in self.after[item]:
                    total += s.weight * (top[s.target] + s.at_target - s.at_source)
                    weight += s.weight
            if not weight:
                total, weight = top[item] * 0.05, 0.05
            blocks.append([total - weight * offset, weight, number])
            while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
                total, weight, _ = blocks.pop()
                blocks[-1][0] += total
                blocks[-1][1] += weight
        ends = [int(block[2]) for block in blocks[1:]] + [len(layer)]
        for (total, weight, first), end in zip(blocks, ends, strict=True):
            for number in range(int(first), end):
                top[layer[number]] = total / weight + offsets[number]

    def _is_box(self, item: int) -> bool:
        return item < len(self.picture.boxes)

    def _columns(self) -> float:
        """Places the layers side by side, wider apart where more connections pass; returns the whole width."""
        left = float(_MARGIN)
        for layer in self.layers:
            width = max((self.places[item].width for item in layer), default=0)
            for item in layer:
                place = self.places[item]
                if not self._is_box(item) or (self.picture.boxes[item].kind == "node" and not self.simple):
                    place.width = width  # boxes of a layer are alike
                place.x = left + (width - place.width)  # literals stand next to what they feed
            passing = sum(len(self.after[item]) for item in layer)
            left += width + min(120, 38 + 3 * passing)
        last = max((place.x + place.width for place in self.places), default=0)
        return last + _MARGIN

    def _way(self, edge: Edge, chain: list[int]) -> Way:
        boxes = self.picture.boxes
        source, target = self.places[edge.source], self.places[edge.target]
        into = port_height(boxes[edge.target], boxes[edge.target].inputs, edge.into, simple=self.simple)
        points = [(source.x + source.width, source.x + source.width, source.y + self._out(edge))]
        for item in chain:
            place = self.places[item]
            points.append((place.x, place.x + place.width, place.y + _BEND / 2))
        points.append((target.x, target.x, target.y + into))
        return Way(edge, tuple(points))


def _far_end(segment: _Segment, source: bool, position: list[float]) -> float:
    if source:
        return position[segment.source] + segment.at_source / 10_000
    return position[segment.target] + segment.at_target / 10_000


def _width(box: Box, simple: bool, badges: bool) -> float:
    if simple:
        return min(120, max(48, text_width(box.title, 11) + 16))
    if box.kind != "node":
        mono = text_width(box.title, 12, mono=box.kind == "literal")
        return min(180, max(34, mono, text_width(box.subtitle, 10.5)) + 22)
    widest = max(text_width(box.title, 16.5), text_width(box.subtitle, 11.5)) + (46 if badges else 28)
    inputs = max((text_width(port.label, 12) for port in ports_shown(box.inputs)[0]), default=0)
    outputs = max((text_width(port.label, 12) for port in ports_shown(box.outputs)[0]), default=0)
    widest = max(widest, inputs + outputs + 48)
    for name, value in parameters_shown(box)[0]:
        widest = max(widest, text_width(name, 11.5) + text_width(value or "not set", 11.5, mono=True) + 46)
    return min(260, max(124, widest))
