"""Errors that know their sentence. Tracebacks are for bugs; everything here becomes one line and an exit status."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of the command, as units and scripts rely on them (docs/cli.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WORKFLOW = 3
    STATE = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


class PeachError(Exception):
    """Something that the user can be told in one sentence.

    message: what is wrong, with the input it is wrong with. hint: what to do or type next, or None.
    """

    exit: Exit = Exit.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(PeachError):
    """A configuration file, an environment variable or an option that cannot be used."""

    exit = Exit.USAGE


class StateError(PeachError):
    """No such id, or a thing that is not in a state for what was asked."""

    exit = Exit.STATE


class MadeAnewError(StateError):
    """A topic was deleted and made anew: what is known of its messages is of others. A person decides."""

    exit = Exit.FAILED


class UnreachableError(PeachError):
    """A server, or the database file, cannot be reached."""

    exit = Exit.UNREACHABLE


class RefusedError(UnreachableError):
    """A server that answers, but does not accept who we are, or we not who it is: waiting mends nothing."""


class WireError(PeachError):
    """Bytes or JSON that are not the message they should be.

    offset: byte offset of what is wrong, None for JSON. field: path of the field, such as
    `nodes[3].connections[0].port_idx`, '' for the message as a whole.
    """

    def __init__(self, problem: str, *, field: str = "", offset: int | None = None) -> None:
        where = ", ".join(
            part for part in (f"byte {offset}" if offset is not None else "", field and f"field {field}") if part
        )
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.field = field
        self.offset = offset
