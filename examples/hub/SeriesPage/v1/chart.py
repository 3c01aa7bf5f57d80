"""The chart of the page, as SVG text."""

import math
from html import escape

WIDTH, HEIGHT = 960, 470
LEFT, RIGHT, TOP, BOTTOM = 52, 942, 30, 372  # the field of the curves
STRIPES = (412, 26)  # top and height of the strip below it

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #64748b }
.grid { stroke: #94a3b8; stroke-opacity: .25 } .thread { fill: none; stroke: #94a3b8; stroke-opacity: .55 }
.value { fill: #94a3b8 } .dry { fill: #ea580c } .dry-text { fill: #ea580c; font-weight: 600 }
.trend { fill: none; stroke: #0284c7; stroke-width: 3; stroke-linecap: round; stroke-linejoin: round }
.level { stroke: #0f766e; stroke-width: 1.5; stroke-dasharray: 6 5 } .level-text { fill: #0f766e; font-weight: 600 }
.cut { stroke: #0f766e; stroke-opacity: .5 } .key { font-size: 12.5px }
"""


def draw(values, trend, change, dry, title, unit):
    """values, trend, dry: [(year, value), ...]; change: what ChangePoint writes, or None. Gives a whole SVG text."""
    first, last = values[0][0], values[-1][0]
    step = nice((max(v for _, v in values) - min(v for _, v in values)) / 5)
    low = math.floor(min(v for _, v in values) / step) * step
    high = math.ceil(max(v for _, v in values) / step) * step

    def x(year):
        return LEFT + (year - first) / max(1, last - first) * (RIGHT - LEFT)

    def y(value):
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    def line(points):
        return "M" + "L".join(f"{x(year):.1f} {y(value):.1f}" for year, value in points)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text x="{LEFT - 44}" y="14">{escape(unit)}</text>',
    ]
    for mark in range(round((high - low) / step) + 1):
        value = low + mark * step
        out.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,g}</text>')
    decade = 10 if last - first <= 150 else nice((last - first) / 10)
    for year in range(math.ceil(first / decade) * decade, last + 1, decade):
        out.append(f'<text x="{x(year):.1f}" y="{BOTTOM + 22}" text-anchor="middle">{year}</text>')

    out.append(f'<path class="thread" d="{line(values)}"/>')
    if change:
        out.extend(levels(change, x, y, first, last))
    if trend:
        out.append(f'<path class="trend" d="{line(trend)}"/>')
    lowest = {year for year, _ in dry}
    for year, value in values:
        kind, radius = ("dry", 4.5) if year in lowest else ("value", 2.6)
        out.append(
            f'<circle class="{kind}" cx="{x(year):.1f}" cy="{y(value):.1f}" r="{radius}">'
            f"<title>{year}: {value:g}</title></circle>"
        )
    for year, value in dry[:1]:
        out.append(f'<text class="dry-text" x="{x(year) + 9:.1f}" y="{y(value) + 4:.1f}">{year}: {value:g}</text>')
    out.extend(stripes(values, x))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def levels(change, x, y, first, last):
    """The two levels and the line between them."""
    cut = change["last_year_before"] + 0.5
    yield f'<path class="cut" d="M{x(cut):.1f} {TOP}V{BOTTOM}"/>'
    yield (
        f'<text class="level-text" x="{x(cut) + 8:.1f}" y="{TOP + 12}">'
        f"after {change['last_year_before']}: {change['level_before']:,.0f} becomes {change['level_after']:,.0f}</text>"
    )
    for begin, end, level in ((first, cut, change["level_before"]), (cut, last, change["level_after"])):
        yield f'<path class="level" d="M{x(begin):.1f} {y(level):.1f}H{x(end):.1f}"/>'


def stripes(values, x):
    """One stripe a year, from the lowest (sand) over the mean (pale) to the highest value (water)."""
    mean = sum(value for _, value in values) / len(values)
    most = max(abs(value - mean) for _, value in values) or 1
    top, height = STRIPES
    wide = (RIGHT - LEFT) / len(values)
    for index, (year, value) in enumerate(values):
        part = (value - mean) / most
        ends = ((236, 232, 221), (3, 89, 148)) if part >= 0 else ((236, 232, 221), (190, 82, 18))
        share = min(1.0, abs(part) ** 0.8)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(*ends, strict=True))
        yield (
            f'<rect x="{LEFT + index * wide:.2f}" y="{top}" width="{wide + 0.3:.2f}" height="{height}" '
            f'fill="#{red:02x}{green:02x}{blue:02x}"><title>{year}: {value:g}</title></rect>'
        )
    yield f'<text x="{LEFT}" y="{top + height + 18}">each year against the mean: dry (sand) to wet (water)</text>'


def nice(span):
    """A round step near span: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(span)) if span > 0 else 1.0
    step = next(factor for factor in (1, 2, 5, 10) if span <= factor * power * 1.000001) * power
    return int(step) if step >= 1 else step
