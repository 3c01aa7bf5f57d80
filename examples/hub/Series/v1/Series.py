"""A yearly series: a CSV file of the user's, or a sample that comes with this service.

Input: file (a path or URI of a CSV file with a header and two columns, year and value), or not connected.
Parameter: sample (name of a sample, `nile`), used when no file is connected.
Outputs: series (the CSV file), source (a text file that says where the numbers come from).
"""

import csv
import tempfile
from pathlib import Path

import ServiceUtility

SAMPLES = Path(__file__).parent / "data"


def start(c, file, sample):
    if file:
        path, name = ServiceUtility.from_uri(file)
        source = f"{name}, given by the user of the workflow.\n"
    else:
        known = sorted(found.stem for found in SAMPLES.glob("*.csv"))
        sample = sample or "nile"
        if sample not in known:
            raise ValueError(f"there is no sample {sample!r}; there is: {', '.join(known)}")
        path, name = SAMPLES / f"{sample}.csv", f"{sample}.csv"
        source = (SAMPLES / f"{sample}.txt").read_text(encoding="utf-8")
    rows = check(path)
    ServiceUtility.info(c, f"{rows} values in {name}")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "source.txt")
        text.write_text(source, encoding="utf-8")
        return ServiceUtility.make_available(c, [[str(path), name], [str(text), "source.txt"]])


def check(path):
    """Number of values in the file; raises ValueError with the line that is not a year and a number."""
    with open(path, newline="", encoding="utf-8") as lines:
        reader = csv.reader(lines)
        next(reader, None)
        rows = 0
        for row in reader:
            try:
                year, value = row
                int(year), float(value)
            except ValueError:
                raise ValueError(f"line {reader.line_num} is not `year,value`: {','.join(row)[:80]!r}") from None
            rows += 1
    if rows < 10:
        raise ValueError(f"only {rows} values; a series of at least 10 is needed")
    return rows
