"""The border to kafka-python: a configuration becomes clients with time-outs, their errors become ours.

kafka-python tries again for ever where a password or a certificate is refused, and tells nobody why. So every server
is greeted by a conversation of our own first (`reach`, `kafka_greeting`).

The password is in no text of ours: not in a repr, an error or a log; the logger `kafka` stays at INFO or above,
because its DEBUG prints settings and payloads.

Imported late: kafka costs more than all of the command line.
"""

import logging
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kafka import (  # noqa: TID253 this module is imported inside functions only
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.coordinator.assignors.range import RangePartitionAssignor  # noqa: TID253
from kafka.errors import (  # noqa: TID253
    AuthorizationError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaError,
    NoError,
    OffsetNotAvailableError,
    RetriableError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)

from peachctl.bus.kafka_greeting import CLIENT, Odd, greet, reason
from peachctl.config import Config, kafka_password
from peachctl.errors import ConfigError, Exit, PeachError, RefusedError, UnreachableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds for which commands wait for a server that does not answer. All of a command takes less than 30 then."""

CALL = 10_000
"""Milliseconds that one call of a client may take."""

_GREETING = 5.0
_CLOSING = 1.5  # seconds of connections that are closed when they are greeted: a broker that begins or ends does so too
_MOMENT = 0.3  # of silence, after which another server is asked as well
_FETCH_BYTES = 8 << 20
_answered: dict[tuple[str, ...], str] = {}

_UNUSABLE: dict[type[KafkaError], tuple[str, str]] = {
    InvalidTopicError: ("the name of a topic", "see kafka.topic_execute and its like"),
    InvalidGroupIdError: ("the name of the group", "see kafka.group_ingest"),
    InvalidSessionTimeoutError: (
        "kafka.session_timeout",
        "it takes what is between its group.min.session.timeout.ms and group.max.session.timeout.ms",
    ),
}
"""What the broker says of our configuration, and will say again."""


class TopicMissing(UnreachableError):
    """There is a broker, but not this topic: waited for as well by consumers, for clients may make it."""

    exit = Exit.FAILED


@dataclass(frozen=True, slots=True)
class Settings:
    """How the servers are reached and who we are there. mechanism: as Kafka spells it, None without SASL."""

    servers: tuple[str, ...]
    protocol: str
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """For messages."""
        return ", ".join(self.servers)

    def options(self) -> dict[str, Any]:
        """What all three clients take. Holds the password: not for any message.

        Of the servers the one that answered `reach` alone: kafka-python begins with any of them, and gives up where
        that one is silent. It hears of the others there.
        """
        answered = _answered.get(self.servers)
        return {
            "bootstrap_servers": list(self.servers) if answered is None else [answered],
            "client_id": CLIENT,
            "security_protocol": self.protocol,
            "ssl_context": self.context,
            **self.sasl(),
            "bootstrap_timeout_ms": CALL,
            "request_timeout_ms": 30_000,
            "reconnect_backoff_max_ms": 1_000,
        }

    def sasl(self) -> dict[str, Any]:
        return {
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }


def settings(config: Config) -> Settings:
    """How `kafka.*` says that the servers are reached. Raises ConfigError."""
    kafka = config.kafka
    if not kafka.bootstrap_servers:
        raise ConfigError("kafka.bootstrap_servers is not set", 'set it to a list of "HOST:PORT"')
    _calm()
    protocol = kafka.security_protocol.upper()
    mechanism, password = None, None
    if protocol.startswith("SASL"):
        mechanism = str(kafka.sasl_mechanism).upper()  # a configuration without it is refused
        if mechanism != "GSSAPI":
            password = kafka_password(config)
            if kafka.sasl_username is None:
                raise ConfigError(f"kafka.sasl_username is not set, but kafka.sasl_mechanism is {kafka.sasl_mechanism}")
            if password is None:
                raise ConfigError(
                    f"there is no password for kafka.sasl_username {kafka.sasl_username}",
                    "set kafka.sasl_password_file, or give the systemd credential peachctl-kafka-password",
                )
    return Settings(
        servers=kafka.bootstrap_servers,
        protocol=protocol,
        mechanism=mechanism,
        username=kafka.sasl_username if mechanism else None,
        password=password,
        context=_context(config) if protocol.endswith("SSL") else None,
    )


def _context(config: Config) -> ssl.SSLContext:
    # Made here: kafka-python takes `ssl_ciphers` and ignores it, and so might it others.
    kafka = config.kafka
    try:
        context = ssl.create_default_context(cafile=kafka.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"kafka.tls_ca: {kafka.tls_ca}: {reason(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not kafka.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if kafka.tls_cert is not None:
        try:
            # A key with a pass phrase would make OpenSSL ask at the terminal.
            context.load_cert_chain(kafka.tls_cert, kafka.tls_key, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"kafka.tls_cert, kafka.tls_key: {reason(error)}") from error
    return context


def _calm() -> None:
    """kafka-python tells each failing attempt in several lines; we say once what is the matter."""
    verbose = logging.getLogger("peachctl").isEnabledFor(logging.DEBUG)
    logging.getLogger("kafka").setLevel(logging.INFO if verbose else logging.CRITICAL)


def reach(to: Settings, patience: float = PATIENCE) -> None:
    """Returns as soon as one of the servers has greeted us. Raises RefusedError at once where one does not accept who
    we are (or we not it), ConfigError for a SASL mechanism that it does not have, UnreachableError after `patience`
    seconds without an answer, and soon where what answers is no Kafka, or TLS where we are not or the reverse.

    The one that answered last time is asked first, and the next one as soon as it failed or was silent for a moment:
    a server that lets packets vanish does not hide the ones that live.
    """
    end = time.monotonic() + patience
    odd_since: float | None = None
    while True:
        failed = _ask_all(to, min(_GREETING, max(0.1, end - time.monotonic())))
        if not failed:
            return
        failures = "; ".join(f"{server}: {reason(error)}" for server, error in failed.items())
        now = time.monotonic()
        odd = [error for error in failed.values() if isinstance(error, Odd)]
        odd_since = (odd_since or now) if len(odd) == len(failed) else None
        if odd_since is not None and (all(one.sure for one in odd) or now - odd_since >= _CLOSING):
            raise UnreachableError(
                f"Kafka cannot be reached: {failures}",
                "see kafka.security_protocol, and the port in kafka.bootstrap_servers",
            )
        if now + 0.5 > end:
            raise UnreachableError(
                f"Kafka cannot be reached: {failures}", "see that it runs, and kafka.bootstrap_servers"
            )
        time.sleep(0.5)


def _ask_all(to: Settings, patience: float) -> dict[str, Exception]:
    """What is the matter with each server; nothing where one has greeted us."""
    end = time.monotonic() + patience
    moment = min(_MOMENT, patience / (2 * len(to.servers)))
    answers: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()
    waiting = sorted(to.servers, key=lambda server: server != _answered.get(to.servers))
    failures: dict[str, Exception] = {server: TimeoutError() for server in to.servers}
    heard = 0
    while heard < len(to.servers) and (left := end - time.monotonic()) > 0:
        if waiting:
            server = waiting.pop(0)
            threading.Thread(target=_ask, args=(to, server, left, answers), name="greeting", daemon=True).start()
        try:
            server, error = answers.get(timeout=min(moment, left) if waiting else left)
        except queue.Empty:
            continue
        heard += 1
        if error is None:
            _answered[to.servers] = server
            return {}
        if not isinstance(error, OSError | KafkaError):
            raise error
        failures[server] = error
    return failures


def _ask(
    to: Settings, server: str, patience: float, answers: "queue.SimpleQueue[tuple[str, Exception | None]]"
) -> None:
    host, _, port = server.rpartition(":")
    try:
        greet(to, host.strip("[]"), int(port), patience)
    except Exception as error:  # noqa: BLE001 - who waits for it raises it
        answers.put((server, error))
    else:
        answers.put((server, None))


def no_topic(to: Settings, topic: str) -> TopicMissing:
    return TopicMissing(f"Kafka at {to.where} has no topic {topic}", "peachctl init-kafka")


def translated(error: KafkaError, to: Settings, what: str) -> PeachError:
    """An error of kafka-python in our words. what: what could not be done, such as `the topics cannot be listed`.

    RefusedError and ConfigError end a consumer, for waiting mends nothing: a right, a login, a name or a time-out that
    the broker does not take. Whatever else a broker says, known or not, is waited for."""
    if isinstance(error, SaslAuthenticationFailedError | UnsupportedSaslMechanismError):
        return RefusedError(f"Kafka at {to.where} does not accept the user {to.username} any more: {what}")
    if isinstance(error, AuthorizationError):
        who = f"the user {to.username}" if to.username else "this client"
        return RefusedError(
            f"Kafka does not allow {who} this: {what} ({type(error).__name__})", "give it the rights (docs/kafka.md)"
        )
    if type(error) in _UNUSABLE:
        which, hint = _UNUSABLE[type(error)]
        return ConfigError(f"Kafka at {to.where} does not take {which}: {what}", hint)
    return UnreachableError(f"Kafka at {to.where}: {what}: {reason(error)}")


@contextmanager
def border(to: Settings, what: str) -> Iterator[None]:
    """Errors of kafka-python do not pass: see `translated`."""
    try:
        yield
    except KafkaError as error:
        raise translated(error, to, what) from error


def open_admin(to: Settings) -> KafkaAdminClient:
    """Raises UnreachableError, RefusedError, as `reach` does. To be closed."""
    with border(to, "no connection"):
        return KafkaAdminClient(**to.options())


def open_consumer(to: Settings, group: str | None, **more: Any) -> KafkaConsumer:
    """A consumer that decodes nothing, commits nothing by itself and begins nowhere by itself. group: None for one
    that only looks. more: its settings, which win. Raises UnreachableError, RefusedError. To be closed."""
    with border(to, "no connection"):
        return KafkaConsumer(
            **to.options()
            | {
                "group_id": group,
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "allow_auto_create_topics": False,
                "partition_assignment_strategy": (RangePartitionAssignor,),
                "fetch_max_bytes": _FETCH_BYTES,
                "metadata_max_age_ms": 30_000,
            }
            | more
        )


def open_producer(to: Settings, largest: int = 1 << 20, delivery: float = 30.0) -> KafkaProducer:
    """A producer whose sends end within `delivery` seconds. largest: bytes of a value. Raises UnreachableError,
    RefusedError."""
    with border(to, "no connection"):
        return KafkaProducer(
            **to.options() | {"request_timeout_ms": int(delivery * 1000)},
            acks="all",
            delivery_timeout_ms=int(delivery * 1000),
            max_block_ms=5_000,
            max_request_size=largest + (64 << 10),
        )


def close_producer(producer: KafkaProducer, timeout: float) -> None:
    """Waits at most `timeout` seconds for what is under way, and leaves nothing of it behind.

    Of itself `close` fails where something still is under way, and then the producer's threads stay for good, each of
    them with a connection.
    """
    try:
        producer.close(timeout=timeout)
    except KafkaError as error:
        logger.debug("a producer is given up: %s", error)
        producer._sender.force_close()
        with suppress(KafkaError):
            producer.close(timeout=1.0)


def patiently(call: Callable[[], T], seconds: float = 15.0) -> T:
    """Does it again while the answer is one that passes by itself (a coordinator that is being chosen, for example)."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except RetriableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def partitions(admin: KafkaAdminClient, topic: str) -> list[TopicPartition]:
    """Those of a topic, in order; none where it is not there. Raises KafkaError."""
    described = _describe(admin, topic)
    found = [] if described is None else described["partitions"]
    return sorted(TopicPartition(topic, one["partition_index"]) for one in found)


def topic_id(admin: KafkaAdminClient, topic: str) -> str | None:
    """What tells a topic from one of that name made later; '' from brokers that do not know; None where there is no
    such topic. Raises KafkaError."""
    described = _describe(admin, topic)
    if described is None:
        return None
    given = str(described.get("topic_id") or "")
    return "" if not given.strip("0-") else given


def _describe(admin: KafkaAdminClient, topic: str) -> dict[str, Any] | None:
    """None where there is no such topic. kafka-python hands out other errors as if they were an answer."""

    def ask() -> dict[str, Any] | None:
        [found] = admin.describe_topics([topic])
        error = for_code(found["error_code"])
        if error is UnknownTopicOrPartitionError:
            return None
        if error is not NoError:
            raise error(topic)
        return dict(found)

    return patiently(ask)


def beginning_offsets(
    consumer: KafkaConsumer, of: Iterable[TopicPartition], timeout: int = CALL
) -> dict[TopicPartition, int]:
    """The first offset of each partition. timeout: milliseconds. Raises KafkaError."""
    return _offsets(consumer.beginning_offsets, of, timeout)


def end_offsets(
    consumer: KafkaConsumer, of: Iterable[TopicPartition], timeout: int = CALL
) -> dict[TopicPartition, int]:
    """The offset behind the last message of each partition. timeout: milliseconds. Raises KafkaError."""
    return _offsets(consumer.end_offsets, of, timeout)


def _offsets(ask: Callable[..., Any], of: Iterable[TopicPartition], timeout: int) -> dict[TopicPartition, int]:
    try:
        return dict(ask(list(of), timeout_ms=timeout))
    except KeyError as error:  # kafka-python leaves out what the broker does not say, and then looks for it
        raise OffsetNotAvailableError(f"the broker does not say the offsets of {error}") from error


def assigned(admin: KafkaAdminClient, group: str, topic: str) -> set[TopicPartition] | None:
    """The partitions of a topic that members of the group have; None while that cannot be said: the group is changing,
    or a member says it in a way of its own. Raises KafkaError."""
    found = admin.describe_groups([group])[group]
    given = [member["member_assignment"] for member in found["members"]]
    if found["group_state"] not in ("Stable", "Empty", "Dead") or any(isinstance(one, bytes) and one for one in given):
        return None
    kept = [one for assignment in given if assignment for one in assignment["assigned_partitions"]]
    return {TopicPartition(topic, number) for one in kept if one["topic"] == topic for number in one["partitions"]}


def committed(admin: KafkaAdminClient, group: str, topic: str) -> dict[TopicPartition, int]:
    """The offsets that a group has in a topic; none is a value."""
    # One group per call and all of its topics: brokers before 3.0 know no other way.
    found: Mapping[TopicPartition, Any] = patiently(lambda: admin.list_group_offsets({group: None}).get(group, {}))
    return {tp: kept.offset for tp, kept in found.items() if tp.topic == topic and kept.offset >= 0}
