"""The service hub: folders with services, found, described, and examined without importing them.

`<hub>/.../<Service>/v<version>/` holds `service.config`, `<Service>.py` and an `__init__.py` (contract, "The service
hub"). Nothing here runs code of a service.
"""

import ast
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peachctl.errors import PeachError, WireError
from peachctl.workflow import Problem, Service

CONFIG = "service.config"
_VERSION = re.compile(r"v-?[0-9]{1,10}")
_MOST_CONFIG_BYTES = 1 << 20
_MOST_SOURCE_BYTES = 16 << 20
_MOST_FOLDERS = 200_000


@dataclass(frozen=True, slots=True)
class Found:
    """A service at one version. path: its version folder; config: its `service.config`; both below the hub."""

    service: Service
    path: Path
    config: Path

    @property
    def root(self) -> Path:
        """The folder that must be on `sys.path`: the one that holds the service's folder (mostly the hub itself)."""
        return self.path.parent.parent

    @property
    def module(self) -> str:
        """The name it is imported by: `<Service>.v<version>.<Service>`."""
        return f"{self.path.parent.name}.{self.path.name}.{self.path.parent.name}"

    @property
    def code(self) -> Path:
        """The module's file."""
        return self.path / f"{self.path.parent.name}.py"


@dataclass(frozen=True, slots=True)
class Hub:
    """All services that were found, in the order of id and version, and what is wrong with folders left out."""

    folder: Path
    services: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def by_name(self) -> dict[str, dict[int, Service]]:
        """Services by id and version."""
        found: dict[str, dict[int, Service]] = {}
        for one in self.services:
            found.setdefault(one.service.id, {})[one.service.version] = one.service
        return found

    def find(self, name: str, version: int) -> Found | None:
        """A service at exactly this version."""
        return next((one for one in self.services if (one.service.id, one.service.version) == (name, version)), None)


def find_services(hub: Path, ignore: Sequence[str] = ()) -> Hub:
    """Looks through the hub at any depth. ignore: names of folders to leave out (`services.ignore`).

    A service whose config cannot be read, or does not agree with the folder it stands in, is left out and named in
    `problems`; the others go on. Raises PeachError where the hub itself cannot be read.
    """
    hub = hub.absolute()
    result = Hub(hub)
    known: dict[tuple[str, int], Path] = {}
    for folder in sorted(_version_folders(hub, frozenset(ignore), result.problems)):
        found = _read(hub, folder, result.problems)
        if found is None:
            continue
        key = (found.service.id, found.service.version)
        if key in known:
            text = f"version {key[1]} of {key[0]!r} stands in {_where(hub, known[key])} as well; this one is left out"
            result.problems.append(Problem("duplicate_service", _where(hub, found.config), text))
            continue
        known[key] = found.path
        result.services.append(found)
    result.services.sort(key=lambda one: (one.service.id, one.service.version))
    return result


def newest(hub: Hub) -> list[Service]:
    """The newest version of each service, by id: what the service list names."""
    return [versions[max(versions)] for _, versions in sorted(hub.by_name.items())]


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like this one, None where none is."""
    import difflib

    folded = {one.casefold(): one for one in sorted(known)}
    close = difflib.get_close_matches(name[:200].casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def code_files(folder: Path) -> list[Path]:
    """The files of a service's version that are its code, sorted: all but what running it makes.

    Left out are `output_*` folders beside the module, `__pycache__`, `*.pyc`, hidden folders, and whatever is no
    regular file. Linked files count, linked folders do not.
    """
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if name != "__pycache__"
            and not name.startswith(".")
            and not (here == folder and name.startswith("output_"))
            and not (here / name).is_symlink()
        ]
        found += [path for name in files if not name.endswith((".pyc", ".pyo")) and (path := here / name).is_file()]
    return sorted(found)


def _version_folders(hub: Path, ignore: frozenset[str], problems: list[Problem]) -> Iterator[Path]:
    """Folders named as a version that hold a config.

    Links to folders are followed after everything else, and only to folders that were not seen: so links cannot make
    a loop, and a second name for a service does not take the place of its own.
    """
    seen: set[tuple[int, int]] = set()
    plain, linked = [hub], list[Path]()
    while plain or linked:
        folder = plain.pop() if plain else linked.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if folder == hub:
                raise PeachError(
                    f"the service hub {hub} cannot be read: {error.strerror}", "folders.hub names it"
                ) from error
            problems.append(Problem("unreadable", _where(hub, folder), f"cannot be read: {error.strerror}"))
            continue
        if len(seen) > _MOST_FOLDERS:
            raise PeachError(
                f"the service hub {hub} holds more than {_MOST_FOLDERS:,} folders",
                "name those that are no services in services.ignore",
            )
        is_version = _VERSION.fullmatch(folder.name) is not None and folder != hub
        if is_version and any(entry.name == CONFIG for entry in entries):
            yield folder
        for entry in entries:
            name = entry.name
            # output_<time> is what a service writes beside its module; elsewhere the name may be a service's own.
            if name in ignore or name.startswith(".") or name == "__pycache__":
                continue
            if (is_version and name.startswith("output_")) or not _is_folder(entry):
                continue
            (linked if entry.is_symlink() else plain).append(Path(entry.path))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _where(hub: Path, path: Path) -> str:
    return os.path.relpath(path, hub)


def _read(hub: Path, folder: Path, problems: list[Problem]) -> Found | None:
    from peachctl import wire

    config = folder / CONFIG
    where = _where(hub, config)
    try:
        service = wire.decode_service_config(_read_bytes(config, _MOST_CONFIG_BYTES))
    except OSError as error:
        problems.append(Problem("unreadable_config", where, f"cannot be read: {error.strerror}"))
        return None
    except (WireError, ValueError) as error:
        problems.append(Problem("bad_config", where, f"is no service.config: {error}"))
        return None
    name = folder.parent.name
    if folder.parent == hub:
        text = f"stands right in the hub; its place is {service.id}/{folder.name}/"
        problems.append(Problem("misplaced", where, text))
        return None
    if service.id != name:
        text = f"says that the service is {service.id!r}, but it stands in a folder {name!r}; the two must agree"
        problems.append(Problem("name_mismatch", where, text))
        return None
    if service.version not in {int(folder.name[1:]), abs(int(folder.name[1:]))}:
        text = f"says version {service.version}, but it stands in a folder {folder.name!r}; the two must agree"
        problems.append(Problem("version_mismatch", where, text))
        return None
    return Found(service, folder, config)


def _read_bytes(path: Path, most: int) -> bytes:
    # Non-blocking: a named pipe in the hub must not stop who looks through it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no regular file")
        body = stream.read(most + 1)
    if len(body) > most:
        raise ValueError(f"more than {most >> 20} MiB")
    return body


def check_service(found: Found) -> list[Problem]:
    """What is wrong with a service's folder and code, as far as reading tells; nothing is imported."""
    name = found.service.id
    hub = found.root
    problems = []
    if not name.strip() or "." in name or "/" in name or "\0" in name:
        text = f"the name {name!r} cannot be imported: a module's name holds no dot"
        problems.append(Problem("bad_name", _where(hub, found.path), text))
    elif name in sys.stdlib_module_names:
        text = f"the name {name!r} is that of a module of Python's own; one of the two will not be found"
        problems.append(Problem("name_taken", _where(hub, found.path), text))
    for folder in (found.path.parent, found.path):
        if not (folder / "__init__.py").is_file():
            text = "there is no __init__.py in it (an empty one will do)"
            problems.append(Problem("no_init", _where(hub, folder), text))
    if not found.code.is_file():
        text = f"there is no {found.code.name} in it"
        problems.append(Problem("no_module", _where(hub, found.path), text))
    for file in code_files(found.path):
        if file.suffix != ".py":
            continue
        where = _where(hub, file)
        tree = _parse(file, where, name, problems)
        if tree is None:
            continue
        problems += _gone_imports(tree, where)
        if file == found.code:
            problems += _check_start(tree, found.service, where)
    return problems


def _parse(file: Path, where: str, name: str, problems: list[Problem]) -> ast.Module | None:
    from peachctl import porting

    try:
        body = _read_bytes(file, _MOST_SOURCE_BYTES)
    except OSError as error:
        problems.append(Problem("unreadable", where, f"cannot be read: {error.strerror}"))
        return None
    except ValueError as error:
        problems.append(Problem("unreadable", where, f"cannot be read: {error}"))
        return None
    reason = porting.why_python_2(body)
    if reason is not None:
        text = f"is Python 2 ({reason}): `peachctl services port {name}` shows what has to change"
        problems.append(Problem("python2", where, text))
    try:
        return porting.parse(body)
    except SyntaxError as error:
        if reason is None:
            line = f"line {error.lineno}: " if error.lineno else ""
            problems.append(Problem("syntax", where, f"{line}{error.msg}"))
        return None


def _gone_imports(tree: ast.Module, where: str) -> Iterator[Problem]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, one.name) for one in node.names if one.name.partition(".")[0] == "library"]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            if node.module.partition(".")[0] == "library":
                found.append((node.lineno, node.module))
            elif node.module == "ServiceUtility" and any(one.name == "mysql_info" for one in node.names):
                found.append((node.lineno, "ServiceUtility.mysql_info"))
        elif isinstance(node, ast.Attribute) and node.attr == "mysql_info" and isinstance(node.value, ast.Name):
            found.append((node.lineno, f"{node.value.id}.mysql_info"))
    for line, name in found:
        text = f"line {line}: {name} of 2017 is gone: services get neither the database nor the backend's library"
        yield Problem("gone", where, text)


def _check_start(tree: ast.Module, service: Service, where: str) -> list[Problem]:
    last: ast.stmt | None = None
    for node, names in _module_level(tree.body):
        if "start" in names:
            last = node
    ports = (*service.input_ports, *(param.key for param in service.params))
    want = ", ".join(("c", *ports))
    if last is None:
        if any("*" in names for _, names in _module_level(tree.body)):
            return []
        return [Problem("no_start", where, f"there is no function start({want})")]
    if isinstance(last, ast.AsyncFunctionDef):
        return [Problem("start", where, f"line {last.lineno}: start must be a plain function, not an async one")]
    if not isinstance(last, ast.FunctionDef) or last.decorator_list:
        return []  # imported, assigned or wrapped: only a run can tell
    arguments = last.args
    most = len(arguments.posonlyargs) + len(arguments.args)
    least = most - len(arguments.defaults)
    unset = [one.arg for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if not default]
    if unset:
        text = f"line {last.lineno}: start is called by position, so {unset[0]!r} would never be given"
        return [Problem("start", where, text)]
    given = 1 + len(ports)
    if given < least or (given > most and arguments.vararg is None):
        takes = f"{least} to {most}" if least != most else str(most)
        text = (
            f"line {last.lineno}: start takes {takes} arguments, but gets {given}: start({want})"
            f" ({len(service.input_ports)} inputs and {len(service.params)} parameters, as service.config says)"
        )
        return [Problem("arguments", where, text)]
    return []


def _module_level(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, list[str]]]:
    """What a module binds at its top level, also below `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node, [node.name]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node, [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Assign):
            yield node, [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node, [node.target.id]
        else:
            for name in ("body", "orelse", "finalbody"):
                yield from _module_level(getattr(node, name, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _module_level(handler.body)
