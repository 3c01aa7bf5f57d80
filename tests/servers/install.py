"""What the real servers of the suite are made of, fetched once into `.cache/servers`."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.servers import CACHE

KAFKA = "4.1.0"
OLD_KAFKA = "3.9.1"
"""One of the line that clients of 2017 can still talk to."""

_BINDING = {
    KAFKA: ("org.apache.logging.log4j:log4j-slf4j-impl", "2.24.3"),
    OLD_KAFKA: ("org.slf4j:slf4j-reload4j", "1.7.36"),
}
_PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>peachctl</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies>
    {}
  </dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
_PACKAGES = {"java": "openjdk-17-jre-headless", "mvn": "maven", "openssl": "openssl"}


def kafka(version: str = KAFKA) -> Path:
    """The folder of the jars of Apache Kafka, from Maven Central. Raises RuntimeError where it cannot be had."""
    _need("java", "mvn", "openssl")
    home = CACHE / f"kafka-{version}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"kafka-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home.exists():
            return home
        being_made = CACHE / f"kafka-{version}.new"
        shutil.rmtree(being_made, ignore_errors=True)
        being_made.mkdir()
        wanted = [("org.apache.kafka:kafka_2.13", version), _BINDING[version]]
        lines = [_DEPENDENCY.format(*name.split(":"), number) for name, number in wanted]
        (being_made / "pom.xml").write_text(_PROJECT.format("\n    ".join(lines)))
        done = subprocess.run(
            ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={being_made}"],
            cwd=being_made,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"Apache Kafka {version} could not be fetched from Maven Central:\n{done.stdout[-2000:]}"
            )
        being_made.rename(home)
        return home


def _need(*programs: str) -> None:
    missing = [_PACKAGES[one] for one in programs if shutil.which(one) is None]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise RuntimeError(f"the tests need Debian packages; as root: {' '.join(command)}")
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    )
    if done.returncode:
        raise RuntimeError(f"this failed: {' '.join(command)}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    kafka()
    kafka(OLD_KAFKA)
