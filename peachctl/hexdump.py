"""A refused message around the spot that is wrong: its bytes, or the line of its text."""

from peachctl.masking import mask


def around(body: bytes, offset: int, *, reveal: bool = False) -> list[str]:
    """Three lines of 16 bytes around `offset` (bytes), the middle one with a caret under the byte. Where the text of
    the window holds a password (masked otherwise), its bytes are not shown."""
    start = max(0, (offset - 16) // 16 * 16)
    window = body[start : start + 48]
    text = body.decode("latin-1")
    if not reveal and mask(text) != text:
        return ["(its bytes hold a password; --reveal shows them)"]
    lines = []
    for at in range(0, len(window), 16):
        part = window[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start + at:08x}  {part.hex(' '):<47}  {shown}")
        if start + at <= offset < start + at + 16:
            lines.append(" " * (10 + 3 * (offset - start - at)) + "^^")
    if offset >= len(body):
        lines.append(f"{len(body):08x}  (the message ends here)")
    return lines


def around_text(text: str, line: int, column: int, *, reveal: bool = False) -> list[str]:
    """The piece of a line (both from 1) with a caret under the column. Not shown where the text holds a password."""
    if not reveal and mask(text) != text:
        return ["(its text holds a password; --reveal shows it)"]
    lines = text.split("\n")
    whole = lines[line - 1] if line <= len(lines) else ""
    start = max(0, column - 33)
    shown = "".join(char if char.isprintable() else "." for char in whole[start : start + 64])
    before = f"{line:>5}  {'…' if start else ''}"
    return [f"{before}{shown}{'…' if start + 64 < len(whole) else ''}", " " * (len(before) + column - 1 - start) + "^"]
