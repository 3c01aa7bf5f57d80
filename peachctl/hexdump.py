"""The bytes of a refused message around the spot that is wrong."""

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
