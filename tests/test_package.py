"""The wheel, installed where nothing of the checkout and of the development tools is."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, TOP)
    [built] = folder.glob("*.whl")
    return built


def pip(*arguments: object) -> None:
    """The pip of the development environment; `--python` points it at another one."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def link_dependencies(name: str, site: Path) -> None:
    """Puts what a distribution in `site` requires, and what that requires, there: as links to the locked versions that
    are installed here. Nothing else of what is installed here is there then."""
    [found] = metadata.distributions(name=name, path=[str(site)])
    for requirement in map(Requirement, found.requires or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        needed = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(needed.version), f"{name} requires {requirement}, not {needed.version}"
        tops = {file.parts[0] for file in needed.files or []} - {"..", "__pycache__"}
        if not all((site / top).is_symlink() for top in tops):
            for top in tops:
                (site / top).symlink_to(str(needed.locate_file(top)))
            link_dependencies(requirement.name, site)


def test_the_wheel_has_schema_examples_and_example_configuration_and_no_rubbish(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name.removeprefix("peachctl/") for name in names if name.startswith("peachctl/")}
    for folder in ("sql", "examples"):
        there = {
            path.relative_to(TOP).as_posix()
            for path in (TOP / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert there
        assert there <= packed, sorted(there - packed)
    assert "peachctl.toml.example" in packed
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name or "/output_" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_runs_the_example_where_only_its_dependencies_are(wheel: Path, tmp_path: Path) -> None:
    bare, empty, data = tmp_path / "bare", tmp_path / "empty", tmp_path / "data"
    empty.mkdir()
    venv.create(bare, with_pip=False)
    pip("--python", bare / "bin" / "python", "install", "--no-compile", "--no-deps", wheel)
    [site] = bare.glob("lib/python*/site-packages")
    link_dependencies("peachctl", site)
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("PEACHCTL_", "PYTHON", "VIRTUAL_ENV"))
    }
    env |= {"HOME": str(tmp_path), "PEACHCTL_FOLDERS__DATA": str(data), "PEACHCTL_LIMITS__FREE_SPACE": "0"}

    def peachctl(*arguments: object) -> str:
        done = subprocess.run(
            [bare / "bin" / "peachctl", *map(str, arguments)],
            cwd=empty,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    version = wheel.name.split("-")[1]
    assert peachctl("--version") == f"peachctl {version}\n"
    [nile, *_] = json.loads(peachctl("example", "list", "-o", "json"))
    peachctl("example", "copy", nile["name"], empty / "mine")
    run = json.loads(peachctl("run", empty / "mine" / nile["workflow"], "-o", "json"))
    assert run["status"] == "success"
    assert Path(run["output_path"]).is_relative_to(data)
    assert [one["status"] for one in run["nodes"]] == ["success"] * 5
    assert [path.name for path in empty.iterdir()] == ["mine"], "a run writes into the data folder alone"
    installed = {path.name.split("-")[0].lower() for path in bare.glob("lib/python*/site-packages/*.dist-info")}
    assert not installed & {"pytest", "hypothesis", "avro", "fastavro", "mypy", "ruff", "numpy", "nibabel", "hatchling"}
