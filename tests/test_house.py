"""The house: layers, and what a command loads when it starts."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import Peach

HEAVY = {"kafka", "dask", "mysql", "watchdog", "fsspec", "fissix"}

# What a command has loaded when it has ended, and what `import typer` alone had loaded before.
PROBE = """
import atexit, json, sys
import typer
before = list(sys.modules)
atexit.register(lambda: print(json.dumps([before, list(sys.modules)]), file=sys.stderr))
sys.argv = ["peachctl", *sys.argv[1:]]
from peachctl.cli import main
main()
"""


def modules(peach: Peach, *arguments: str) -> tuple[set[str], set[str]]:
    """(modules of typer alone, modules at the end) of a command, which must end with 0."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env=peach.environment(),
        cwd=peach.home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stderr.splitlines()[-1])
    return set(before), set(after)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_imports_point_down_the_road() -> None:
    top = Path(__file__).parent.parent
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", top / "pyproject.toml"],
        cwd=top,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_version_loads_little_beyond_typer(peach: Peach) -> None:
    before, after = modules(peach, "--version")
    assert not tops(after) & (HEAVY | {"rich", "msgspec", "pydantic", "sqlite3"})
    # Half of what typer itself loads would be 1.5 times `import typer`; the command's own modules are a fifth of it.
    assert len(after - before) <= 0.3 * len(before), sorted(after - before)


def test_queue_list_loads_no_server_library_and_nothing_that_runs_workflows(peach: Peach) -> None:
    _, after = modules(peach, "queue", "list")
    found = tops(after) & (HEAVY | {"pydantic"})
    assert not found, sorted(found)


def test_what_runs_in_the_workflows_process_loads_no_store_and_no_transport(peach: Peach) -> None:
    code = "import json, sys, peachctl.runtime, peachctl.runtime.graph; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=peach.environment(), capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "peachctl.runtime.graph" in loaded
    ours = {name for name in loaded if name.startswith("peachctl.")}
    assert not {name.split(".")[1] for name in ours} & {"store", "bus", "runner", "ingest", "execute", "app", "cli"}
    assert not tops(loaded) & {"kafka", "mysql", "watchdog", "typer", "sqlite3"}
