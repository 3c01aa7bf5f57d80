"""The examples that come with the package: listed, and copied into a folder of the user's."""

import shutil
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from peachctl.errors import PeachError, StateError


@dataclass(frozen=True, slots=True)
class Example:
    """One example. workflow: file name below `workflows/`; extra: the optional dependency that it needs, or ''."""

    name: str
    title: str
    description: str
    workflow: str
    extra: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Copied:
    """Where an example was copied to."""

    workflow: Path
    hub: Path


def folder() -> Path:
    """The examples' folder: in the installed package, else in the checkout."""
    here = Path(__file__).parent
    packaged = here / "examples"
    return packaged if packaged.is_dir() else here.parent / "examples"


def examples() -> list[Example]:
    """All examples, as `examples.toml` lists them."""
    path = folder() / "examples.toml"
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PeachError(f"{path}: {error.strerror}") from error
    return [Example(name=name, **values) for name, values in listed.items()]


def copy(name: str, target: Path) -> Copied:
    """Copies the workflow and the hub. Raises StateError for an unknown name, PeachError where files are in the way."""
    found = next((one for one in examples() if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in examples())
        raise StateError(f"there is no example {name!r}", f"known: {known}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PeachError(f"{target} is there and not an empty folder")
    source = folder()
    hub, workflow = target / "hub", target / found.workflow
    try:
        shutil.copytree(source / "hub", hub, ignore=shutil.ignore_patterns("__pycache__", "output_*"))
        shutil.copy(source / "workflows" / found.workflow, workflow)
    except OSError as error:
        raise PeachError(f"{target}: {error}") from error
    return Copied(workflow, hub)
