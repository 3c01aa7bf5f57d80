"""Claims that go back to the queue because nothing runs under them any more."""

from collections.abc import Callable

from peachctl.failpoint import fail_point
from peachctl.store import Claim, Store


class Returns:
    """What one executor has to give back, kept until that is written. Should the executor be gone by then, whoever
    finds its lock free gives it back.

    between: called between two writes to the database, each of which may take its time; raises UnreachableError as they
    do.
    """

    def __init__(self, store: Store, max_attempts: int, between: Callable[[], None]) -> None:
        self._store = store
        self._max_attempts = max_attempts
        self._between = between
        self._owed: list[tuple[Claim, bool, str]] = []

    @property
    def claims(self) -> list[Claim]:
        """Those whose leases are to be renewed meanwhile."""
        return [claim for claim, _, _ in self._owed]

    def add(self, claim: Claim, *, vanished: bool, reason: str) -> None:
        """vanished: whether it counts as an attempt whose end nobody saw."""
        self._owed.append((claim, vanished, reason))

    def write(self) -> None:
        """Raises UnreachableError; what was not written is kept then."""
        while self._owed:
            claim, vanished, reason = self._owed[0]
            self._store.give_back(claim, vanished=vanished, max_attempts=self._max_attempts, reason=reason)
            fail_point("execute:given-back")
            del self._owed[0]
            if self._owed:
                self._between()
