"""Services: found in the hub, imported as `<Service>.v<version>.<Service>`, called as the contract says.

Several versions of a service, and services named like modules of Python or of an installed package, live side by side:
a service's own modules are put into `sys.modules` under their full names, a name that belongs to somebody else is
never taken from them. Modules that a service imports from its own folder by a plain name (`import helper`), and what
it does to `sys.path`, are its own as long as one node runs at a time in a process; with threads they are shared.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from peachctl.errors import PeachError
from peachctl.names import printable, quoted
from peachctl.runtime.failure import ServiceError
from peachctl.workflow import Service


@dataclass(slots=True)
class Located:
    """A service at its version: the folder that holds `<Service>.py`, and what it declares, where that is known."""

    id: str
    version: int
    folder: Path
    declared: Service | None
    path: list[str] = field(default_factory=list)
    """`sys.path` as this service left it; empty before its import."""
    own: dict[str, ModuleType] = field(default_factory=dict)
    """Modules that it imported from the hub by plain names."""

    @property
    def name(self) -> str:
        return f"{printable(self.id, 80)} {self.version}"

    @property
    def module(self) -> str:
        return f"{self.id}.v{self.version}.{self.id}"


class Hub:
    """The service hub as the workflow's process sees it. folder: absolute."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._root = os.path.realpath(folder)
        self._located: dict[tuple[str, int], Located | ServiceError] = {}
        self._deep: dict[tuple[str, int], tuple[Path, Service]] | None = None
        self._starts: dict[tuple[str, int], Callable[..., Any]] = {}
        self._lock = threading.RLock()
        self._known: set[str] = set(sys.modules)
        self._base_path: list[str] = []

    def open(self) -> None:
        """Puts the hub on `sys.path`: at its end, so that a service named like a module shadows nothing."""
        if str(self.folder) not in sys.path:
            sys.path.append(str(self.folder))
        self._base_path = list(sys.path)
        self._known = set(sys.modules)

    def locate(self, id: str, version: int) -> Located:
        """Where a service's version lies. Raises ServiceError if the hub has none such."""
        found = self._located.get((id, version))
        if found is None:
            try:
                found = self._locate(id, version)
            except ServiceError as error:
                found = error
            self._located[(id, version)] = found
        if isinstance(found, ServiceError):
            raise found
        return found

    def _locate(self, id: str, version: int) -> Located:
        shown = f"service {quoted(id, 80)} {version}"
        if not is_component(id) or not isinstance(version, int):
            raise ServiceError(f"{shown} is no name that a folder of the hub could have")
        for number in (f"v{version}", f"v-{version}"):
            folder = self.folder / id / number
            if _is_file(folder / f"{id}.py"):
                return Located(id, version, folder, declared_in(folder))
        if self._deep is None:
            self._deep = dict(self._configured())
        deep = self._deep.get((id, version))
        if deep is None:
            raise ServiceError(f"{shown} is not in the hub {self.folder}", "`peachctl services list` shows what is")
        folder, service = deep
        if not _is_file(folder / f"{id}.py"):
            raise ServiceError(f"{shown} has no {id}.py in {folder}")
        return Located(id, version, folder, service)

    def _configured(self) -> Iterator[tuple[tuple[str, int], tuple[Path, Service]]]:
        """Services at any depth, by their configs. Raises ServiceError where the hub can't be read."""
        from peachctl.hub import find_services

        try:
            for found in find_services(self.folder).services:
                yield (found.service.id, found.service.version), (found.path, found.service)
        except PeachError as error:
            raise ServiceError(error.message, error.hint) from error

    @contextmanager
    def surroundings(self, located: Located, *, alone: bool) -> Iterator[None]:
        """The import state that a service finds: its own `sys.path` and modules. alone: nothing else runs in this
        process meanwhile, so that they are taken away again."""
        if not alone:
            yield
            return
        sys.path[:] = located.path or self._base_path
        sys.modules.update(located.own)
        try:
            yield
        finally:
            located.path = list(sys.path)
            sys.path[:] = self._base_path
            self._take_own(located)

    def _take_own(self, located: Located) -> None:
        fresh = sys.modules.keys() - self._known
        for name in fresh:
            module = sys.modules[name]
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and self._is_plain(name, file):
                located.own[name] = module
            else:
                self._known.add(name)
        for name in located.own:
            sys.modules.pop(name, None)

    def _is_plain(self, name: str, file: str) -> bool:
        """Whether a module of the hub was imported by a name that another service's module may have as well."""
        path = os.path.realpath(file)
        if not path.startswith(self._root + os.sep):
            return False
        inside = Path(path[len(self._root) + 1 :]).with_suffix("")
        parts = inside.parts[:-1] if inside.name == "__init__" else inside.parts
        return name != ".".join(parts) and not any(name.startswith(f"{key[0]}.v{key[1]}") for key in self._located)

    def start(self, located: Located) -> Callable[..., Any]:
        """The service's `start`, imported at the first call. Raises what its import raises, or ServiceError."""
        key = (located.id, located.version)
        start = self._starts.get(key)
        if start is None:
            with self._lock:
                start = self._starts.get(key)
                if start is None:
                    start = self._starts[key] = self._import(located)
        return start

    def _import(self, located: Located) -> Callable[..., Any]:
        if self._starts:
            # What an earlier service wrote a moment ago may be imported. Before the first, times of folders tell.
            importlib.invalidate_caches()
        id, folder = located.id, located.folder
        package = f"{id}.v{located.version}"
        made: list[str] = []
        try:
            if not self._is_foreign(id):
                self._load(id, folder.parent, folder.parent / "__init__.py", made)
            self._load(package, folder, folder / "__init__.py", made)
            module = self._load(f"{package}.{id}", None, folder / f"{id}.py", made)
        except BaseException:
            for name in made:
                sys.modules.pop(name, None)
            raise
        start = getattr(module, "start", None)
        if not callable(start):
            raise ServiceError(f"service {located.name} has no function `start` in {id}.py")
        return start  # type: ignore[no-any-return]

    def _is_foreign(self, name: str) -> bool:
        """Whether the top-level name belongs to something that is not the hub's."""
        present = sys.modules.get(name)
        if present is not None:
            return not any(str(place).startswith(str(self.folder)) for place in getattr(present, "__path__", ()))
        try:
            spec = importlib.util.find_spec(name) if name.isidentifier() else None
        except (ImportError, ValueError, AttributeError):
            return True
        places = list(spec.submodule_search_locations or ()) or [spec.origin or ""] if spec else []
        return bool(places) and not any(str(place).startswith(str(self.folder)) for place in places)

    @staticmethod
    def _load(name: str, search: Path | None, file: Path, made: list[str]) -> ModuleType:
        """Imports `file` as module `name` (a package if `search` is given; without the file an empty one)."""
        present = sys.modules.get(name)
        if present is not None:
            if search is not None and str(search) not in present.__path__:
                present.__path__ = [*present.__path__, str(search)]
            return present
        places = [str(search)] if search is not None else None
        if search is not None and not _is_file(file):
            module = ModuleType(name)
            module.__path__ = places  # type: ignore[assignment]
            module.__package__ = name
            sys.modules[name] = module
            made.append(name)
            return module
        spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
        if spec is None or spec.loader is None:
            raise ServiceError(f"{file} can't be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        made.append(name)
        spec.loader.exec_module(module)
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], last, module)
        return sys.modules[name]


def arguments(located: Located, inputs: Sequence[Any], parameters: Sequence[str | None]) -> list[Any]:
    """What `start` gets after `c`: as many inputs and parameters as the service declares, missing ones None.

    Nones beyond what it declares are dropped; a value beyond it raises ServiceError. Where the declaration can't be
    read they are passed as they are (contract, "Meaning").
    """
    declared = located.declared
    if declared is None:
        return [*inputs, *parameters]
    return [
        *_fitted(located, "input port", inputs, len(declared.input_ports)),
        *_fitted(located, "parameter", parameters, len(declared.params)),
    ]


def _fitted(located: Located, kind: str, values: Sequence[Any], count: int) -> list[Any]:
    for position in range(count, len(values)):
        if values[position] is not None:
            raise ServiceError(
                f"{kind} {position} is set, but service {located.name} declares {count}: "
                "the workflow was drawn for another version of it"
            )
    return [*values[:count], *[None] * (count - len(values))]


def by_port(located: Located, returned: Any, wanted: Sequence[int]) -> list[Any]:
    """What a service returned, one value per output port: a value that is no list is that of port 0, with None on
    the others. wanted: ports that are connected; one that is missing raises ServiceError, naming it."""
    if not isinstance(returned, list):
        return [returned, *[None] * max(wanted, default=0)]
    for port in wanted:
        if port >= len(returned):
            many = {0: "no values", 1: "1 value"}.get(len(returned), f"{len(returned)} values")
            raise ServiceError(
                f"service {located.name} returned {many}, but its output port {port}{_port_name(located, port)} "
                "is connected"
            )
    return returned


def _port_name(located: Located, port: int) -> str:
    ports = located.declared.output_ports if located.declared else ()
    return f" ({quoted(ports[port], 80)})" if port < len(ports) else ""


def declared_in(folder: Path) -> Service | None:
    """What the folder's `service.config` declares, None if there is none that can be read."""
    path = folder / "service.config"
    if not _is_file(path):
        return None
    try:
        from peachctl.wire import decode_service_config

        return decode_service_config(path.read_bytes())
    except (OSError, ValueError, PeachError):
        return None  # the naming alone says where it is; `peachctl services check` says what is wrong


def is_component(name: str) -> bool:
    """Whether the text can be the name of one folder."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


_current: Hub | None = None


def use(hub: Hub) -> None:
    """The hub of this process, for classes of services that have to be found again when results are unpickled."""
    global _current  # noqa: PLW0603 - one workflow per process
    _current = hub


def import_for_unpickling(id: str, version: int) -> None:
    """Imports a service so that classes of it can be unpickled; does nothing for what is no service."""
    if _current is None or f"{id}.v{version}.{id}" in sys.modules:
        return
    try:
        located = _current.locate(id, version)
    except ServiceError:
        return
    _current.start(located)
