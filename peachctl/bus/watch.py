"""Names of files in one folder that were closed after writing or moved in, as watchdog hears of them.

A hint only: a folder that cannot be watched (no inotify left, a network file system) is swept all the same.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from peachctl.names import printable

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify_c import Mask

logger = logging.getLogger(__name__)


class Watch:
    """Watches one folder, not what is below it, in threads of watchdog's.

    wanted: which names count. pokes: eventfds that are written to when there is a new name. `names` takes what came
    since the last call. `ensure` watches anew where the folder was replaced; it is to be called now and then.
    """

    def __init__(self, folder: Path, wanted: Callable[[str], bool], pokes: Sequence[int]) -> None:
        self._folder = folder
        self._wanted = wanted
        self._pokes = pokes
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._warned = False
        self._stopped = False
        self.ensure()

    def names(self) -> list[str]:
        """In the order in which they were first heard of."""
        with self._lock:
            names, self._names = list(self._names), {}
        return names

    def ensure(self) -> None:
        """Starts to watch, or starts anew when the folder is another one than before."""
        try:
            status = self._folder.stat()
            identity = (status.st_dev, status.st_ino)
        except OSError:
            identity = None
        alive = self._observer is not None and all(one.is_alive() for one in self._observer.emitters)
        if alive and identity == self._watched:
            return
        self._end_observer()
        if identity is None:
            return
        try:
            self._observer = _start(os.path.realpath(self._folder), self._hear)
            self._watched = identity
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "%s cannot be watched (%s); it is looked at every few seconds instead",
                    printable(str(self._folder)),
                    error.strerror or error,
                )

    def stop(self) -> None:
        """No eventfd is written to after this."""
        with self._lock:
            self._stopped = True
        self._end_observer()

    def _end_observer(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)
            self._observer = None
            self._watched = None

    def _hear(self, event: "FileSystemEvent") -> None:
        """Called in a thread of watchdog's."""
        if event.is_directory or event.event_type not in ("closed", "created", "moved"):
            return
        name = Path(os.fsdecode(event.dest_path if event.event_type == "moved" else event.src_path)).name
        if not self._wanted(name):
            return
        with self._lock:
            self._names[name] = None
            if not self._stopped:
                for fd in self._pokes:
                    os.eventfd_write(fd, 1)


def _start(folder: str, hear: "Callable[[FileSystemEvent], None]") -> "BaseObserver":
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import InotifyConstants

    class Emitter(InotifyEmitter):
        # Its own choice of events includes what leaves a folder: each of our renames would then hold back all
        # that follows for half a second, in which it waits for the other half of the pair.
        def get_event_mask_from_filter(self) -> "Mask":
            wanted = InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_DELETE_SELF
            return cast("Mask", wanted)

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: "FileSystemEvent") -> None:
            hear(event)

    observer = BaseObserver(Emitter)
    observer.schedule(Handler(), folder)
    observer.start()
    return observer
