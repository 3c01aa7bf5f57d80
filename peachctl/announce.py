"""The service list: the newest version of each service, published again and again so that clients can offer them.

The body is the `Service` records one after another, nothing between them (contract, "Service list"). A service whose
config can't be read is reported and left out, the others are published. Each list says everything: one that is lost,
or published by two at once, does no harm. So nothing is kept and nothing is retried before the next time is due.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from peachctl import wire
from peachctl.bus import MessageTooLarge
from peachctl.errors import ConfigError, PeachError, RefusedError, WireError
from peachctl.failpoint import fail_point
from peachctl.hub import Hub, newest
from peachctl.names import printable
from peachctl.workflow import Problem, Service

logger = logging.getLogger(__name__)

_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class ServiceList:
    """What is published: the services by id, their records, and what is wrong with those that are left out."""

    services: list[Service]
    body: bytes
    problems: list[Problem] = field(default_factory=list)


def service_list(hub: Hub) -> ServiceList:
    """The list as it is published now. Raises PeachError for a hub without a service: an empty list would take from
    all clients what they offer."""
    services, body, problems = [], bytearray(), list(hub.problems)
    for service in newest(hub):
        try:
            body += wire.encode_services([service])
        except WireError as error:
            problems.append(Problem("bad_config", service.id, f"cannot be published: {error.message}"))
            continue
        services.append(service)
    if not services:
        raise PeachError(f"the service hub {hub.folder} holds no service: no list is published", "set folders.hub")
    return ServiceList(services, bytes(body), problems)


class Announcer:
    """Publishes the list each `every` seconds, in a thread of its own: neither a slow hub nor a broker that is away
    holds up anybody else.

    load_hub: finds the services. send: hands one message to the broker and returns when it was acknowledged; raises
    PeachError (MessageTooLarge among them). close: is called in that thread at its end.
    """

    def __init__(
        self,
        load_hub: Callable[[], Hub],
        send: Callable[[bytes], object],
        every: float,
        *,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._load_hub = load_hub
        self._send = send
        self.every = every
        self._close = close
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._said: str | None = None
        self._problems: list[Problem] = []
        self._too_large: bytes | None = None
        self.published = 0
        """Lists that the broker acknowledged."""
        self.refused: PeachError | None = None
        """The error where the broker did not let us in at the last try: waiting would not help."""

    def publish(self) -> ServiceList | None:
        """Publishes the list now; None where it is the very one that was too large before. Raises PeachError."""
        found = service_list(self._load_hub())
        if found.problems != self._problems:
            self._problems = found.problems
            for problem in found.problems:
                logger.warning("%s: %s", printable(problem.where), printable(problem.message, 500))
        if found.body == self._too_large:
            return None
        try:
            self._send(found.body)
            fail_point("announce:sent")
        except MessageTooLarge:
            self._too_large = found.body
            raise
        self._too_large = None
        self.published += 1
        return found

    def step(self) -> bool:
        """`publish` for a loop: what goes wrong is said once, until it is another thing or well again. Returns whether
        a list was published."""
        try:
            found = self.publish()
        except PeachError as error:
            first = self.refused is None
            self.refused = error if isinstance(error, RefusedError | ConfigError) else None
            if self.refused is not None and first and not self.published:
                return False  # most likely the command ends for that very reason, and says it; else the next try does
            if self._said != error.message:
                logger.warning("service list: %s", printable(error.message, 500))
            self._said = error.message
            return False
        if found is not None and self._said is not None:
            logger.info("service list: published again")
            self._said = None
        self.refused = None
        return found is not None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits some seconds for a list that is on its way; the thread does not outlive the process in any case."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                try:
                    self.step()
                except Exception:  # a mistake of ours must not end the list for good, nor the consumer with it
                    logger.exception("service list: could not be published; this is a mistake in peachctl")
                unsaid = self.refused is not None and self._said is None
                self._ended.wait(min(self.every, _PATIENCE) if unsaid else self.every)
        finally:
            self._close()
