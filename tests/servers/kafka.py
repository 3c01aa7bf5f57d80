"""Apache Kafka as the suite uses it: one node (KRaft) with a listener of each security protocol, and two more with TLS:
one that asks for a certificate (`client.pem`), and one whose own has expired.

Users, on both SASL listeners: `USER` with `PASSWORD`, by PLAIN and by SCRAM. The SSL listener is advertised as
`localhost`, and its certificate has no other name; the one of SASL_SSL is also good for 127.0.0.1.
"""

import os
import signal
import socket
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import servers
from tests.servers import install

USER = "peach"
PASSWORD = "canary-Q7xK2-broker"
"""Must not be in any output of anything."""

LISTENERS = {
    "plaintext": "PLAINTEXT",
    "ssl": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_ssl": "SASL_SSL",
    "mtls": "SSL",
    "expired": "SSL",
}
"""The protocol of each."""

CERTIFICATES = {
    # name: the names it is good for, and for how many days
    "ssl": ("DNS:localhost", 2),
    **dict.fromkeys(("sasl_ssl", "mtls", "client"), ("DNS:localhost,IP:127.0.0.1", 2)),
    "expired": ("DNS:localhost,IP:127.0.0.1", -1),
}


@dataclass
class Broker:
    """A node in a folder of its own, on ports that it keeps. version: its name in the cache (tests/servers/install)."""

    home: Path
    version: str = "kafka"
    ports: dict[str, int] = field(default_factory=dict)
    pid: int = 0

    def prepare(self) -> None:
        """Certificates, configuration, and an empty log."""
        self.ports = {name: servers.free_port() for name in (*LISTENERS, "controller")}
        make_certificates(self.home)
        (self.home / "server.properties").write_text(self._properties())
        users = [f"--add-scram={kind}=[name={USER},password={PASSWORD}]" for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
        cluster = uuid.uuid4().hex[:22]
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", cluster, *users, "-c", "server.properties"),
            cwd=self.home,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"the log of Kafka could not be made:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        """Starts it and waits until it accepts. After a SIGKILL that takes as long as its old session (`session`)."""
        log = (self.home / "broker.log").open("ab")
        # A group of its own: Ctrl-C of the suite must not end it before its clients. Not a session of its own: the
        # tests of the runner end what lives below them in other sessions, as an executor does.
        process = subprocess.Popen(
            self._java("kafka.Kafka", "server.properties"),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
        log.close()
        self.pid = process.pid

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"Kafka ended:\n{(self.home / 'broker.log').read_text()[-4000:]}")
            try:
                socket.create_connection(("127.0.0.1", self.ports["plaintext"]), 1).close()
            except OSError:
                return False
            return True

        servers.until(answers, 60, "Kafka did not accept")

    def stop(self) -> None:
        servers.stop(self.pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        servers.stop(self.pid)

    def address(self, listener: str = "plaintext") -> str:
        return f"{'localhost' if listener == 'ssl' else '127.0.0.1'}:{self.ports[listener]}"

    @property
    def ca(self) -> Path:
        return self.home / "ca.pem"

    def _java(self, main: str, *arguments: str) -> list[str]:
        jars = install.installed(self.version)
        # The first tier of the compiler alone: it lives for seconds, and starts in half the time.
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
        return ["java", *options, "-cp", f"{jars}/*", main, *arguments]

    def _properties(self) -> str:
        host = {name: "localhost" if name == "ssl" else "127.0.0.1" for name in LISTENERS}
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        lines = [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{self.ports['controller']}",
            "controller.listener.names=CONTROLLER",
            "listeners="
            + ",".join(f"{name.upper()}://127.0.0.1:{self.ports[name]}" for name in (*LISTENERS, "controller")),
            "advertised.listeners="
            + ",".join(f"{name.upper()}://{host[name]}:{self.ports[name]}" for name in LISTENERS),
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name.upper()}:{protocol}" for name, protocol in LISTENERS.items()),
            "inter.broker.listener.name=PLAINTEXT",
            f"log.dirs={self.home}/log",
            # What a single node for seconds wants: no waiting for members, one replica, small internal topics.
            "group.initial.rebalance.delay.ms=0",
            "group.min.session.timeout.ms=1000",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=1",
            "broker.session.timeout.ms=3000",
            "broker.heartbeat.interval.ms=500",
            "auto.create.topics.enable=false",
            "message.max.bytes=20000000",
            "num.network.threads=2",
            "num.io.threads=2",
            "log.segment.delete.delay.ms=100",
            "log.initial.task.delay.ms=100",
            "log.retention.check.interval.ms=200",
            "ssl.keystore.type=PEM",
            "ssl.truststore.type=PEM",
        ]
        lines.append("listener.name.mtls.ssl.client.auth=required")
        for name in ("ssl", "sasl_ssl", "mtls", "expired"):
            lines.append(f"listener.name.{name}.ssl.keystore.location={self.home}/{name}.pem")
            lines.append(f"listener.name.{name}.ssl.truststore.location={self.home}/ca.pem")
        for name in ("sasl_plaintext", "sasl_ssl"):
            lines += [
                f"listener.name.{name}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                f'listener.name.{name}.plain.sasl.jaas.config={plain} user_{USER}="{PASSWORD}";',
                f"listener.name.{name}.scram-sha-256.sasl.jaas.config={scram}",
                f"listener.name.{name}.scram-sha-512.sasl.jaas.config={scram}",
            ]
        return "\n".join(lines) + "\n"

    def known(self) -> dict[str, Any]:
        return {"home": str(self.home), "version": self.version, "ports": self.ports, "pid": self.pid}


def make_certificates(home: Path) -> None:
    """A CA, and a key with certificate for each listener with TLS and for a client, as one PEM each; also a CA that
    signed nothing."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other-ca"):
        openssl(
            "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"
        )
    for name, (alternatives, days) in CERTIFICATES.items():
        (home / f"{name}.ext").write_text(f"subjectAltName={alternatives}\n")
        openssl("req", *key, "-subj", "/CN=broker", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = (
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            str(days),
            "-extfile",
            f"{name}.ext",
        )
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.crt")
        (home / f"{name}.pem").write_text((home / f"{name}.key").read_text() + (home / f"{name}.crt").read_text())


def shared() -> Broker:
    """The session's broker, for everything that leaves it alive."""

    def start(home: Path) -> dict[str, Any]:
        broker = Broker(home)
        broker.prepare()
        broker.start()
        return broker.known()

    known = servers.shared("kafka", start)
    return Broker(Path(known["home"]), known["version"], known["ports"], known["pid"])


def private(version: str = "kafka") -> Broker:
    """One (`kafka`, or `old-kafka`) that a test may kill and start again; it stops what it started (`stop`)."""
    broker = Broker(Path(tempfile.mkdtemp(dir=servers.session_folder(), prefix="kafka-")), version)
    broker.prepare()
    broker.start()
    return broker
