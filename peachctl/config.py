"""`peachctl.toml` and its variables in the environment: found, read, checked, and shown.

Every mistake is found in one pass and named with its file or variable, its key, what is expected and the nearest
known key. The model itself (`config_model`) is loaded with the first configuration, so that importing this costs
nothing.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peachctl.config_values import Mysql, Sqlite
from peachctl.errors import ConfigError
from peachctl.masking import mask

if TYPE_CHECKING:
    from peachctl.config_model import Config

__all__ = [
    "Config",
    "ConfigMistakes",
    "Mistake",
    "Mysql",
    "Sqlite",
    "check",
    "database_password",
    "example_text",
    "from_2017",
    "kafka_password",
    "load",
    "seconds",
    "show",
]

_PREFIX = "PEACHCTL_"
_FILE_NAME = "peachctl.toml"
_MOST_BYTES = 1 << 20


def __getattr__(name: str) -> Any:
    """`Config`, from the model that is loaded late."""
    if name == "Config":
        from peachctl.config_model import Config

        return Config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong. where: file or `$VARIABLE`; key: `section.key` or ''; message: what is expected."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigMistakes(ConfigError):
    """All that is wrong with a configuration, a line each."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> "Config":
    """The configuration: defaults, then the file, then the environment.

    path: the file of `--config`; else `$PEACHCTL_CONFIG`, else the first of `./peachctl.toml`, the user's and the
    system's configuration folder that is there, else none. Relative paths start at the file's folder, those of the
    environment at the working directory. Raises ConfigMistakes (a ConfigError) with all mistakes at once.
    """
    file = _find(path, environ)
    raw = _parse(file) if file is not None else {}
    return _Loader(file, raw, environ).config()


def check(raw: Mapping[str, Any]) -> "Config":
    """A configuration from what a TOML file would hold, without file and environment. Raises ConfigMistakes."""
    return _Loader(None, dict(raw), {}).config()


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return _absolute(path)
    if named := environ.get("PEACHCTL_CONFIG"):
        found = _absolute(Path(named))
        if not found.exists():
            raise ConfigMistakes([Mistake("$PEACHCTL_CONFIG", "", f"there is no file {str(found)!r}")])
        return found
    here = _here() / _FILE_NAME
    if here.exists():
        _refuse_foreign(here)
        return here
    return next((candidate for candidate in _standard_places() if candidate.exists()), None)


def _absolute(path: Path) -> Path:
    # Not resolve(): relative paths start at the folder where the operator sees the file, not where a link leads.
    try:
        return Path(os.path.normpath(_here() / path.expanduser()))
    except RuntimeError as error:
        raise ConfigError(f"{path}: {str(error).rstrip('.')}") from error


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(f"the working directory cannot be used: {error.strerror}", "cd to another one") from error


def _standard_places() -> Iterator[Path]:
    import platformdirs

    folders = platformdirs.PlatformDirs("peachctl", appauthor=False, multipath=True)
    yield Path(folders.user_config_dir) / _FILE_NAME
    yield Path("/etc/peachctl") / _FILE_NAME
    for folder in folders.site_config_dir.split(os.pathsep):
        yield Path(folder) / _FILE_NAME


def _refuse_foreign(file: Path) -> None:
    # It names commands and a hub, so whoever can write it runs code as us: a file that only happens to lie in the
    # working directory (/tmp) is not taken from somebody else.
    try:
        status = file.stat()
    except OSError:
        return
    if status.st_uid not in {os.getuid(), 0} or status.st_mode & 0o002:
        whose = "can be written by everybody" if status.st_mode & 0o002 else "belongs to another user"
        raise ConfigError(
            f"{file}: {whose}, so it is not taken just because it is here", f"if you trust it: --config {_FILE_NAME}"
        )


def _parse(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        with file.open("rb") as stream:
            body = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigMistakes([Mistake(str(file), "", f"cannot be read: {error.strerror}")]) from error
    if len(body) > _MOST_BYTES:
        raise ConfigMistakes([Mistake(str(file), "", "has more than 1 MiB; that is no configuration")])
    try:
        return tomllib.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ConfigMistakes([Mistake(f"{file}:{line}", "", "is not UTF-8")]) from error
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)$", str(error))
        where, text = (f"{file}:{match[1]}", str(error)[: match.start()].strip()) if match else (str(file), str(error))
        raise ConfigMistakes([Mistake(where, "", f"is no TOML: {text}")]) from error
    except RecursionError as error:
        raise ConfigMistakes([Mistake(str(file), "", "is nested too deeply")]) from error


_MISSING = object()


class _Loader:
    """One pass over model, file and environment, which collects mistakes instead of stopping at the first."""

    def __init__(self, file: Path | None, raw: dict[str, Any], environ: Mapping[str, str]) -> None:
        from peachctl.config_model import SECTIONS

        self._file = file
        self._base = file.parent if file is not None else _here()
        self._raw = raw
        self._environ = environ
        self._mistakes: list[Mistake] = []
        self._sources: dict[str, str] = {}
        self._sections = SECTIONS
        self._keys = [f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.__struct_fields__]

    def config(self) -> "Config":
        from peachctl import config_model as model

        self._refuse_unknown_keys()
        self._refuse_unknown_variables()
        found = {name: self._section(name) for name in self._sections}
        if not self._mistakes:
            self._derive(found)
            self._refuse_contradictions(found)
        if self._mistakes:
            raise ConfigMistakes(self._mistakes)
        return model.Config(
            folders=model.Folders(**found["folders"]),
            database=model.Database(**found["database"]),
            kafka=model.Kafka(**found["kafka"]),
            execute=model.Execute(**found["execute"]),
            storage=model.Storage(**found["storage"]),
            services=model.Services(**found["services"]),
            limits=model.Limits(**found["limits"]),
            file=self._file,
            sources=self._sources,
        )

    def _wrong(self, where: str, key: str, message: str) -> None:
        self._mistakes.append(Mistake(where, key, message))

    def _refuse_unknown_keys(self) -> None:
        for name, section in self._raw.items():
            if name not in self._sections:
                what = "section" if isinstance(section, dict) else "key"
                self._wrong(str(self._file), _shown(name), f"unknown {what}{self._nearest(name)}")
            elif not isinstance(section, dict):
                self._wrong(str(self._file), name, f"expected a section ([{name}]), found {_found(section)}")
            else:
                for key in section:
                    if f"{name}.{key}" not in self._keys:
                        full = f"{name}.{key}"
                        self._wrong(str(self._file), _shown(full), f"unknown key{self._nearest(full)}")

    def _refuse_unknown_variables(self) -> None:
        known = {_variable(key) for key in self._keys}
        for name in sorted(self._environ):
            if name.upper().startswith(_PREFIX) and "__" in name and name not in known:
                key = name[len(_PREFIX) :].lower().replace("__", ".", 1)
                self._wrong(f"${_shown(name)}", "", f"unknown variable{self._nearest(key, variable=True)}")

    def _nearest(self, name: str, *, variable: bool = False) -> str:
        import difflib

        name = name.lower()
        names = [*self._keys, *(() if "." in name else self._sections)]
        tails = {key.partition(".")[2]: key for key in reversed(self._keys)}
        tail = name.rpartition(".")[2]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        if not near:
            near = [tails[one] for one in difflib.get_close_matches(tail, tails, n=1, cutoff=0.75)]
        if not near:
            return ""
        return f"; the nearest is {_variable(near[0]) if variable else near[0]}"

    def _section(self, name: str) -> dict[str, Any]:
        """The values of a section that were given and are right."""
        from typing import get_type_hints

        raw = self._raw.get(name)
        found: dict[str, Any] = {}
        for key, hint in get_type_hints(self._sections[name], include_extras=True).items():
            full = f"{name}.{key}"
            variable = _variable(full)
            self._sources[full] = "default"
            if variable in self._environ:
                where, value, base = f"${variable}", self._environ[variable], _here()
            elif isinstance(raw, dict) and key in raw:
                where, value, base = str(self._file), raw[key], self._base
            else:
                continue
            self._sources[full] = where
            converted = self._convert(hint, value, where, full, base)
            if converted is not _MISSING:
                found[key] = converted
        return found

    def _convert(self, hint: Any, value: Any, where: str, key: str, base: Path) -> Any:
        from typing import get_args

        import msgspec

        from peachctl import config_values as values

        meta = next(arg for arg in (hint, *get_args(hint)) if hasattr(arg, "__metadata__")).__metadata__[0]
        from_environment = where.startswith("$")
        optional = type(None) in get_args(hint)
        if optional and from_environment and value == "":
            return None  # the only way to take back in the environment what the file sets
        read = (meta.extra or {}).get("read")
        try:
            if read in {values.path, values.paths}:
                return msgspec.convert(read(value, base), hint)
            if read is not None:
                return msgspec.convert(read(value), hint)
            return msgspec.convert(value, hint, strict=not from_environment)
        except (ValueError, OverflowError) as error:  # msgspec's own is a ValueError
            own = "" if isinstance(error, msgspec.ValidationError) else str(error)
            said = f" ({own if len(own) <= 200 else own[:200] + '...'})" if own else ""
            told = "" if said else f", found {_found(value)}"
            self._wrong(where, key, f"expected {meta.description}{told}{said}")
            return _MISSING

    def _derive(self, found: dict[str, dict[str, Any]]) -> None:
        """Defaults that depend on other values or on the machine."""
        folders = found["folders"]
        if "data" not in folders:
            import platformdirs

            folders["data"] = Path(platformdirs.user_data_dir("peachctl", appauthor=False))
        data = folders["data"]
        folders.setdefault("queue", data / "queue")
        folders.setdefault("inbox", data / "inbox")
        folders.setdefault("workflow_temp", data / "workflow_temp")
        downloads = folders.setdefault("downloads", data / "downloads")
        folders.setdefault("download_workflows", downloads / "workflows")
        folders.setdefault("download_files", downloads / "files")
        folders.setdefault("hub", _shipped("examples/hub"))
        found["database"].setdefault("url", str(Sqlite(data / "peachctl.sqlite")))
        found["execute"].setdefault("slots", len(os.sched_getaffinity(0)))
        found["storage"].setdefault("folders", (data,))

    def _refuse_contradictions(self, found: dict[str, dict[str, Any]]) -> None:
        kafka, folders = found["kafka"], found["folders"]
        for section in ("kafka", "database"):
            for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
                if found[section].get(one) is not None and found[section].get(other) is None:
                    key = f"{section}.{one}"
                    self._wrong(self._sources[key], key, f"needs {section}.{other} as well")
        sasl = kafka.get("security_protocol", "plaintext").startswith("sasl")
        if sasl and kafka.get("sasl_mechanism") is None:
            key = "kafka.security_protocol"
            self._wrong(self._sources[key], key, "needs kafka.sasl_mechanism as well")
        # What lies in the inbox is taken away, what lies in the hub is run: neither may be a folder of anything else.
        for one in ("inbox", "hub"):
            for other in sorted(folders.keys() - {one}):
                if folders[other] == folders[one]:
                    given, same = (one, other) if self._sources[f"folders.{one}"] != "default" else (other, one)
                    key = f"folders.{given}"
                    self._wrong(self._sources[key], key, f"is the same folder as folders.{same}")


def _variable(key: str) -> str:
    return _PREFIX + key.replace(".", "__", 1).upper()


def _shown(name: str) -> str:
    """A name that came from outside, safe for a terminal's line."""
    return name if name.isprintable() and len(name) <= 80 else ascii(name[:80])


def _found(value: Any) -> str:
    """A wrong value for a message: its text without what may be a password, and its type where that is the mistake."""
    if isinstance(value, str):
        if "@" in value or "password" in value.lower():
            return "a text"
        return repr(value if len(value) <= 60 else value[:60] + "...")
    kinds = {bool: "true or false", dict: "a section", list: "a list"}
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)[:60]
    return kinds.get(type(value), f"a {type(value).__name__}")


def _shipped(name: str) -> Path:
    """What the wheel carries inside the package and a checkout beside it."""
    package = Path(__file__).resolve().parent
    packaged = package / name
    checkout = package.parent / name
    return checkout if checkout.exists() and not packaged.exists() else packaged


def example_text() -> str:
    """`peachctl.toml.example`: every key, commented out with its default."""
    return _shipped("peachctl.toml.example").read_text(encoding="utf-8")


def from_2017(paths: Sequence[Path]) -> str:
    """The two configuration files of 2017 as the text of a `peachctl.toml`, with notes as comments.

    The files are parsed, never executed; passwords are not copied. Raises PeachError where one cannot be read.
    """
    from peachctl.config_2017 import convert

    return convert(paths)


def seconds(text: str) -> float:
    """A duration of an option (`30s`, `10m`, a number of seconds). Raises ConfigError."""
    from peachctl.config_values import duration

    try:
        return duration(text)
    except ValueError:
        raise ConfigError(f"{_found(text)} is no duration", 'seconds, or a text such as "30s", "10m", "2h"') from None


def database_password(config: "Config", environ: Mapping[str, str] = os.environ) -> str | None:
    """The password of `database.password_file`, else the systemd credential's, else None. Raises ConfigError."""
    return _password("database.password_file", config.database.password_file, "peachctl-database-password", environ)


def kafka_password(config: "Config", environ: Mapping[str, str] = os.environ) -> str | None:
    """The password of `kafka.sasl_password_file`, else the systemd credential's, else None. Raises ConfigError."""
    return _password("kafka.sasl_password_file", config.kafka.sasl_password_file, "peachctl-kafka-password", environ)


def _password(key: str, file: Path | None, credential: str, environ: Mapping[str, str]) -> str | None:
    import stat

    folder = environ.get("CREDENTIALS_DIRECTORY")
    ours = file is not None
    if file is None:
        if not folder:
            return None
        file = Path(folder) / credential
    try:
        # Non-blocking and no link: what somebody else put there must neither hang us nor lead us to another file.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if not ours and isinstance(error, FileNotFoundError):
            return None
        what = "is a link, and links are not followed there" if error.errno == errno.ELOOP else error.strerror
        raise ConfigError(f"{key}: {file}: {what}") from error
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{key}: {file} is no regular file")
        # A systemd credential may be readable by an access list, which shows as the group's bits; its folder is ours.
        if status.st_mode & (0o077 if ours else 0o007):
            raise ConfigError(f"{key}: {file} can be read or written by others", f"chmod 600 {file}")
        if status.st_uid not in {os.geteuid(), 0}:
            raise ConfigError(f"{key}: {file} belongs to another user", f"chown it to {os.geteuid()}, chmod 600")
        body = stream.read(4097)
    try:
        text = body.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or len(body) > 4096 or any(char in text for char in "\n\r\0"):
        raise ConfigError(f"{key}: {file} must hold one line, the password, and nothing else")
    return text


def show(config: "Config", reveal: bool = False) -> dict[str, dict[str, Any]]:
    """All values by section and key, as JSON has them (paths as texts, durations in seconds, sizes in bytes).

    reveal: passwords that a URI holds are shown, not masked.
    """
    from peachctl.config_model import SECTIONS

    return {
        name: {key: _plain(getattr(getattr(config, name), key), reveal) for key in kind.__struct_fields__}
        for name, kind in SECTIONS.items()
    }


def _plain(value: Any, reveal: bool) -> Any:
    if isinstance(value, tuple):
        return [_plain(one, reveal) for one in value]
    if isinstance(value, Path):
        return str(value)
    return mask(value) if isinstance(value, str) and not reveal else value
