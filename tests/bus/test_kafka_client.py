"""The first conversation with a Kafka server: what answers there, and how soon that is told."""

import socketserver
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from peachctl.bus.kafka_client import Settings, reach
from peachctl.errors import UnreachableError
from tests.servers import kafka


@pytest.fixture
def web() -> Iterator[str]:
    """The address of what is no Kafka."""

    class Web(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def told(to: Settings) -> str:
    """What is said of a server that another would wait for."""
    began = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        reach(to, 30.0)
    assert time.monotonic() - began < 10
    assert "kafka.security_protocol" in (caught.value.hint or "")
    return caught.value.message


def tls(server: str) -> Settings:
    return Settings((server,), "SSL", context=ssl.create_default_context())


def test_what_is_no_kafka_is_told_at_once(web: str) -> None:
    assert f"{web}: what answers there is no Kafka" in told(Settings((web,), "PLAINTEXT"))
    assert "does not speak TLS; is that port TLS?" in told(tls(web))


def test_tls_on_one_side_only_is_told_at_once() -> None:
    broker = kafka.shared()
    assert "is that port TLS?" in told(tls(broker.address()))
    said = told(Settings((broker.address("ssl"),), "PLAINTEXT"))
    assert "it answers with TLS" in said or "is that port TLS?" in said
