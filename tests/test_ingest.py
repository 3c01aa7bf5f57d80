"""The ingest loop over a real store and the folder bus: each message one row or one letter, whatever happens."""

import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from peachctl import drafts, files, ingest, names, script, script_files, wire
from peachctl.backoff import Backoff
from peachctl.bus import Message
from peachctl.bus.folder import FolderBus
from peachctl.errors import PeachError, StateError, UnreachableError
from peachctl.hub import Hub, find_services
from peachctl.ingest import Ingest, file_entries, prepare_entry, unique_name
from peachctl.store import Entry, ExecutionFileTaken, Origin, Status, Store
from peachctl.store.sqlite import open_store
from peachctl.workflow import Connection, Double, Float, Node, ServiceRef, Workflow
from tests.conftest import DIAMOND, node, workflow
from tests.store.adapters import MysqlDatabase
from tests.test_failpoints import points_of

GOLDEN = Path(__file__).parent / "golden"
CYCLE = workflow(node("a", "Upper", [], "b"), node("b", "Upper", [], "a"), name="round")
TWICE = workflow(node("a", "Text", ["x"]), node("a", "Text", ["y"]), node("u", "Nowhere", [], "gone"), name="mess")


@dataclass
class Place:
    """The folders of an installation, and what is in its database."""

    home: Path
    hub: Path
    store: Store
    bus: FolderBus
    loop: Ingest

    def drop(self, value: Any, name: str = "one.json") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        (self.home / "being-written").write_bytes(body)
        (self.home / "being-written").rename(self.home / "inbox" / name)

    def step(self, count: int = 1) -> None:
        """Steps until `count` messages were handled."""
        handled = 0
        for _ in range(50):
            handled += self.loop.step(0.1)
            if handled >= count:
                break
        assert handled == count

    def scripts(self) -> list[str]:
        return sorted(path.name for path in (self.home / "queue").iterdir())

    def files(self) -> set[str]:
        return {path.name for path in (self.home / "files").iterdir()}

    def inbox(self) -> list[str]:
        """Files of the inbox and below, without what the bus keeps for itself."""
        inbox = self.home / "inbox"
        found = [path.relative_to(inbox) for path in inbox.rglob("*") if path.is_file()]
        return sorted(str(path) for path in found if path.parts[0] != ".origin")

    def log(self, id: int) -> str:
        row = self.store.get(id)
        assert row is not None
        with tarfile.open(self.home / "files" / row.output_file) as tar:
            member = tar.extractfile(f"workflow_{id}/peachctl.log")
            assert member is not None
            return member.read().decode()


def make_loop(home: Path, store: Store, bus: FolderBus, hub: Path, **more: Any) -> Ingest:
    settings: dict[str, Any] = {"load_hub": lambda: find_services(hub), "limits": wire.Limits(), **more}
    return Ingest(
        store,
        bus,
        queue_folder=home / "queue",
        workflow_temp=home / "temp",
        download_files=home / "files",
        **settings,
    )


def make_bus(home: Path) -> FolderBus:
    return FolderBus(home / "inbox", home / "queue", "host", wire.Limits().message_bytes, sweep=0.1, settle=0.1)


def open_place(tmp_path: Path, hub: Path) -> Iterator[Place]:
    for name in ("inbox", "queue", "temp", "files"):
        (tmp_path / name).mkdir()
    store = open_store(tmp_path / "db.sqlite")
    bus = make_bus(tmp_path)
    yield Place(tmp_path, hub, store, bus, make_loop(tmp_path, store, bus, hub))
    bus.close()
    store.close()


@pytest.fixture
def place(tmp_path: Path, hub: Path) -> Iterator[Place]:
    yield from open_place(tmp_path, hub)


# The road


@pytest.mark.parametrize("name", ["w.bin", "w.json", "w.wf"])
def test_a_message_becomes_a_row_a_script_and_an_event(place: Place, name: str) -> None:
    decoded = wire.workflow_from_json(DIAMOND)
    message = wire.encode_workflow(decoded)
    place.drop(message if name == "w.bin" else DIAMOND, name)
    place.step()
    [row] = place.store.rows()
    assert (row.user, row.name, row.status, row.priority) == ("ada@hospital", "diamond", Status.QUEUED, 1)
    assert row.workflow_json == wire.workflow_json_text(decoded)
    md5 = hashlib.md5(message).hexdigest()
    assert names.parse_script_name(row.execution_file) == ("ada@hospital", md5)
    assert place.scripts() == [row.execution_file]
    text = (place.home / "queue" / row.execution_file).read_text()
    assert text == script.render(decoded, md5)
    assert place.store.unannounced(10) == []
    end = time.monotonic() + 10
    while not (seen := place.bus.changed()) and time.monotonic() < end:
        time.sleep(0.01)
    assert [one.name for one in seen] == [row.execution_file]
    assert place.inbox() == []
    assert place.store.letters() == []


def test_the_script_carries_the_md5_of_the_message_as_it_was_sent(place: Place) -> None:
    """Avro writes one record in more than one way (`sized_blocks.bin`)."""
    message = (GOLDEN / "sized_blocks.bin").read_bytes()
    assert message != wire.encode_workflow(wire.decode_workflow(message))
    place.drop(message, "one.bin")
    place.step()
    [row] = place.store.rows()
    assert f"_{hashlib.md5(message).hexdigest()}_" in row.execution_file


def test_the_script_of_a_message_is_that_of_its_row_to_the_byte(place: Place) -> None:
    """Numbers for which JSON has no words are texts in the row, and an executor renders what it does not find."""
    values = (Double(math.nan), Float(-math.inf), Double(1e16), Float(0.1), 3, "x", None)
    service = ServiceRef("Fail", 1)
    for value in values:
        node = Node("a", service, (value,), (Connection(-1, "in"),))
        place.drop(wire.encode_workflow(Workflow("numbers", "ada", (node,))), "numbers.bin")
        place.step()
    rows = place.store.rows()
    assert len(rows) == len(values) and {row.status for row in rows} == {Status.QUEUED}
    for row in rows:
        written = (place.home / "queue" / row.execution_file).read_text()
        assert written == drafts.text_of(row.execution_file, row.workflow_json)


def test_what_a_kill_left_just_before_the_start_is_swept_a_minute_later(place: Place) -> None:
    place.loop.repair()
    left = place.home / "queue" / f".peachctl-{'0' * 16}.tmp"
    left.write_text("half")
    place.loop.step(0.01)
    assert left.exists()
    os.utime(left, (0, 0))
    place.loop._clean_at = time.monotonic()
    place.loop.step(0.01)
    assert not left.exists()


def test_equal_messages_are_two_rows_with_scripts_of_their_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_999_999_000)
    for number in range(3):
        place.drop(DIAMOND, f"{number}.json")
    place.step(3)
    place.drop(DIAMOND)
    place.step()
    assert [row.execution_file.split("_", 2)[2] for row in reversed(place.store.rows())] == [
        *("1700000000_999999.py", "1700000001_000000.py", "1700000001_000001.py", "1700000001_000002.py"),
    ]
    assert len(place.scripts()) == 4


def test_a_message_that_comes_again_makes_nothing_new(place: Place) -> None:
    message = Message(json.dumps(DIAMOND).encode(), Origin("t", 0, 7), "x.json")
    for _ in range(3):
        place.loop._hand = [message]
        assert place.loop.step(0) == 1
    place.loop._hand = [replace(message, origin=Origin("t", 0, 8)), message]
    assert place.loop.step(0) == 2
    assert len(place.store.rows()) == len(place.scripts()) == 2


def test_the_sender_may_ask_for_a_priority(place: Place) -> None:
    body = wire.encode_workflow(wire.workflow_from_json(DIAMOND))
    place.loop._hand = [Message(body, Origin("t", 0, 1), None, priority=7)]
    place.loop.step(0)
    assert [row.priority for row in place.store.rows()] == [7]


# What is refused


@pytest.mark.fault("E1")
def test_a_message_that_cannot_be_decoded_is_a_letter_and_blocks_nothing(place: Place) -> None:
    for path in sorted(GOLDEN.glob("malformed_*.bin")):
        place.drop(path.read_bytes(), path.name)
    count = len(list(GOLDEN.glob("malformed_*.bin")))
    place.drop(DIAMOND, "zz.json")
    place.step(count + 1)
    letters = {letter.file or "": letter for letter in place.store.letters()}
    assert sorted(letters) == sorted(path.name for path in GOLDEN.glob("malformed_*.bin"))
    assert all(letter.reason.startswith("malformed: ") and letter.queue_id is None for letter in letters.values())
    union = letters["malformed_bad_union.bin"]
    assert (union.byte_offset is not None, bool(union.field), union.size) == (
        True,
        True,
        len((GOLDEN / "malformed_bad_union.bin").read_bytes()),
    )
    assert union.body == (GOLDEN / "malformed_bad_union.bin").read_bytes()
    assert [row.name for row in place.store.rows()] == ["diamond"]
    refused = {path.name.split("_", 1)[1]: path for path in (place.home / "inbox" / ".refused").iterdir()}
    assert sorted(refused) == sorted([*letters, *(f"{name}.reason.txt" for name in letters)])
    assert refused["malformed_bad_union.bin.reason.txt"].read_text() == f"{union.reason}\n"


def test_a_workflow_that_must_not_run_is_a_row_in_error_with_a_log_and_a_letter(place: Place) -> None:
    place.drop(CYCLE)
    place.step()
    [row] = place.store.rows()
    [letter] = place.store.letters()
    assert (row.status, row.name) == (Status.ERROR, "round")
    assert row.reason is not None
    assert "a -> b -> a" in row.reason or "b -> a -> b" in row.reason
    assert row.reason in place.log(row.id)
    assert letter.reason == f"cycle: {row.reason}"
    assert (letter.queue_id, letter.file) == (row.id, "one.json")
    assert place.scripts() == []
    assert place.store.unpacked(10) == []
    assert place.store.unannounced(10) == []


OTHER_VERSION = {**node("a", "Text", ["x"]), "service": {"id": "Text", "version": 7}}


@pytest.mark.fault("E3", "E4")
@pytest.mark.parametrize(
    ("code", "nodes"),
    [
        ("no-nodes", []),
        ("cycle", [node("a", "Upper", [], "b"), node("b", "Upper", [], "a")]),
        ("self-loop", [node("a", "Upper", [], "a")]),
        ("empty-id", [node("", "Text", ["x"])]),
        ("duplicate-id", [node("a", "Text", ["x"]), node("a", "Text", ["y"])]),
        ("dangling", [node("a", "Upper", [], "gone")]),
        ("unknown-service", [node("a", "Nowhere")]),
        ("unknown-version", [OTHER_VERSION]),
        ("unknown-port", [node("a", "Text", ["x"]), node("b", "Upper", [], ("a", 1))]),
        ("extra-connection", [node("a", "Upper", [], ["x"], ["y"])]),
        ("extra-parameter", [node("a", "Text", ["x", "y"])]),
    ],
)
@pytest.mark.parametrize("ending", ["bin", "json"])
def test_each_kind_that_cannot_run_has_a_row_with_its_log_and_a_letter(
    place: Place, code: str, nodes: list[dict[str, Any]], ending: str
) -> None:
    value = workflow(*nodes)
    body = wire.encode_workflow(wire.workflow_from_json(value))
    place.drop(body if ending == "bin" else value, f"x.{ending}")
    place.step()
    [row] = place.store.rows()
    [letter] = place.store.letters()
    assert (row.status, letter.queue_id) == (Status.ERROR, row.id) and row.finished_date is not None
    assert letter.reason.startswith(f"{code}: ") and row.reason in letter.reason
    assert row.output_file and row.reason and row.reason in place.log(row.id)
    assert place.scripts() == [] and place.store.unannounced(5) == []


def test_nulls_beyond_what_a_version_declares_are_dropped(place: Place) -> None:
    place.drop(workflow(node("a", "Text", ["x", None]), node("b", "Upper", [None], "a", None)))
    place.step()
    assert [row.status for row in place.store.rows()] == [Status.QUEUED] and place.store.letters() == []


@pytest.mark.parametrize("limits", [wire.Limits(nodes=4), wire.Limits(message_bytes=60)])
def test_more_than_the_limits_allow_has_no_row(place: Place, limits: wire.Limits) -> None:
    loop = make_loop(place.home, place.store, place.bus, place.hub, limits=limits)
    place.drop(wire.encode_workflow(wire.workflow_from_json(DIAMOND)), "x.bin")
    while not loop.step(0.1):
        pass
    assert place.store.rows() == []
    assert [(letter.queue_id, letter.reason[:11]) for letter in place.store.letters()] == [(None, "malformed: ")]


def test_all_problems_are_in_the_reason(place: Place) -> None:
    place.drop(TWICE)
    place.step()
    [row] = place.store.rows()
    assert row.reason is not None
    for word in ("'a'", "Nowhere", "gone"):
        assert word in row.reason


def test_a_workflow_without_nodes_is_refused(place: Place) -> None:
    place.drop(workflow())
    place.step()
    assert [row.status for row in place.store.rows()] == [Status.ERROR]
    assert place.store.letters()[0].reason.startswith("no-nodes: ")


@pytest.mark.parametrize("name", ["large.bin", "large.json"])
def test_a_message_beyond_the_limit_is_refused_with_its_size(place: Place, name: str) -> None:
    limits = wire.Limits(message_bytes=1000)
    bus = FolderBus(place.home / "inbox", None, "host", 1000)
    loop = make_loop(place.home, place.store, bus, place.hub, limits=limits)
    place.drop(b" " * 100_000, name)
    while not loop.step(0.1):
        pass
    bus.close()
    [letter] = place.store.letters()
    assert (letter.size, place.store.rows()) == (100_000, [])
    assert letter.reason.startswith("too-large: message of 100000 bytes, the limit is ")


def test_passwords_are_masked_in_reasons_and_logs(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    uri = json.dumps({"user": "u", "password": "hunter2", "server": "s", "root": "r"})
    bad = workflow(node("a", "Text", [uri]), node("b", uri, [], "nope"))
    place.drop(bad)
    place.step()
    place.drop(b'{"nodes": [{"id": ' + uri.encode(), "cut.json")
    place.step()
    said = caplog.text + "".join(letter.reason + letter.field for letter in place.store.letters()) + place.log(1)
    assert "hunter2" not in said
    assert "hunter2" in place.store.rows()[0].workflow_json


def test_hostile_texts_are_filed_as_they_are_and_lead_nowhere(place: Place) -> None:
    hostile = ["../../x", "a\0b", "'; DROP TABLE queue; --", "line\nbreak", "x" * 400, "class", "<script>", "💥" * 40]
    for number, text in enumerate(hostile):
        place.drop(workflow(node(text, "Text", [text]), name=text, user=text), f"{number}.json")
    place.step(len(hostile))
    rows = list(reversed(place.store.rows()))
    assert [(row.name, row.status) for row in rows] == [(text, Status.QUEUED) for text in hostile]
    assert all(row.execution_file.isascii() and "/" not in row.execution_file for row in rows)
    assert sorted(place.scripts()) == sorted(row.execution_file for row in rows)
    assert sorted(path.name for path in place.home.iterdir() if not path.name.startswith("db.")) == [
        *("files", "inbox", "queue", "temp"),
    ]


def test_a_mistake_of_ours_that_one_message_finds_does_not_block_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peachctl.workflow import check as plain

    def breaks(one: Any, services: Any) -> Any:
        if one.name == "round":
            raise ZeroDivisionError
        return plain(one, services)

    monkeypatch.setattr(ingest, "check", breaks)
    place.drop(CYCLE, "1.json")
    place.drop(DIAMOND, "2.json")
    place.step(2)
    assert [row.name for row in place.store.rows()] == ["diamond"]
    assert [letter.reason for letter in place.store.letters()] == ["internal: ZeroDivisionError while it was read"]


def test_another_message_at_a_known_origin_ends_the_loop(place: Place) -> None:
    place.loop._hand = [Message((GOLDEN / "chain.bin").read_bytes(), Origin("t", 0, 1))]
    place.loop.step(0)
    place.loop._hand = [Message((GOLDEN / "diamond.bin").read_bytes(), Origin("t", 0, 1))]
    with pytest.raises(StateError, match="made anew"):
        place.loop.step(0)


@pytest.mark.parametrize("before", ["filed", "a dead letter"])
def test_a_file_that_was_written_on_after_it_was_filed_is_filed_again_with_what_it_holds_now(
    before: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer is another user; the process that had filed it was killed before it was acknowledged."""

    def killed(*_: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderBus, "reject", killed)
    monkeypatch.setattr(FolderBus, "ack", killed)
    place.drop(DIAMOND if before == "filed" else json.dumps(CYCLE)[:-20].encode())
    for value in (workflow(node("t", "Text", ["y"]), name="later"),) * 2:
        with pytest.raises(KeyboardInterrupt):
            place.step()
        place.bus.close()
        [taken] = (place.home / "inbox" / ".taken").iterdir()
        taken.write_text(json.dumps(value))
        place.bus = make_bus(place.home)
        place.loop = make_loop(place.home, place.store, place.bus, place.hub)
    monkeypatch.undo()
    place.step()
    assert [row.name for row in place.store.rows()] == ["later", *(["diamond"] if before == "filed" else [])]
    assert len(place.store.letters()) == (before != "filed")
    assert place.inbox() == []


def test_a_message_that_was_taken_and_comes_again_is_not_refused_for_a_service_that_was_removed_since(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rejected: list[str] = []
    monkeypatch.setattr(place.bus, "reject", lambda message, reason, **_: rejected.append(reason))
    message = Message(json.dumps(DIAMOND).encode(), Origin("t", 0, 7), "x.json")
    hub = find_services(place.hub)
    for services in (hub.services, [one for one in hub.services if one.service.id != "Split"]):
        loop = make_loop(
            place.home,
            place.store,
            place.bus,
            place.hub,
            load_hub=lambda: replace(hub, services=services),  # noqa: B023
        )
        loop._hand = [message]
        assert loop.step(0) == 1
    assert [row.status for row in place.store.rows()] == [Status.QUEUED]
    assert (rejected, place.store.letters(), "refused" in caplog.text) == ([], [], False)
    loop._hand = [replace(message, origin=Origin("t", 0, 8))]
    loop.step(0)
    assert len(rejected) == len(place.store.letters()) == 1


def test_what_another_process_owes_is_relayed_by_an_ingest_that_has_nothing_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_OWED_EVERY", 0.1)
    place.loop.repair()
    place.loop.step(0)
    entry = prepare_entry(json.dumps(DIAMOND).encode(), "x.json", find_services(place.hub), wire.Limits())
    place.store.file([entry])
    end = time.monotonic() + 10
    while place.store.unannounced(1) and time.monotonic() < end:
        place.loop.step(0.05)
    assert place.store.unannounced(1) == [] and place.scripts() == [entry.execution_file]


def test_a_large_debt_is_relayed_a_slice_in_each_step(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_RELAYED", 2)
    entry = prepare_entry(json.dumps(DIAMOND).encode(), "x.json", find_services(place.hub), wire.Limits())
    ingest.unique_names([entry] * 5, place.store.file)
    left = []
    while not place.loop.drained():
        place.loop.step(0.2)
        left.append(len(place.store.unannounced(10)))
    assert left == [3, 1, 0]
    assert len(place.scripts()) == 5


# What makes it wait


def test_without_a_hub_nothing_is_taken_and_it_is_said_once(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> Hub:
        raise PeachError("/hub: No such file or directory")

    (tmp_path / "empty").mkdir()
    loads: list[Callable[[], Hub]] = [missing, missing, lambda: find_services(tmp_path / "empty")]
    loop = make_loop(place.home, place.store, place.bus, place.hub, load_hub=lambda: loads.pop(0)())
    place.drop(DIAMOND)
    with caplog.at_level(logging.INFO, "peachctl.ingest"):
        assert [loop.step(0) for _ in range(2)] == [0, 0]
        assert loop.paused == "/hub: No such file or directory: nothing is ingested"
        assert loop.step(0) == 0
        assert "holds no service" in str(loop.paused)
        loads.append(lambda: find_services(place.hub))
        while not loop.step(0.1):
            pass
    assert not loop.paused
    assert [record.message for record in caplog.records][:3] == [
        "/hub: No such file or directory: nothing is ingested",
        f"the service hub {tmp_path / 'empty'} holds no service",
        "workflow 1: diamond of ada@hospital",
    ]


def test_a_service_installed_a_moment_ago_is_found(place: Place, tmp_path: Path) -> None:
    from tests.conftest import make_hub

    hubs = [find_services(place.hub)]
    make_hub(tmp_path / "hub2")
    (tmp_path / "hub2" / "Text").rename(tmp_path / "hub2" / "Fresh")
    loop = make_loop(place.home, place.store, place.bus, place.hub, load_hub=lambda: hubs[-1])
    assert loop.step(0) == 0
    fresh = replace(hubs[0], services=[*hubs[0].services, renamed(hubs[0], "Text", "Fresh")])
    hubs.append(fresh)
    place.drop(workflow(node("a", "Fresh", ["x"])))
    while not loop.step(0.1):
        pass
    assert [row.status for row in place.store.rows()] == [Status.QUEUED]


def test_a_batch_of_refused_messages_looks_at_the_hub_once_and_a_cycle_never(place: Place) -> None:
    looks: list[None] = []
    hub = find_services(place.hub)
    loop = make_loop(place.home, place.store, place.bus, place.hub, load_hub=lambda: looks.append(None) or hub)
    loop.step(0)
    for value, of_hub in ((CYCLE, False), (workflow(node("a", "Nowhere")), True)):
        for number in range(40):
            place.drop(value, f"{number}.json")
        before, batches = len(looks), []
        while sum(batches) < 40:
            batches.append(loop.step(0.2))
        assert len(looks) - before == (len([one for one in batches if one]) if of_hub else 0)
        assert len(batches) < 40
    assert len(place.store.letters()) == 80


def renamed(hub: Hub, name: str, other: str) -> Any:
    found = hub.find(name, 1)
    assert found is not None
    return replace(found, service=replace(found.service, id=other))


def test_with_too_little_space_nothing_is_taken(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10 << 20, 10 << 20, 200 << 20]
    loop = make_loop(place.home, place.store, place.bus, place.hub, free_space=100 << 20)
    monkeypatch.setattr(files, "free_space", lambda path: free[0])
    place.drop(DIAMOND)
    assert loop.step(0.2) == 0
    assert loop.paused is not None
    assert loop.paused.startswith("less than 100 MiB (limits.free_space) are free below ")
    assert place.inbox() == ["one.json"]
    assert place.store.rows() == []
    free[0] = 200 << 20
    assert loop.step(1) == 1


@pytest.mark.fault("D1")
@pytest.mark.parametrize("where", ["place", "file", "announced", "get"])
def test_a_full_disk_or_an_absent_database_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whatever fails, at its first three calls: in the end each message has one row and one script."""
    left = [3]
    owner: Any = script_files if where == "place" else place.store
    plain = getattr(owner, where)

    def fails(*arguments: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            if where == "place":
                raise files.DiskFull("no space left")
            raise UnreachableError("the database is away")
        return plain(*arguments, **more)

    monkeypatch.setattr(owner, where, fails)
    monkeypatch.setattr(place.loop, "_room", Backoff(0.0))
    for number in range(3):
        place.drop(DIAMOND, f"{number}.json")
    place.drop(CYCLE, "c.json")
    place.drop(b"bad", "b.bin")
    handled = [place.loop.step(0.01) for _ in range(20)]
    assert sum(handled) == 5
    assert left == [0]
    monkeypatch.undo()
    assert sorted(row.name for row in place.store.rows()) == ["diamond"] * 3 + ["round"]
    assert len(place.scripts()) == 3
    assert len(place.store.letters()) == 2
    assert place.store.unannounced(10) == []
    assert list((place.home / "inbox" / ".taken").iterdir()) == []


def test_a_refusal_that_cannot_be_packed_now_does_not_block(place: Place) -> None:
    (place.home / "files").rmdir()
    place.drop(CYCLE, "1.json")
    place.drop(DIAMOND, "2.json")
    place.step(2)
    assert [row.id for row in place.store.unpacked(10)] == [1]
    (place.home / "files").mkdir()
    place.loop.repair()
    assert place.store.unpacked(10) == []
    assert "a -> b -> a" in place.log(1) or "b -> a -> b" in place.log(1)


@pytest.mark.fault("A3", "A5")
def test_repair_places_scripts_and_events_that_are_owed(place: Place) -> None:
    entry = prepare_entry(json.dumps(DIAMOND).encode(), "x.json", find_services(place.hub), wire.Limits())
    place.store.file([entry])
    assert place.scripts() == []
    place.loop.repair()
    assert place.scripts() == [entry.execution_file]
    assert place.store.unannounced(10) == []


def test_an_edited_script_is_not_written_over(place: Place) -> None:
    entry = prepare_entry(json.dumps(DIAMOND).encode(), "x.json", find_services(place.hub), wire.Limits())
    file_entries(place.store, [entry], place.home / "queue")
    path = place.home / "queue" / entry.execution_file
    path.write_text(path.read_text().replace("run(graph)", "run(graph)  # edited"))
    before = path.read_text()
    place.loop.repair()
    assert path.read_text() == before


# For commands


def test_a_prepared_entry_names_all_problems(place: Place) -> None:
    known = find_services(place.hub)
    with pytest.raises(PeachError) as told:
        prepare_entry(json.dumps(TWICE).encode(), "mess.json", known, wire.Limits())
    lines = told.value.message.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("mess.json: nodes[") for line in lines)
    with pytest.raises(PeachError, match=r"^x\.bin: byte \d+, field "):
        prepare_entry((GOLDEN / "malformed_bad_union.bin").read_bytes(), "x.bin", known, wire.Limits())
    with pytest.raises(PeachError, match="holds no service"):
        prepare_entry(json.dumps(DIAMOND).encode(), "x.json", Hub(Path("/hub")), wire.Limits())


def test_entries_are_filed_together_with_scripts_of_their_own(place: Place) -> None:
    entry = prepare_entry(json.dumps(DIAMOND).encode(), "x.json", find_services(place.hub), wire.Limits(), priority=3)
    filed = file_entries(place.store, [entry] * 3, place.home / "queue")
    filed += file_entries(place.store, [entry], place.home / "queue")
    assert [one.id for one in filed] == [1, 2, 3, 4]
    assert sorted(one.execution_file for one in filed) == place.scripts()
    assert len(place.scripts()) == 4
    assert {row.priority for row in place.store.rows()} == {3}
    assert place.store.unannounced(10) == []


@pytest.mark.fault("D3")
def test_a_taken_name_is_tried_again_with_later_microseconds() -> None:
    entry = Entry("u", "n", "{}", f"u_{'0' * 32}_1700000000_999998.py", "0" * 64)
    tried = []

    def act(one: Entry) -> str:
        tried.append(one.execution_file[-20:])
        if len(tried) < 4:
            raise ExecutionFileTaken
        return one.execution_file

    assert unique_name(entry, act) == f"u_{'0' * 32}_1700000001_000001.py"
    assert tried == ["1700000000_999998.py", "1700000000_999999.py", "1700000001_000000.py", "1700000001_000001.py"]


# A kill between any two steps

DRIVER = """
import sys
from pathlib import Path
from tests.test_ingest import ingest_all
ingest_all(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def ingest_all(home: Path, hub: Path) -> None:
    """What `consume ingest` does, in batches of three, until the inbox is empty."""
    store, bus = open_store(home / "db.sqlite"), make_bus(home)
    loop = make_loop(home, store, bus, hub, most=3)
    loop.repair()
    for _ in range(200):
        loop.step(0.05)
        assert loop.paused is None, loop.paused
        if not any((home / "inbox").glob("[!.]*")) and not any((home / "inbox" / ".taken").iterdir()):
            break
    bus.close()
    store.close()


PACKAGE = Path(ingest.__file__).parent
POINTS = [
    *(point for point in points_of(PACKAGE / "ingest.py") if not point.startswith("ingest:submitted")),
    *("ingest:drafted", "ingest:placed"),
    *points_of(PACKAGE / "bus" / "folder.py"),
    *(
        "ingest:placed@2",
        "ingest:rejected@2",
        "ingest:packed@2",
        "ingest:attached@2",
        "folder:taken@5",
        "ingest:filed@3",
    ),
]


@pytest.mark.fault("A1", "A2", "A3", "A5", "A6", "A7")
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_each_message_is_one_row_or_one_letter(point: str, tmp_path: Path, hub: Path) -> None:
    for name in ("inbox", "queue", "temp", "files"):
        (tmp_path / name).mkdir()
    for number in range(3):
        good = {**DIAMOND, "name": f"w{number}"}
        (tmp_path / "inbox" / f"good{number}.json").write_text(json.dumps(good))
        (tmp_path / "inbox" / f"round{number}.json").write_text(json.dumps({**CYCLE, "name": f"r{number}"}))
        (tmp_path / "inbox" / f"bad{number}.bin").write_bytes(b"bad%d" % number)
    killed = subprocess.run(
        [sys.executable, "-c", DRIVER, tmp_path, hub],
        env={**os.environ, "PEACHCTL_FAILPOINT": point, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ingest_all(tmp_path, hub)
    store = open_store(tmp_path / "db.sqlite")
    rows = store.rows()
    assert sorted((row.name, row.status) for row in rows) == [
        *((f"r{number}", Status.ERROR) for number in range(3)),
        *((f"w{number}", Status.QUEUED) for number in range(3)),
    ]
    letters = store.letters()
    assert sorted(letter.body for letter in letters if letter.queue_id is None) == [b"bad0", b"bad1", b"bad2"]
    assert sorted(letter.queue_id for letter in letters if letter.queue_id is not None) == sorted(
        row.id for row in rows if row.status is Status.ERROR
    )
    assert not store.unannounced(10)
    assert not store.unpacked(10)
    store.close()
    placed = {path.name for path in (tmp_path / "queue").iterdir() if not path.name.startswith(".")}
    assert placed == {row.execution_file for row in rows if row.status is Status.QUEUED}
    outputs = {path.name for path in (tmp_path / "files").iterdir()}
    assert {row.output_file for row in rows if row.status is Status.ERROR} <= outputs
    assert list((tmp_path / "inbox" / ".taken").iterdir()) == []
    refused = list((tmp_path / "inbox" / ".refused").iterdir())
    assert sorted(path.name.split("_", 1)[1] for path in refused if not path.name.endswith(".reason.txt")) == [
        *("bad0.bin", "bad1.bin", "bad2.bin", "round0.json", "round1.json", "round2.json"),
    ]


def test_two_processes_on_one_inbox_file_each_message_once(tmp_path: Path, hub: Path) -> None:
    for name in ("inbox", "queue", "temp", "files"):
        (tmp_path / name).mkdir()
    for number in range(40):
        (tmp_path / "inbox" / f"{number}.json").write_text(json.dumps({**DIAMOND, "name": f"w{number}"}))
    open_store(tmp_path / "db.sqlite").close()
    both = [subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path, hub], cwd=PACKAGE.parent) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    store = open_store(tmp_path / "db.sqlite")
    assert sorted(row.name for row in store.rows()) == sorted(f"w{number}" for number in range(40))
    store.close()
    assert len(list((tmp_path / "queue").glob("*.py"))) == 40
    assert list((tmp_path / "inbox" / ".taken").iterdir()) == []


@pytest.mark.fault("C9")
def test_what_the_database_does_not_take_is_a_letter_and_blocks_nothing(tmp_path: Path, hub: Path) -> None:
    for name in ("inbox", "queue", "temp", "files"):
        (tmp_path / name).mkdir()
    database = MysqlDatabase("mariadb")
    store, bus = database.open(), make_bus(tmp_path)
    place = Place(tmp_path, hub, store, bus, make_loop(tmp_path, store, bus, hub))
    place.drop({**DIAMOND, "user": "u" * 600}, "a.json")
    place.drop(DIAMOND, "b.json")
    place.step(2)
    assert [row.user for row in store.rows()] == ["ada@hospital"]
    [letter] = store.letters()
    assert letter.reason.startswith("too-large") and "600 characters" in letter.reason and letter.queue_id is None
    bus.close()
    database.close()
