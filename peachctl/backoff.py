"""How long to wait before what failed is tried again, where only time can help: a disk that is full."""

import time


class Backoff:
    """first, most: seconds of the first wait, and of the longest; each is twice as long as the one before."""

    def __init__(self, first: float = 1.0, most: float = 30.0) -> None:
        self._first = self._wait = first
        self._most = most
        self._at = 0.0

    @property
    def due(self) -> bool:
        """Whether the wait is over."""
        return self.left == 0.0

    @property
    def left(self) -> float:
        """Seconds of the wait that are left."""
        return max(0.0, self._at - time.monotonic())

    @property
    def failing(self) -> bool:
        """Whether it has failed, and not gone well since."""
        return self._at > 0.0

    def later(self) -> None:
        """A wait begins."""
        self._at = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, self._most)

    def over(self) -> None:
        """All is well again."""
        self._wait, self._at = self._first, 0.0
