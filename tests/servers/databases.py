"""MariaDB and MySQL for the tests: one of each per session, a database of its own for each test, and servers to kill.

known = databases.server("mysql")                # {"pid", "port", "socket", "version", ...}, started when first asked
with databases.database("mysql") as name: ...    # created and dropped; `root` needs no password
with databases.private("mariadb") as own: own.kill(); own.start()
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mysql.connector  # noqa: TID253  only tests come here, and they mean it

from tests import servers
from tests.servers import install

KINDS = tuple(os.environ.get("DATABASES_OF_THE_TESTS", "mariadb mysql").split())
"""What the tests run against: `make proof ARGS="servers"` names others (tests/servers/install)."""

OLD = "mysql57"
"""The one without SKIP LOCKED that `make test` has besides."""

_PATIENCE = 30.0
# The driver takes 0.1 s of the processor to begin TLS. Passwords go over the socket then, or to a private server.
_PLAIN = {"mysql": ("--tls-version=",), "mysql80": ("--skip-ssl",)}
# Session servers forget what they know: nothing of theirs is waited for at the disk.
_QUICK = ("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync")
# What a killed server has acknowledged, it has.
_DURABLE = ("--innodb-flush-log-at-trx-commit=1",)
_ALL = ("--innodb-fast-shutdown=2",)
_OF_MYSQL = ("--secure-file-priv=", "--table-open-cache=400", "--table-definition-cache=400")
_LOG = "--innodb-log-file-size=16M"
# Where indexes are narrow unless one says otherwise: what docs/mysql.md asks for.
_WIDE = ("--innodb-file-format=Barracuda", "--innodb-large-prefix=ON")
_SETTINGS = {
    "mariadb": (_LOG,),
    "mariadb101": ("--innodb-log-file-size=32M", *_WIDE),
    "mariadb102": (_LOG,),
    "mariadb105": (_LOG,),
    "mysql": ("--innodb-redo-log-capacity=32M", "--mysqlx=OFF", *_OF_MYSQL),
    "mysql56": (_LOG, *_WIDE, *_OF_MYSQL),
    "mysql57": (_LOG, *_OF_MYSQL),
    "mysql80": (_LOG, "--mysqlx=OFF", *_OF_MYSQL),
}


def server(kind: str) -> dict[str, Any]:
    """The session's server of this kind: `pid`, `port` on 127.0.0.1, `socket`, `version` as the server says it.

    It has no TLS, so MySQL takes no password over the port; over the socket it does.
    """
    return servers.shared(kind, lambda home: start(kind, _filled(kind, home), *_PLAIN.get(kind, ())))


def start(kind: str, home: Path, *settings: str, port: int = 0, durable: bool = False) -> dict[str, Any]:
    """Starts a server over the folder `home / "data"` and waits until it answers.

    settings: `--name=value`, the last one counts. port: 0 takes a free one. durable: what it acknowledged outlives a
    SIGKILL. Raises RuntimeError with the last lines of its log.
    """
    port = port or servers.free_port()
    socket, log = home / "socket", home / "log"
    command = install.database_server(
        install.installed(kind),
        "mariadbd" if kind == "mariadb" else "mysqld",
        home / "data",
        "--bind-address=127.0.0.1",
        f"--port={port}",
        f"--socket={socket}",
        # One that starts deletes what it takes for its own temporary tables.
        f"--tmpdir={home}",
        f"--pid-file={home / 'server.pid'}",
        *_ALL,
        *_SETTINGS[kind],
        *(_DURABLE if durable else _QUICK),
        *settings,
    )
    with log.open("ab") as out:
        # A group of its own: Ctrl-C is for the tests, which stop it. Not a session (see kafka.py).
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with contextlib.closing(connect({"port": port}, connection_timeout=5)) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT version()")
                version = cursor.fetchone()[0]
            return {"pid": process.pid, "port": port, "socket": str(socket), "version": version}
        except mysql.connector.Error as error:
            if process.poll() is not None or time.monotonic() > end:
                servers.stop(process.pid)
                tail = log.read_text(errors="replace").splitlines()[-5:]
                raise RuntimeError("\n".join([f"{kind} does not answer: {error}", *tail])) from error
        time.sleep(0.03)


def connect(known: dict[str, Any], database: str | None = None, **options: Any) -> Any:
    """A plain connection as `root`, each statement a transaction of its own; `options` as the connector takes them."""
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": known["port"],
        "user": "root",
        "database": database,
        "autocommit": True,
        "charset": "utf8mb4",
        "collation": "utf8mb4_general_ci",
        "ssl_disabled": True,
        "use_pure": True,
    }
    return mysql.connector.connect(**(given | options))


def execute(known: dict[str, Any], *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
    """Runs statements as `root`; gives the rows of the last one."""
    with contextlib.closing(connect(known, database)) as connection:
        rows: list[tuple[Any, ...]] = []
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.with_rows else []
        return rows


@contextlib.contextmanager
def database(kind: str, known: dict[str, Any] | None = None) -> Iterator[str]:
    """A new database on the session's server of this kind (or another that is known), dropped at the end: its name."""
    known = known or server(kind)
    name = f"t_{uuid.uuid4().hex[:14]}"
    execute(known, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    try:
        yield name
    finally:
        with contextlib.suppress(mysql.connector.Error):
            execute(known, f"DROP DATABASE {name}")


def client(kind: str) -> list[str]:
    """The command of the `mariadb` program as `root` at the session's server of this kind; a database may be added."""
    return [
        *install.program(install.installed("mariadb"), "mariadb", "--no-defaults", "--default-character-set=utf8mb4"),
        *("--user=root", "--host=127.0.0.1", f"--port={server(kind)['port']}"),
    ]


@dataclass
class Private:
    """A server of one test: on the same folder and port whenever it is started again."""

    kind: str
    home: Path
    settings: tuple[str, ...] = ()
    known: dict[str, Any] = field(default_factory=dict)

    def start(self, *settings: str) -> dict[str, Any]:
        """settings: for this start, after the ones it always has."""
        port = self.known.get("port", 0)
        self.known = start(self.kind, self.home, *self.settings, *settings, port=port, durable=True)
        self._note.write_text(json.dumps(self.known))
        return self.known

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.known["pid"], signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """SIGTERM, and waits until it is gone."""
        if self._note.exists():
            servers.stop(self.known["pid"])
            self._note.unlink()

    @property
    def _note(self) -> Path:
        # Where the session looks for what it has to stop, should the test not come to it.
        return self.home.with_suffix(".json")


@contextlib.contextmanager
def private(kind: str, *settings: str) -> Iterator[Private]:
    """A started server that a test may kill, with settings that outlive it (`durable`); gone at the end."""
    home = servers.session_folder() / f"{kind}-{uuid.uuid4().hex[:8]}"
    home.mkdir()
    own = Private(kind, _filled(kind, home), settings)
    try:
        own.start()
        yield own
    finally:
        own.kill()
        shutil.rmtree(home, ignore_errors=True)


def _filled(kind: str, home: Path) -> Path:
    shutil.copytree(install.installed(kind) / "data", home / "data")
    # Two servers of one origin are two servers.
    (home / "data" / "auto.cnf").unlink(missing_ok=True)
    return home
