"""Who may connect, and how: each kind of listener of a real broker, and what those who are refused are told."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from peachctl.bus.kafka_client import open_consumer, reach, settings
from peachctl.bus.kafka_send import KafkaSender
from peachctl.config import Config
from peachctl.errors import RefusedError
from tests.bus.conftest import kafka_config
from tests.servers import kafka
from tests.topics import TopicPartition, Topics


def login(mechanism: str, user: str = kafka.USER) -> dict[str, str]:
    return {"SASL_MECHANISM": mechanism, "SASL_USERNAME": user}


CERTIFICATE = {"TLS_CERT": "client.pem", "TLS_KEY": "client.pem"}
KINDS: list[tuple[str, dict[str, str]]] = [
    ("ssl", {}),
    ("mtls", CERTIFICATE),
    ("sasl_plaintext", login("plain")),
    ("sasl_plaintext", login("scram-sha-256")),
    ("sasl_ssl", login("scram-sha-256")),
    ("sasl_ssl", login("scram-sha-512")),
]


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The password as systemd hands it over."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    file = folder / "peachctl-kafka-password"
    file.touch(0o400)
    file.chmod(0o600)
    file.write_text(kafka.PASSWORD + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    yield file


def configured(home: Path, topics: Topics, listener: str, given: dict[str, str]) -> Config:
    """`given`: of `kafka.*`; files are the broker's."""
    broker = topics.broker
    protocol = kafka.LISTENERS[listener]
    named = {"BOOTSTRAP_SERVERS": broker.address(listener), "SECURITY_PROTOCOL": protocol.lower()}
    if protocol.endswith("SSL"):
        named["TLS_CA"] = "ca.pem"
    named |= given
    for key in named:
        if key.startswith("TLS_"):
            named[key] = str(broker.home / named[key])
    return kafka_config(home, topics, **{f"PEACHCTL_KAFKA__{key}": value for key, value in named.items()})


@pytest.mark.parametrize(
    ("listener", "given"), KINDS, ids=[f"{one} {given.get('SASL_MECHANISM', '')}" for one, given in KINDS]
)
def test_a_message_goes_there_and_back_over_each_kind_of_listener(
    tmp_path: Path, topics: Topics, credentials: Path, listener: str, given: dict[str, str]
) -> None:
    topics.create(topics.execute)
    to = settings(configured(tmp_path, topics, listener, given))
    reach(to, 5.0)
    with closing(KafkaSender(to, 1 << 20, 5.0)) as sender:
        origin = sender.send(topics.execute, b"there")
    with closing(open_consumer(to, None)) as consumer:
        place = TopicPartition(origin.topic, origin.partition)
        consumer.assign([place])
        consumer.seek(place, origin.offset)
        [record] = consumer.poll(timeout_ms=10_000)[place]
    assert record.value == b"there"


@pytest.mark.fault("B15", "D9")
@pytest.mark.parametrize(
    ("listener", "given", "said"),
    [
        (
            "sasl_ssl",
            login("scram-sha-256"),
            f"does not accept the user {kafka.USER} with this password (scram-sha-256)",
        ),
        ("sasl_ssl", login("scram-sha-512", "mallory"), "does not accept the user mallory with this password"),
        ("sasl_plaintext", login("scram-sha-512"), f"does not accept the user {kafka.USER} with this password"),
        ("expired", {}, "its certificate is not accepted: certificate has expired"),
        ("mtls", {}, "it wants a certificate of ours that it accepts"),
        (
            "mtls",
            {"TLS_CERT": "expired.pem", "TLS_KEY": "expired.pem"},
            "it wants a certificate of ours that it accepts",
        ),
    ],
)
def test_who_is_refused_hears_why_in_one_line_at_once(
    tmp_path: Path, topics: Topics, credentials: Path, listener: str, given: dict[str, str], said: str
) -> None:
    credentials.write_text("canary-wrong")
    to = settings(configured(tmp_path, topics, listener, given))
    began = time.monotonic()
    with pytest.raises(RefusedError) as caught:
        reach(to)
    assert time.monotonic() - began < 5
    assert said in caught.value.message and "\n" not in caught.value.message
    assert "canary" not in f"{caught.value!r}{caught.value.hint}{caught.value.__cause__!r}"
