"""The two configuration files of 2017 (peachBackendConfig.py, peachSharedConfig.py) as a `peachctl.toml`.

They are Python modules. They are read as syntax trees, never executed: plain assignments of plain values count.
Names and keys are those of the samples in PeachBackend and PeachShared.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peachctl.errors import ConfigError

_MOST_BYTES = 1 << 20
_PLACEHOLDER = re.compile(r"<[A-Za-z_ ]+>")

# (variable, key in it) -> our key. The first file's value wins where two give one, the backend's before the shared.
_TEXTS = {
    ("queue_path", ""): "folders.queue",
    ("service_hub_path", ""): "folders.hub",
    ("temp_locations", "workflow_temp"): "folders.workflow_temp",
    ("temp_locations", "download_workflow_temp"): "folders.download_workflows",
    ("temp_locations", "download_workflows_temp"): "folders.download_workflows",
    ("temp_locations", "download_files_temp"): "folders.download_files",
    ("events", "workflow_execute-workflow"): "kafka.topic_execute",
    ("events", "workflow_workflow-processed"): "kafka.topic_processed",
    ("events", "Service_serviceListUpdated"): "kafka.topic_services",
    ("events", "sendWorkflow"): "kafka.topic_execute",
    ("events", "serviceList"): "kafka.topic_services",
    ("table_names", "queue"): "database.queue_table",
}
# What the shared file names for clients; the backend's own names come first.
_OF_SHARED = {"sendWorkflow", "serviceList"}


@dataclass(slots=True)
class _Taken:
    """Values by our key, with where each comes from, and notes for the operator."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, value: Any, source: str) -> None:
        if key in self.values and self.values[key] != value:
            self.notes.append(
                f"{source} says {_text(value)} for {key}, but {self.sources[key]} says {_text(self.values[key])}: the"
                " latter was taken"
            )
            return
        self.values.setdefault(key, value)
        self.sources.setdefault(key, source)


def convert(paths: Sequence[Path]) -> str:
    """The text of a `peachctl.toml`: notes as comments, then what was found. Passwords are not in it.

    Raises ConfigError where a file cannot be read, is no Python, or says nothing of Peach.
    """
    taken = _Taken()
    files = [(path, _assignments(path, taken.notes)) for path in paths]
    if not any(assigned.keys() & ({name for name, _ in _TEXTS} | {"servers", "mysql_info"}) for _, assigned in files):
        raise ConfigError(
            f"{', '.join(str(path) for path in paths)}: no setting of Peach in it",
            "peachBackendConfig.py and peachSharedConfig.py are the files to name",
        )
    for shared in (False, True):
        for path, assigned in files:
            for name, (line, value) in assigned.items():
                _take(taken, f"{path.name}:{line}", name, value, shared)
    _general_notes(taken)
    wrong = _mistakes(taken)
    return _render(taken, wrong, paths)


def _assignments(path: Path, notes: list[str]) -> dict[str, tuple[int, Any]]:
    """Name -> line and value of each plain assignment."""
    from peachctl import porting

    try:
        with path.open("rb") as stream:
            body = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(body) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than 1 MiB; that is no configuration of 2017")
    try:
        tree = porting.parse(body)
    except SyntaxError:
        tree = porting.parse(porting.port(body, str(path)).text)  # Python 2; raises PeachError where it is neither
    found: dict[str, tuple[int, Any]] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if not isinstance(target, ast.Name):
                continue
            try:
                found[target.id] = (node.lineno, ast.literal_eval(node.value))
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                notes.append(
                    f"{path.name}:{node.lineno}: {target.id} is computed; it was not read (nothing is executed)"
                )
    return found


def _take(taken: _Taken, source: str, name: str, value: Any, shared: bool) -> None:
    """Takes one assignment. shared: the pass for what the backend's own file overrides."""
    if name == "mysql_info" and isinstance(value, dict):
        if not shared:
            _take_mysql(taken, source, value)
        return
    items = value.items() if isinstance(value, dict) else [("", value)]
    for key, item in items:
        if name == "servers" and key == "kafka" and not shared:
            servers = [item] if isinstance(item, str) else item
            if _usable(taken, source, "kafka.bootstrap_servers", servers[0] if servers else ""):
                listed = [part.strip() for one in servers for part in str(one).split(",") if part.strip()]
                taken.take("kafka.bootstrap_servers", listed, source)
            continue
        ours = _TEXTS.get((name, key)) if isinstance(key, str) else None
        if ours is not None and (key in _OF_SHARED) == shared and _usable(taken, source, ours, item):
            taken.take(ours, item, source)


def _usable(taken: _Taken, source: str, key: str, value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        taken.notes.append(f"{source}: the value for {key} is no text; it was left out")
        return False
    if _PLACEHOLDER.search(value):
        taken.notes.append(f"{source}: the value for {key} is still the sample's {_text(value)}; it was left out")
        return False
    return True


def _take_mysql(taken: _Taken, source: str, info: dict[Any, Any]) -> None:
    from peachctl.config_values import Mysql

    if info.get("password"):
        taken.notes.append(
            f"{source}: the password of the database was not copied: write it into a file that only the consumers' user"
            " can read (chmod 600), and name that file in database.password_file"
        )
    user, name, host = (info.get(key) for key in ("user", "database", "host"))
    name = name or info.get("db")
    socket = info.get("unix_socket")
    if not all(_usable(taken, source, "database.url", part) for part in (user, name, socket or host)):
        return
    port = info.get("port", 3306)
    if not isinstance(port, int | str) or not str(port).isdigit():
        taken.notes.append(f"{source}: the port of the database is no number; 3306 was taken")
        port = 3306
    path = Path(socket) if socket else None
    taken.take("database.url", str(Mysql(str(user), "" if socket else str(host), int(port), str(name), path)), source)


def _general_notes(taken: _Taken) -> None:
    if "kafka.bootstrap_servers" in taken.values:
        taken.notes.append(
            "kafka.start is to be chosen before the first `peachctl consume ingest`: earliest runs all that the broker"
            " still has, latest leaves out what came while nothing was running"
        )
    for key, value in taken.values.items():
        if key.startswith("folders.") and not value.startswith(("/", "~")):
            taken.notes.append(
                f"{key} is a relative path: 2017 began at the working directory, peachctl begins at this file's folder"
            )


def _mistakes(taken: _Taken) -> dict[str, str]:
    """What the model says against the values that were found."""
    from peachctl.config import ConfigMistakes, check

    raw: dict[str, dict[str, Any]] = {}
    for key, value in taken.values.items():
        section, _, name = key.partition(".")
        raw.setdefault(section, {})[name] = value
    try:
        check(raw)
    except ConfigMistakes as error:
        return {mistake.key: mistake.message for mistake in error.mistakes}
    return {}


def _render(taken: _Taken, wrong: dict[str, str], paths: Sequence[Path]) -> str:
    lines = [f"# Made from {_line(', '.join(path.name for path in paths))} of 2017."]
    lines.append(
        "# All settings and their defaults: `peachctl config init --out -`. What is wrong: `peachctl config check`."
    )
    notes = taken.notes + [f"{key}: {message}; it is commented out below" for key, message in wrong.items()]
    if notes:
        lines += ["#", "# To be looked at:"]
        lines += [f"# - {_line(note)}" for note in notes]
    by_section: dict[str, list[str]] = {}
    for key, value in taken.values.items():
        section, _, name = key.partition(".")
        by_section.setdefault(section, []).append(f"{'#' if key in wrong else ''}{name} = {_text(value)}")
        if key == "database.url" and any("password_file" in note for note in taken.notes):
            by_section[section].append('#password_file = "/etc/peachctl/database-password"')
    for section in ("folders", "database", "kafka"):
        if section in by_section:
            lines += ["", f"[{section}]", *by_section[section]]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """A text or a list of texts as TOML writes it."""
    import json

    if isinstance(value, list):
        return f"[{', '.join(_text(one) for one in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _line(text: str) -> str:
    """One line of a comment."""
    return "".join(char if char.isprintable() else " " for char in text)
