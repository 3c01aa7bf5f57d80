"""The smooth course of a yearly series: at each year a line is fitted to its neighbourhood (local linear regression).

Input: series (CSV file: year, value). Parameter: width (standard deviation of the Gaussian weights in years, 6 if not
set). Output: trend (CSV file: year, trend).
"""

import csv
import math
import tempfile
from pathlib import Path

import ServiceUtility


def start(c, series, width):
    try:
        width = float(width or 6)
        if not 0 < width < math.inf:
            raise ValueError
    except ValueError:
        raise ValueError(f"width is {width!r}; a number of years above 0 is expected") from None
    with open(series, newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))[1:]
    years = [int(year) for year, _ in rows]
    values = [float(value) for _, value in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trend.csv")
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["year", "trend"])
            for year in years:
                writer.writerow([year, f"{smooth(years, values, year, width):.2f}"])
        return ServiceUtility.make_available(c, [[str(path), path.name]])


def smooth(years, values, at, width):
    """Value at `at` of the line that fits best, neighbours weighted by their distance."""
    weights = [math.exp(-0.5 * ((year - at) / width) ** 2) for year in years]
    total = sum(weights)
    x = sum(w * (year - at) for w, year in zip(weights, years, strict=True)) / total
    y = sum(w * value for w, value in zip(weights, values, strict=True)) / total
    spread = sum(w * (year - at - x) ** 2 for w, year in zip(weights, years, strict=True))
    slope = (
        sum(w * (year - at - x) * (value - y) for w, year, value in zip(weights, years, values, strict=True)) / spread
        if spread > 1e-12
        else 0.0
    )
    return y - slope * x
