"""The first words with a Kafka server, spoken without kafka-python's clients: TCP, TLS, the protocol, who we are.

Those try again for ever where a password or a certificate is refused, and tell nobody why.
"""

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from kafka.errors import for_code  # noqa: TID253 this module is imported inside functions only
from kafka.net.sasl import get_sasl_mechanism  # noqa: TID253
from kafka.protocol.metadata import ApiVersionsRequest  # noqa: TID253
from kafka.protocol.parser import KafkaProtocol  # noqa: TID253
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest  # noqa: TID253

from peachctl.errors import ConfigError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from peachctl.bus.kafka_client import Settings

CLIENT = "peachctl"
"""The name by which servers know us."""

_LARGEST = 100 << 20  # bytes of an answer; what is no Kafka says something that is more, taken for a size


class Odd(ConnectionError):
    """What answers does not speak as we do. sure: by what it said; else it only closed the connection."""

    def __init__(self, message: str, *, sure: bool) -> None:
        super().__init__(message)
        self.sure = sure


def greet(to: "Settings", host: str, port: int, timeout: float) -> None:
    """Returns when a server has greeted us, within `timeout` seconds. Raises Odd, another OSError or a KafkaError where
    there is no such server now, and RefusedError or ConfigError as `kafka_client.reach` does."""
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout) as plain:
            connection = _secure(to.context, plain, host, where)
            with connection:
                talk = _Talk(connection, timeout)
                talk.ask(ApiVersionsRequest(version=0))
                if to.mechanism is not None:
                    _authenticate(to, talk, host, where)
    except ssl.SSLError as error:
        # An alert that it sends: with TLS 1.3 after the handshake, when we ask for something.
        if "ALERT" in (error.reason or "") and ("CERTIFICATE" in error.reason or "UNKNOWN_CA" in error.reason):
            raise RefusedError(
                f"Kafka at {where}: it wants a certificate of ours that it accepts ({reason(error)})",
                "see kafka.tls_cert and kafka.tls_key",
            ) from error
        raise


def _secure(context: ssl.SSLContext | None, plain: socket.socket, host: str, where: str) -> socket.socket:
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(
            f"Kafka at {where}: its certificate is not accepted: {error.verify_message}",
            "see kafka.tls_ca, and that the certificate has the name in kafka.bootstrap_servers",
        ) from error
    except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError) as error:
        raise Odd("it closes the connection when TLS begins; is that port TLS?", sure=False) from error
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"):
            raise Odd("what answers there does not speak TLS; is that port TLS?", sure=True) from error
        raise


def _authenticate(to: "Settings", talk: "_Talk", host: str, where: str) -> None:
    answer = talk.ask(SaslHandshakeRequest(mechanism=to.mechanism, version=1))
    if to.mechanism not in answer.mechanisms:
        offered = ", ".join(sorted(answer.mechanisms)).lower() or "none"
        raise ConfigError(
            f"kafka.sasl_mechanism: {where} does not take {str(to.mechanism).lower()}", f"it takes {offered}"
        )
    try:
        mechanism = get_sasl_mechanism(to.mechanism)(host=host, sasl_kerberos_service_name="kafka", **to.sasl())
    except ImportError as error:
        raise ConfigError(
            f"kafka.sasl_mechanism: {str(to.mechanism).lower()} needs the Python package {error.name}"
        ) from error
    while not mechanism.is_done():
        answer = talk.ask(SaslAuthenticateRequest(mechanism.auth_bytes(), version=0))
        if answer.error_code:
            raise RefusedError(
                f"Kafka at {where} does not accept the user {to.username} with this password"
                f" ({str(to.mechanism).lower()})",
                "see kafka.sasl_username and kafka.sasl_password_file",
            ) from for_code(answer.error_code)()
        try:
            mechanism.receive(answer.auth_bytes)
        except Exception as error:
            raise UnreachableError(f"Kafka at {where}: its part of the {to.mechanism} exchange is wrong") from error


class _Talk:
    """Requests and their answers over one socket."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._socket = connection
        self._end = time.monotonic() + timeout
        self._protocol = KafkaProtocol(client_id=CLIENT)
        self._head = b""  # the first bytes that it said

    def ask(self, request: Any) -> Any:
        self._protocol.send_request(request)
        self._socket.sendall(self._protocol.send_bytes())
        while True:
            self._socket.settimeout(max(0.01, self._end - time.monotonic()))
            try:
                received = self._socket.recv(65536)
            except ConnectionResetError:
                received = b""
            if not received:
                raise Odd("the connection was closed (see kafka.security_protocol); is that port TLS?", sure=False)
            self._know(received)
            answers = self._protocol.receive_bytes(received)
            if answers:
                return answers[0][1]

    def _know(self, received: bytes) -> None:
        """Raises Odd where the first bytes are no Kafka's: its answers begin with their size."""
        self._head = self._head or received[:4]
        if self._head.startswith(b"\x15\x03"):
            raise Odd("it answers with TLS; kafka.security_protocol says otherwise", sure=True)
        if int.from_bytes(self._head) > _LARGEST:
            raise Odd("what answers there is no Kafka", sure=True)


def reason(error: BaseException) -> str:
    """What a failure says of itself, in a few words and without numbers of libraries."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
