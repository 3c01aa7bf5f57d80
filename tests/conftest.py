"""What the tests of whole processes share: a service hub, workflows, and `peachctl` with a data folder of its own."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from typer.testing import CliRunner

from peachctl import app, present
from peachctl.cli import app as command_line
from peachctl.config import load
from peachctl.wire import encode_service_config
from peachctl.workflow import Service, ServiceParameter
from tests import servers

# Of each campaign a fixed sample; `make proof` looks further, with seeds of its own.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# Where the suite was started in the background, Ctrl-C is ignored, and every process started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_servers = contextlib.ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    # The workers inherit the session of the controller.
    _servers.enter_context(servers.session())


def pytest_unconfigure(config: pytest.Config) -> None:
    _servers.close()


SERVICES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]] = {
    # name: input ports, output ports, parameters, body of start
    "Text": ((), ("text",), ("Value",), "return [value]"),
    "Upper": (("text",), ("text",), (), "return [text.upper()]"),
    "Split": (("text",), ("head", "tail"), (), "return [text[:1], text[1:]]"),
    "Join": (("left", "right"), ("text",), ("Sep",), "return [(sep or '').join((left or '', right or ''))]"),
    "Sleep": (("text",), ("text",), ("Seconds",), "import time\n    time.sleep(float(seconds))\n    return [text]"),
    "Until": (
        ("text",),
        ("text",),
        ("File",),
        "import os, time\n    while not os.path.exists(file):\n        time.sleep(0.02)\n    return [text]",
    ),
    "Fail": (("text",), ("text",), ("Message",), "raise ValueError(message)"),
    "FailWith": (("text",), ("text",), (), "raise ValueError(text)"),
    "Log": (("text",), ("text",), (), "import ServiceUtility\n    ServiceUtility.info(c, text)\n    return [text]"),
    "Exit": (("text",), ("text",), ("Code",), "import os\n    os._exit(int(code))"),
    "Segfault": (("text",), ("text",), (), "import ctypes\n    ctypes.string_at(0)"),
    "KillRun": (("text",), ("text",), (), "import os\n    os.kill(os.getsid(0), 9)\n    import time; time.sleep(9)"),
    "Count": (
        ("text",),
        ("text",),
        ("File",),
        "import os\n    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "    os.write(fd, (c[1] + '\\n').encode())\n    os.close(fd)\n    return [text]",
    ),
    # Signs of life of one run: workflow, run, what, and nanoseconds of the machine's clock; each line in one write.
    "Beats": (
        (),
        ("text",),
        ("File", "Seconds"),
        "import os, time\n"
        "    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "    run = os.urandom(8).hex()\n"
        "    say = lambda what: os.write(fd, f'{c[0]} {run} {what} {time.monotonic_ns()}\\n'.encode())\n"
        "    say('start')\n"
        "    end = time.monotonic() + float(seconds)\n"
        "    while time.monotonic() < end:\n"
        "        time.sleep(0.02)\n"
        "        say('alive')\n"
        "    say('end')\n"
        "    os.close(fd)\n"
        "    return ['x']",
    ),
    "Save": (
        ("text",),
        ("file",),
        ("Name",),
        "import ServiceUtility, tempfile, os\n"
        "    folder = tempfile.mkdtemp()\n"
        "    with open(os.path.join(folder, 'x'), 'w') as out:\n        out.write(text)\n"
        "    ServiceUtility.info(c, 'saved ' + name)\n"
        "    return ServiceUtility.make_available(c, [[os.path.join(folder, 'x'), name]])",
    ),
    "Daemon": (
        ("text",),
        ("text",),
        ("Marker",),
        "import subprocess, sys\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', marker], start_new_session=True)\n"
        "    return [text]",
    ),
}


def make_hub(folder: Path) -> Path:
    """A service hub with the services above, as the contract lays them out."""
    for name, (inputs, outputs, parameters, body) in SERVICES.items():
        home = folder / name / "v1"
        home.mkdir(parents=True)
        for package in (home, home.parent):
            (package / "__init__.py").touch()
        arguments = ", ".join(["c", *inputs, *(one.lower() for one in parameters)])
        (home / f"{name}.py").write_text(f"def start({arguments}):\n    {body}\n")
        service = Service(
            name, name, 1, "", inputs, outputs, tuple(ServiceParameter(one, one, 0) for one in parameters)
        )
        (home / "service.config").write_bytes(encode_service_config(service))
    return folder


def node(id: str, service: str, parameters: list[Any] | None = None, *connections: Any) -> dict[str, Any]:
    """A node as JSON. connections: `"other"` (port 0), `("other", port)`, `["literal"]` or None."""

    def connection(one: Any) -> Any:
        if one is None:
            return None
        if isinstance(one, list):
            return {"port_idx": -1, "node_id": one[0]}
        other, port = (one, 0) if isinstance(one, str) else one
        return {"port_idx": port, "node_id": other}

    return {
        "id": id,
        "service": {"id": service, "version": 1},
        "parameters": parameters or [],
        "connections": [connection(one) for one in connections],
    }


def workflow(*nodes: dict[str, Any], name: str = "test", user: str = "ada@hospital") -> dict[str, Any]:
    return {"name": name, "user": user, "nodes": list(nodes)}


DIAMOND = workflow(
    node("A", "Split", [], ["in.txt"]),
    node("B", "Upper", [], "A"),
    node("C", "Upper", [], ("A", 1)),
    node("D", "Join", ["-"], "B", "C"),
    node("E", "Save", ["out.txt"], "D"),
    name="diamond",
)


@dataclass
class Peach:
    """`peachctl` as a real process, with a data folder and a hub of its own."""

    home: Path
    hub: Path
    env: dict[str, str] = field(default_factory=dict)
    running: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def inbox(self) -> Path:
        return self.data / "inbox"

    @property
    def queue(self) -> Path:
        return self.data / "queue"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PEACHCTL_")}
        return {
            **kept,
            "HOME": str(self.home),
            "PEACHCTL_FOLDERS__DATA": str(self.data),
            "PEACHCTL_FOLDERS__HUB": str(self.hub),
            "PEACHCTL_EXECUTE__LEASE": "6s",
            "PEACHCTL_LIMITS__FREE_SPACE": "0",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **self.env,
            **more,
        }

    def __call__(
        self, *arguments: object, code: int | None = 0, stdin: bytes | None = None, timeout: float = 60, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end and holds its exit status (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "peachctl", *map(str, arguments)],
            env=self.environment(**env),
            cwd=self.home,
            input=stdin,
            capture_output=True,
            timeout=timeout,
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if code is not None:
            assert result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr or "peachctl/cli" not in result.stderr, result.stderr
        return result

    def inside(self, *arguments: object) -> str:
        """What a command that only shows something prints, without the start of a process. Holds that it ends with 0,
        or with 1 (a check that found something)."""
        variables = {key: None for key in os.environ if key.startswith("PEACHCTL_")} | self.environment()
        done = CliRunner().invoke(command_line, [str(one) for one in arguments], env=variables)
        assert done.exit_code in (0, 1) and not isinstance(done.exception, Exception), (done.output, done.exception)
        return done.output

    def json(self, *arguments: object, code: int | None = 0, **env: str) -> Any:
        return json.loads(self(*arguments, "-o", "json", code=code, **env).stdout)

    def start(self, *arguments: object, **env: str) -> "subprocess.Popen[str]":
        """Starts a command in the background; ended with the test."""
        return self.spawn([sys.executable, "-m", "peachctl", *map(str, arguments)], **env)

    def spawn(self, command: list[str], **env: str) -> "subprocess.Popen[str]":
        """As `start`, of any program."""
        process = subprocess.Popen(
            command,
            env=self.environment(**env),
            cwd=self.home,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.home / f"stderr.{len(self.running)}").open("w"),
        )
        self.running.append(process)
        return process

    @contextlib.contextmanager
    def on_terminal(self, *arguments: object) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
        """A command that has a terminal, and the descriptor of its other end; killed at the end."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "peachctl", *map(str, arguments)],
            env=self.environment(TERM="dumb"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.home,
        )
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    def file(self, value: Any, name: str = "workflow.json") -> Path:
        path = self.home / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def _look(self, see: Callable[[Any, Any], Any]) -> Any:
        """Reads the database as the commands do, without the start of one."""
        config = load(environ=self.environment())
        with contextlib.closing(app.open_store(config)) as store:
            return see(store, config)

    def rows(self) -> list[dict[str, Any]]:
        """What `queue list -o json` shows."""
        return self._look(lambda store, config: [present.row(row) for row in store.rows()])  # type: ignore[no-any-return]

    def detail(self, id: int) -> dict[str, Any]:
        """What `queue show ID -o json` shows."""
        return self._look(  # type: ignore[no-any-return]
            lambda store, config: present.detail(store.get(id), store.nodes(id), config.folders.download_files)
        )

    def letters(self) -> list[dict[str, Any]]:
        """What `dlq list -o json` shows."""
        return self._look(lambda store, config: [present.letter(one) for one in store.letters()])  # type: ignore[no-any-return]

    @property
    def database(self) -> Path:
        return self.data / "peachctl.sqlite"

    def until(self, what: Callable[[], Any], seconds: float = 20) -> Any:
        """Waits for something that is meant, not for a time."""
        end = time.monotonic() + seconds
        while True:
            found = what()
            if found:
                return found
            if time.monotonic() > end:
                logs = "\n".join(path.read_text() for path in self.home.glob("stderr.*"))
                raise AssertionError(f"did not happen within {seconds} s\n{logs}")
            time.sleep(0.05)

    def marked(self) -> list[int]:
        """Processes that carry this data folder in their environment (all that peachctl started here)."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.home).encode() in text and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    made = tmp_path / "workflow_temp"
    made.mkdir()
    return made


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def peach(tmp_path: Path, hub: Path) -> Iterator[Peach]:
    made = Peach(tmp_path, hub)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
