"""The post-mortem debugger at a failing node (`--pdb`), at the terminal, wherever stdin and stdout go."""

import contextlib
import os
import pdb
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO


def post_mortem(node: str, error: BaseException, trace: TracebackType | None) -> None:
    """Opens the debugger in the frame where the service failed; returns when the person leaves it. Without a terminal
    it says so and returns."""
    with _terminal() as streams:
        if streams is None:
            print("no terminal to debug at", file=sys.stderr)  # noqa: T201
            return
        read, write = streams
        print(f"node {node!r}: {type(error).__name__}: {error}", file=write)
        debugger = pdb.Pdb(stdin=read, stdout=write)
        debugger.reset()
        debugger.interaction(None, trace)


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[TextIO, TextIO] | None]:
    if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        yield sys.stdin, sys.stdout
        return
    name = os.environ.get("PEACHCTL_TTY") or "/dev/tty"  # a session of its own has no /dev/tty
    with contextlib.ExitStack() as opened:
        try:
            streams = opened.enter_context(open(name)), opened.enter_context(open(name, "w"))
        except OSError:
            yield None
            return
        yield streams
