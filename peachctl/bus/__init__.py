"""The port of the transport: messages in, events out. Adapters: `folder` and `kafka`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peachctl.errors import PeachError
from peachctl.store import Origin


@dataclass(frozen=True, slots=True)
class Message:
    """One message. body: its bytes. file: name under which it came through the inbox, else None (`.json` and `.wf`
    names hold JSON, all others Avro). priority: what the sender asked for. size: bytes of the whole message where the
    transport delivered only the beginning of one beyond its limit, else None; sha256: hex, of the whole one,
    where that is known then."""

    body: bytes
    origin: Origin
    file: str | None = None
    priority: int = 1
    size: int | None = None
    sha256: str | None = None


class MessageTooLarge(PeachError):
    """The transport takes no message of this size, and did not take this one."""


class Bus(Protocol):
    """Delivery is at least once: what was polled and neither acknowledged nor rejected comes again after a restart, and
    may come again before (where a transport gives it to another consumer, and back).

    A server that does not answer raises UnreachableError (out of `publish`: nothing is acknowledged) until it does: the
    same call is made again. RefusedError where a server does not accept us."""

    def poll(self, timeout: float, most: int) -> list[Message]:
        """Up to `most` messages, waiting at most `timeout` seconds; none is a value."""
        ...

    def vouch(self) -> None:
        """Says that what was polled is of the transport that it was opened for; asked for before it is filed for good.
        Raises MadeAnewError where a topic was made anew meanwhile."""
        ...

    def rest(self) -> None:
        """Nothing will be polled for a while."""
        ...

    def ack(self, messages: Sequence[Message]) -> None:
        """These are filed (or are dead letters in the store); they do not come again."""
        ...

    def reject(self, message: Message, reason: str, *, field: str = "", byte_offset: int | None = None) -> None:
        """Sets a refused message aside beside its reason, where people find it. A copy: the store counts. field,
        byte_offset: of what is wrong, as in a letter."""
        ...

    def publish(self, ids: Sequence[int]) -> list[int]:
        """Announces queue rows to executors; returns those that were acknowledged."""
        ...

    def drained(self) -> bool:
        """Whether all that was there when the bus was opened was delivered and acknowledged (asked after a `poll` that
        had no messages)."""
        ...

    def lag(self) -> int | None:
        """Messages that wait; None where that cannot be said, or not at little cost."""
        ...

    def close(self) -> None: ...
