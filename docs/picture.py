"""Writes docs/run.svg: a picture of a real run, taken from a terminal in memory while the example runs.

    python docs/picture.py

Runs `peachctl run examples/workflows/nile.bin` under a pseudo terminal, with a data folder of its own, and draws the
screen as it stands at the end. Nothing is retouched but the name of the temporary home folder.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import tempfile
import termios
from html import escape
from pathlib import Path
from typing import Any

import pyte

TOP = Path(__file__).parent.parent
TARGET = TOP / "docs" / "run.svg"
COMMAND = ["peachctl", "run", "examples/workflows/nile.bin"]
COLUMNS, LINES = 100, 40
CELL, ROW, MARGIN, BAR = 8.4, 20, 20, 34  # pixels: width and height of a cell, margin, title bar

GROUND, INK, SOFT = "#0b1220", "#dbe4ef", "#64748b"
COLOURS = {
    "default": INK, "black": "#475569", "red": "#f87171", "green": "#4ade80", "brown": "#fbbf24", "blue": "#60a5fa",
    "magenta": "#e879f9", "cyan": "#22d3ee", "white": "#e2e8f0", "brightblack": SOFT, "brightred": "#fca5a5",
    "brightgreen": "#86efac", "brightbrown": "#fde047", "brightyellow": "#fde047", "brightblue": "#93c5fd",
    "brightmagenta": "#f0abfc", "brightcyan": "#67e8f9", "brightwhite": "#ffffff",
}  # fmt: skip


def record(home: Path) -> "pyte.Screen":
    """The screen after the command has run in a terminal of COLUMNS x LINES. Raises RuntimeError where it failed."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PEACHCTL_", "XDG_"))}
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        more = {"HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "", "PATH": path, "LANG": "C.UTF-8"}
        for name in ("NO_COLOR", "CI", "COLUMNS", "LINES"):
            kept.pop(name, None)
        os.chdir(TOP)
        os.execvpe(COMMAND[0], COMMAND, {**kept, **more})
    while select.select([terminal], [], [], 60)[0]:
        try:
            seen = os.read(terminal, 1 << 16)
        except OSError:  # Linux says EIO when the other end has been closed
            break
        stream.feed(seen)
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RuntimeError(f"{' '.join(COMMAND)} ended with {status}:\n" + "\n".join(screen.display))
    return screen


def spans(row: Any) -> list[tuple[int, str, Any]]:
    """(column, text, style) of the stretches of one style in a row; blanks at the end are left out."""
    found: list[tuple[int, str, Any]] = []
    for column in range(COLUMNS):
        cell = row[column]
        style = (cell.fg, cell.bold, cell.reverse)
        if found and found[-1][2] == style:
            start, text, _ = found[-1]
            found[-1] = (start, text + cell.data, style)
        else:
            found.append((column, cell.data, style))
    return [(column, text, style) for column, text, style in found if text.strip()]


def draw(screen: "pyte.Screen", home: Path) -> str:
    """The screen as SVG: no font and no image from elsewhere, so that it is shown wherever README is."""
    rows = [spans(screen.buffer[line]) for line in range(LINES)]
    while rows and not rows[-1]:
        rows.pop()
    width = round(COLUMNS * CELL + 2 * MARGIN)
    height = BAR + (len(rows) + 1) * ROW + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>A run of the example, as a terminal shows it</title>",
        "<style>text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace;"
        " white-space: pre }</style>",
        f'<rect width="{width}" height="{height}" rx="10" fill="{GROUND}"/>',
    ]
    for index, colour in enumerate(("#f87171", "#fbbf24", "#4ade80")):
        out.append(f'<circle cx="{MARGIN + index * 20}" cy="22" r="6" fill="{colour}"/>')
    y = BAR + MARGIN
    prompt = f'<tspan fill="{SOFT}">$ </tspan>{escape(" ".join(COMMAND))}'
    out.append(f'<text x="{MARGIN}" y="{y}" fill="{INK}" font-weight="bold">{prompt}</text>')
    for row in rows:
        y += ROW
        for column, text, (colour, bold, reverse) in row:
            shown = text.rstrip().replace(str(home), "~")
            fill = COLOURS.get(colour, f"#{colour}" if len(colour) == 6 else INK)
            weight = ' font-weight="bold"' if bold else ""
            # Every character in its cell, whatever the font's own widths are.
            xs = " ".join(f"{MARGIN + (column + at) * CELL:.1f}" for at in range(len(shown)))
            if reverse:
                out.append(
                    f'<rect x="{MARGIN + column * CELL:.1f}" y="{y - 15}" width="{len(text) * CELL:.1f}" '
                    f'height="{ROW}" fill="{fill}"/>'
                )
                fill = GROUND
            out.append(f'<text x="{xs}" y="{y}" fill="{fill}"{weight}>{escape(shown)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="p") as folder:
        TARGET.write_text(draw(record(Path(folder)), Path(folder)), encoding="utf-8")
