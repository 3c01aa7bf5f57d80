"""One page about a yearly series: its values, trend, change of level and lowest years.

Inputs: series, trend, dry (CSV files), change (JSON file), source (text file); all but series may be left out.
Parameters: title, unit. Outputs: page (HTML file, needs nothing from elsewhere), picture (SVG file).
"""

import csv
import json
import tempfile
from html import escape
from pathlib import Path
from string import Template

import ServiceUtility
from SeriesPage.v1.chart import draw

HERE = Path(__file__).parent


def start(c, series, trend, change, dry, source, title, unit):
    if not series:
        raise ValueError("the input port `series` is not connected")
    title, unit = title or "A yearly series", unit or "value"
    values = read(series)
    lowest = read(dry) if dry else []
    change = json.loads(Path(change).read_text(encoding="utf-8")) if change else None
    source = Path(source).read_text(encoding="utf-8") if source else ""
    picture = draw(values, read(trend) if trend else [], change, lowest, title, unit)
    page = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        years=f"{values[0][0]} to {values[-1][0]}",
        unit=escape(unit),
        tiles="".join(tile(*texts) for texts in figures(values, change)),
        picture=picture,
        rows="".join(f"<tr><td>{year}</td><td>{value:g}</td></tr>" for year, value in lowest),
        source=escape(source),
    )
    with tempfile.TemporaryDirectory() as folder:
        html, svg = Path(folder, "series.html"), Path(folder, "series.svg")
        html.write_text(page, encoding="utf-8")
        svg.write_text(picture, encoding="utf-8")
        return ServiceUtility.make_available(c, [[str(html), html.name], [str(svg), svg.name]])


def read(path):
    """[(year, value), ...] of a CSV file with a header."""
    with open(path, newline="", encoding="utf-8") as lines:
        return [(int(year), float(value)) for year, value in list(csv.reader(lines))[1:]]


def figures(values, change):
    """The numbers at the head of the page: (number, what it is)."""
    if change:
        before, after = change["level_before"], change["level_after"]
        at = change["last_year_before"]
        share = f"{(after - before) / before:+.0%}" if before else f"{after - before:+g}"
        yield f"{before:,.0f}", f"mean up to {at}"
        yield f"{after:,.0f}", f"mean from {at + 1} on"
        yield share.replace("-", "\u2212"), "change of level"
        yield f"{change['p']:.4f}", f"p, of {change['trials']:,} shuffles"
    else:
        yield f"{sum(value for _, value in values) / len(values):,.0f}", "mean"


def tile(number, text):
    return f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>"
