"""Where the level of a yearly series changes: the year that splits it best into two constant levels.

How likely such a split is by chance is found by shuffling the years (a permutation test with a fixed seed).
Input: series (CSV file: year, value). Parameter: trials (number of shuffles, 2000 if not set).
Output: change (JSON file: last_year_before, level_before, level_after, p, trials).
"""

import csv
import json
import random
import tempfile
from pathlib import Path

import ServiceUtility


def start(c, series, trials):
    try:
        trials = int(trials or 2000)
        if not 1 <= trials <= 1_000_000:
            raise ValueError
    except ValueError:
        raise ValueError(f"trials is {trials!r}; a whole number from 1 to 1000000 is expected") from None
    with open(series, newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))[1:]
    values = [float(value) for _, value in rows]
    at, gain = split(values)
    shuffled, chance = values[:], random.Random(1)
    as_good = 0
    for _ in range(trials):
        chance.shuffle(shuffled)
        as_good += split(shuffled)[1] >= gain
    change = {
        "last_year_before": int(rows[at - 1][0]),
        "level_before": round(sum(values[:at]) / at, 2),
        "level_after": round(sum(values[at:]) / (len(values) - at), 2),
        "p": (as_good + 1) / (trials + 1),
        "trials": trials,
    }
    ServiceUtility.info(c, f"the level changes after {change['last_year_before']}, p = {change['p']:.4f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "change.json")
        path.write_text(json.dumps(change, indent=1) + "\n", encoding="utf-8")
        return ServiceUtility.make_available(c, [[str(path), path.name]])


def split(values):
    """(number of values before the best split, how much it lowers the sum of squared deviations)."""
    total, size = sum(values), len(values)
    best, before = (1, -1.0), 0.0
    for at, value in enumerate(values[:-1], start=1):
        before += value
        gain = (before - at * total / size) ** 2 * size / (at * (size - at))
        if gain > best[1]:
            best = (at, gain)
    return best
