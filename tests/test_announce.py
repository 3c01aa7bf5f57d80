"""The service list as it is published."""

import json
import logging
import threading
from pathlib import Path

import pytest

from peachctl import wire
from peachctl.announce import Announcer, service_list
from peachctl.bus import MessageTooLarge
from peachctl.errors import PeachError, UnreachableError
from peachctl.hub import find_services
from peachctl.workflow import Service
from tests.conftest import make_hub

GOLDEN = Path(__file__).parent / "golden"


def add(hub: Path, service: Service) -> None:
    folder = hub / service.id / f"v{service.version}"
    folder.mkdir(parents=True)
    (folder / "service.config").write_bytes(wire.encode_service_config(service))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A hub with the services of the golden list, and an older version of each."""
    for service in wire.services_from_json(json.loads((GOLDEN / "service_list.json").read_text())):
        add(tmp_path, service)
        if service.version > 1:
            add(tmp_path, Service(service.id, "old", service.version - 1, "", (), (), ()))
    return tmp_path


def test_the_list_is_the_newest_of_each_service_byte_for_byte_as_the_reference_writes_it(small: Path) -> None:
    golden = (GOLDEN / "service_list.bin").read_bytes()
    by_id = sorted(wire.decode_services(golden), key=lambda one: one.id)
    found = service_list(find_services(small))
    assert found.body == wire.encode_services(by_id)
    assert sorted(found.body) == sorted(golden) and len(found.body) == len(golden)
    assert found.problems == []


def test_a_config_that_cannot_be_read_is_named_once_and_the_others_are_published(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = small / "Broken" / "v1" / "service.config"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"Obj\x01 nothing")
    sent: list[bytes] = []
    announcer = Announcer(lambda: find_services(small), sent.append, 60)
    assert announcer.step() and announcer.step()
    assert sent == [service_list(find_services(small)).body] * 2
    assert [record.message for record in caplog.records if "Broken" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_no_list_is_published_of_a_hub_without_services_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hub = tmp_path / "hub"
    sent: list[bytes] = []
    announcer = Announcer(lambda: find_services(hub), sent.append, 60)
    assert not announcer.step() and not announcer.step()
    hub.mkdir()
    assert not announcer.step() and not announcer.step()
    make_hub(hub)
    assert announcer.step()
    assert sent == [service_list(find_services(hub)).body]
    cannot, holds, again = [record.message for record in caplog.records]
    assert "cannot be read" in cannot and "holds no service" in holds and "published again" in again


def test_a_list_that_is_too_large_is_not_sent_again_before_it_is_another_one(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[bytes] = []

    def send(body: bytes) -> None:
        sent.append(body)
        raise MessageTooLarge(f"{len(body)} bytes are more than the broker takes")

    announcer = Announcer(lambda: find_services(small), send, 60)
    for _ in range(3):
        assert not announcer.step()
    assert len(sent) == 1 and len(caplog.records) == 1
    add(small, Service("Another", "Another", 1, "", (), (), ()))
    assert not announcer.step()
    assert len(sent) == 2


def test_the_thread_publishes_at_once_and_again_and_outlives_whatever_goes_wrong(small: Path) -> None:
    sent: list[bytes] = []
    enough, closed = threading.Event(), threading.Event()
    errors = iter([UnreachableError("away"), ValueError("a mistake"), PeachError("odd")])

    def send(body: bytes) -> None:
        error = next(errors, None)
        if error is not None:
            raise error
        sent.append(body)
        if len(sent) == 3:
            enough.set()

    announcer = Announcer(lambda: find_services(small), send, 0.01, close=closed.set)
    announcer.start()
    assert enough.wait(10)
    announcer.stop()
    assert closed.is_set() and set(sent) == {service_list(find_services(small)).body}


def test_an_end_waits_for_the_list_that_is_on_its_way(small: Path) -> None:
    begun, over = threading.Event(), threading.Event()

    def send(_body: bytes) -> None:
        begun.set()
        over.wait(30)

    announcer = Announcer(lambda: find_services(small), send, 60)
    announcer.start()
    assert begun.wait(10)
    threading.Timer(0.1, over.set).start()
    announcer.stop()
    assert announcer.published == 1
