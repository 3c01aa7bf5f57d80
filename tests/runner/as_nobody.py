"""Becomes an ordinary user and runs pytest: `as_nobody.py [--mask-proc] PYTEST-ARGUMENT...`; to be started as root.

In a mount namespace of its own, in which interpreter and checkout can be reached by everybody, wherever they are.
--mask-proc: `/proc` is partly hidden, as units and containers have it, so that no other one may be mounted below.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

NOBODY = 65534
GROUP = 4242
_NEW_MOUNTS, _BIND, _REC, _PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    if result != 0:
        raise OSError(ctypes.get_errno(), f"mount of {source} on {target}")


def closed_to_others(path: Path) -> Path | None:
    """The outermost folder on the way to `path` that others may not enter."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)


def open_up(paths: list[Path]) -> None:
    stand_in = Path(tempfile.mkdtemp())
    hidden = []
    for number, path in enumerate(paths):
        if closed_to_others(path) is not None:
            (stand_in / str(number)).mkdir()
            mount(str(path), stand_in / str(number), "none", _BIND | _REC)
            hidden.append((number, path))
    for number, path in hidden:
        while (closed := closed_to_others(path)) is not None:
            mount("none", closed, "tmpfs", 0, "mode=0755")
            path.mkdir(parents=True, exist_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        mount(str(stand_in / str(number)), path, "none", _BIND | _REC)


def main() -> None:
    arguments = sys.argv[1:]
    mask = arguments[0] == "--mask-proc"
    paths = {Path(one).resolve() for one in (sys.base_prefix, sys.prefix, Path(__file__).parents[2])}
    if mask or any(closed_to_others(path) for path in paths):
        if _libc.unshare(_NEW_MOUNTS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        mount("none", Path("/"), "none", _REC | _PRIVATE)
        open_up(sorted(paths))
    if mask:
        mount("/dev/null", Path("/proc/sys/kernel/hostname"), "none", _BIND)
    os.setgroups([GROUP])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir(Path(__file__).parents[2])
    environment = {**os.environ, "HOME": tempfile.mkdtemp(), "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *arguments[mask:]], environment)


if __name__ == "__main__":
    main()
