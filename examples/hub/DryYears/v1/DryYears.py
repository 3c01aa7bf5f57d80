"""The lowest values of a yearly series.

Input: series (CSV file: year, value). Parameter: percent (how many of all years, 5 if not set).
Output: years (CSV file: year, value; the lowest first).
"""

import csv
import math
import tempfile
from pathlib import Path

import ServiceUtility


def start(c, series, percent):
    try:
        percent = float(percent or 5)
        if not 0 < percent <= 100:
            raise ValueError
    except ValueError:
        raise ValueError(f"percent is {percent!r}; a number above 0, at most 100, is expected") from None
    with open(series, newline="", encoding="utf-8") as lines:
        header, *rows = csv.reader(lines)
    rows.sort(key=lambda row: float(row[1]))
    lowest = rows[: math.ceil(len(rows) * percent / 100)]
    ServiceUtility.info(c, f"driest year: {lowest[0][0]}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dry.csv")
        with path.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([header, *lowest])
        return ServiceUtility.make_available(c, [[str(path), path.name]])
