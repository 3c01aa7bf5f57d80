"""Dead letters, worked on: over a real store, the folder bus and a service hub."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peachctl import letters, wire
from peachctl.errors import Exit, PeachError, StateError
from peachctl.hub import find_services
from peachctl.letters import Letters
from peachctl.store import Letter, Origin, Status
from tests.conftest import DIAMOND, make_hub, node, workflow
from tests.test_fault import leaves
from tests.test_ingest import CYCLE, Place, open_place

LITERAL = {"port_idx": -1, "node_id": "x.txt"}
MENDED = {"nodes[0].connections[0]": LITERAL}
DIAMOND_BYTES = wire.encode_workflow(wire.workflow_from_json(DIAMOND))


@pytest.fixture
def place(tmp_path: Path, hub: Path) -> Iterator[Place]:
    yield from open_place(tmp_path, hub)


def desk(place: Place, **more: Any) -> Letters:
    settings: dict[str, Any] = {"load_hub": lambda: find_services(place.hub), "limits": wire.Limits(), **more}
    return Letters(
        place.store,
        queue_folder=place.home / "queue",
        download_files=place.home / "files",
        inbox=place.home / "inbox",
        **{"embedded": True, **settings},
    )


def only(place: Place) -> Letter:
    [letter] = place.store.letters()
    return letter


def refused(place: Place) -> set[str]:
    folder = place.home / "inbox" / ".refused"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def letter(**changes: Any) -> Letter:
    body = changes.get("body", b"")
    values: dict[str, Any] = {"reason": "malformed: x", "field": "", "byte_offset": None, "origin": None, "file": None}
    return Letter(**{**values, "size": len(body), "body": body, "received": 0.0, **changes})


# Tried again


def test_a_refused_workflow_is_queued_under_its_own_id_once_its_service_is_there(place: Place, tmp_path: Path) -> None:
    place.drop(workflow(node("a", "Fresh", ["x"]), name="early"))
    place.step()
    before = only(place)
    log = place.files()
    still = desk(place).retry(before)
    assert (still.id, still.exit, [one.code for one in still.problems]) == (None, Exit.FAILED, ["unknown-service"])
    assert only(place) == before and place.files() == log and len(refused(place)) == 2

    hub = make_hub(tmp_path / "hub2")
    (hub / "Text").rename(hub / "Fresh")
    config = wire.decode_service_config((hub / "Fresh" / "v1" / "service.config").read_bytes())
    (hub / "Fresh" / "v1" / "service.config").write_bytes(wire.encode_service_config(replace(config, id="Fresh")))
    done = desk(place, load_hub=lambda: find_services(hub)).retry(before)
    [row] = place.store.rows()
    assert (done.id, row.id, row.status, row.reason) == (before.queue_id, before.queue_id, Status.QUEUED, None)
    assert place.scripts() == [row.execution_file] and place.store.unannounced(5) == []
    assert place.store.letters() == [] and refused(place) == set() and place.files() == set()


def test_a_retried_letter_keeps_its_origin_so_that_the_message_coming_again_makes_nothing(place: Place) -> None:
    place.drop(b"bad", "x.bin")
    place.step()
    origin = only(place).origin
    assert origin is not None
    done = desk(place).retry(only(place), DIAMOND)
    outcome = place.store.outcome(origin)
    assert outcome is not None and (outcome.word, outcome.queue_id) == ("filed", done.id)
    [row] = place.store.rows()
    assert (row.name, row.status) == ("diamond", Status.QUEUED) and place.scripts() == [row.execution_file]


def test_raised_limits_let_a_letter_in(place: Place) -> None:
    place.store.file([], [letter(body=DIAMOND_BYTES, origin=Origin("t", 0, 1), reason="malformed: more nodes")])
    assert desk(place, limits=wire.Limits(nodes=2)).retry(only(place)).id is None
    assert desk(place).retry(only(place)).id == 1


def test_over_kafka_the_event_stays_owed_to_the_next_step_of_an_ingest(place: Place) -> None:
    place.store.file([], [letter(body=DIAMOND_BYTES, origin=Origin("t", 0, 1))])
    done = desk(place, embedded=False).retry(only(place))
    assert [row.id for row in place.store.unannounced(5)] == [done.id] and place.scripts() == []
    place.loop.repair()
    assert len(place.scripts()) == 1 and place.store.unannounced(5) == []


def test_the_priority_of_a_refused_row_stays(place: Place) -> None:
    place.drop(CYCLE)
    place.step()
    place.store.prioritise(1, 9)
    assert desk(place).retry(only(place), MENDED).id == 1
    assert [row.priority for row in place.store.rows()] == [9]


def test_a_letter_of_which_only_the_beginning_was_kept_must_be_sent_again(place: Place) -> None:
    place.store.file([], [letter(body=DIAMOND_BYTES, size=10**9)])
    done = desk(place).retry(only(place))
    assert done.exit is Exit.STATE and "sent again" in (done.reason or "") and len(place.store.letters()) == 1
    assert desk(place).retry(only(place), DIAMOND).id == 1, "a whole workflow needs nothing of what was sent"


def test_a_row_that_runs_by_now_is_left_alone(place: Place) -> None:
    place.drop(CYCLE)
    place.step()
    place.store.retry(1)
    done = desk(place).retry(only(place), MENDED)
    assert done.exit is Exit.STATE and "workflow 1" in (done.reason or "") and len(place.store.letters()) == 1


def test_a_script_that_cannot_be_placed_is_owed_and_the_letter_is_a_workflow(place: Place) -> None:
    place.drop(CYCLE)
    place.step()
    (place.home / "queue").rename(place.home / "gone")
    assert desk(place).retry(only(place), MENDED).id == 1
    assert [row.id for row in place.store.unannounced(5)] == [1]
    (place.home / "gone").rename(place.home / "queue")
    place.loop.repair()
    assert len(place.scripts()) == 1


def test_an_output_that_is_not_the_log_of_the_refusal_is_not_removed(place: Place) -> None:
    place.drop(CYCLE)
    place.step()
    (place.home / "keep.tar").touch()
    with sqlite3.connect(place.home / "db.sqlite") as database:
        database.execute("UPDATE queue SET output_file = '../keep.tar'")
    assert desk(place).retry(only(place), MENDED).id == 1
    assert (place.home / "keep.tar").is_file() and len(place.files()) == 1


# Patched


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"name": "other"}, ("name", "other")),
        ({"nodes[1].service.version": 3}, ("nodes[1].service.version", 3)),
        ({"nodes[0].connections[0]": None}, ("nodes[0].connections[0]", None)),
        ({"nodes[4].parameters[1]": "more"}, ("nodes[4].parameters[1]", "more")),
        ({"nodes[0].id": "x", "nodes[1].connections[0].node_id": "x"}, ("nodes[1].connections[0].node_id", "x")),
    ],
)
@pytest.mark.parametrize("file", [None, "x.json"])
def test_fields_are_put_where_a_patch_names_them(patch: dict[str, object], result: Any, file: str | None) -> None:
    body = DIAMOND_BYTES if file is None else json.dumps(DIAMOND).encode()
    made = leaves(wire.workflow_to_json(letters.patched(letter(body=body, file=file), patch, wire.Limits())))
    was = leaves(DIAMOND)
    assert made[result[0]] == result[1]
    changed = {path for path in {*made, *was} if made.get(path) != was.get(path)}
    assert changed <= {*patch, *(f"{path}.{key}" for path in patch for key in ("port_idx", "node_id"))}


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"nodes[9].id": "x"}, "does not have"),
        ({"nodes[0].id.deeper": "x"}, "does not have"),
        ({"nodes[0].connections[7]": None}, "does not have"),
        ({"nmae": "x"}, "no field"),
        ({"": "x"}, "no field"),
        ({"nodes[0]..id": "x"}, "no field"),
        ({"__class__.x": 1}, "no field"),
        ({"nodes[0].service.version": "2"}, "whole number"),
        ({"nodes": {"0": {}}}, "a list is expected"),
    ],
)
def test_a_patch_that_fits_nowhere_says_so(patch: dict[str, object], said: str) -> None:
    with pytest.raises(PeachError, match=said):
        letters.patched(letter(body=DIAMOND_BYTES), patch, wire.Limits())


def test_a_json_file_with_a_wrong_type_is_mended_by_one_field() -> None:
    text = json.dumps(DIAMOND).replace('"version": 1', '"version": "1"', 1).encode()
    made = letters.patched(letter(body=text, file="x.wf"), {"nodes[0].service.version": 1}, wire.Limits())
    assert made == wire.workflow_from_json(DIAMOND)


def test_what_does_not_decode_needs_a_whole_workflow() -> None:
    bad = letter(body=DIAMOND_BYTES[:-9], number=4)
    with pytest.raises(PeachError, match="must be a whole workflow") as told:
        letters.patched(bad, {"name": "x"}, wire.Limits())
    assert "dlq show 4 --out" in (told.value.hint or "")
    assert letters.patched(bad, {**DIAMOND, "key of a client": 1}, wire.Limits()) == wire.workflow_from_json(DIAMOND)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"3", b"{", b"\xff"])
def test_what_is_no_patch_is_refused(body: bytes) -> None:
    with pytest.raises(PeachError):
        letters.read_patch(body, wire.Limits())


@pytest.mark.parametrize(
    ("body", "file", "start"),
    [
        (DIAMOND_BYTES[:-30], None, '{\n "name": "diamond"'),
        (DIAMOND_BYTES, None, '{\n "name": "diamond"'),
        (b'{"name": 3', "x.json", '{"name": 3'),
        (b'{"name": 3', None, '{"name": 3'),
    ],
)
def test_a_patch_begins_with_what_there_is(place: Place, body: bytes, file: str | None, start: str) -> None:
    place.store.file([], [letter(body=body, file=file)])
    assert letters.starting_point(desk(place).examine(1)).startswith(start)


def test_where_nothing_decodes_there_is_no_beginning(place: Place) -> None:
    place.store.file([], [letter(body=b"\xff\xff")])
    with pytest.raises(StateError, match="nothing of dead letter 1"):
        letters.starting_point(desk(place).examine(1))


# Chosen, counted, dropped


def test_letters_of_one_cause_are_counted_wherever_it_stands(place: Place) -> None:
    fields = ["nodes[0].id", "nodes[7].id", "nodes[7].service.id", "nodes[2].id"]
    place.store.file([], [letter(field=field) for field in fields])
    place.store.file([], [letter(field="nodes[0].id", reason="cycle: x")])
    assert [desk(place).examine(number).alike for number in range(1, 6)] == [2, 2, 0, 2, 0]
    with pytest.raises(StateError, match="no dead letter 9"):
        desk(place).examine(9)


def test_letters_are_chosen_by_number_or_by_code() -> None:
    found = [letter(number=1), letter(number=2, reason="cycle: x"), letter(number=3)]
    assert [one.number for one in letters.chosen(found, [3, 1, 3], None)] == [3, 1]
    assert [one.number for one in letters.chosen(found, [], "malformed")] == [1, 3]
    assert len(letters.chosen(found, [], None)) == 3
    with pytest.raises(StateError, match="no dead letter 7"):
        letters.chosen(found, [1, 7], None)
    with pytest.raises(StateError, match="there are cycle, malformed"):
        letters.chosen(found, [], "cycles")


def test_dropped_letters_take_their_files_along_and_no_others(place: Place) -> None:
    for name in ("a.bin", "b.bin"):
        place.drop(b"bad", name)
        place.step()
    folder = place.home / "inbox" / ".refused"
    first, second = place.store.letters()
    assert first.origin is not None
    mine = {f"{first.origin.offset}x_a.bin", "a.bin", "notes.txt", f"{first.origin.offset}"}
    for name in mine:
        (folder / name).touch()
    (folder / f"{first.origin.offset}_folder").mkdir()
    assert desk(place).drop([first]) == 1
    left = {name for name in refused(place) if not name.endswith("_folder")}
    assert left == {*mine, f"{second.origin.offset}_b.bin", f"{second.origin.offset}_b.bin.reason.txt"}  # type: ignore[union-attr]
    elsewhere = replace(second, origin=Origin("inbox@another", 0, second.origin.offset))  # type: ignore[union-attr]
    desk(place).drop([elsewhere])
    assert {name for name in refused(place) if not name.endswith("_folder")} == left


def test_a_dropped_refusal_leaves_its_row(place: Place) -> None:
    place.drop(CYCLE)
    place.step()
    desk(place).drop([only(place)])
    assert [row.status for row in place.store.rows()] == [Status.ERROR] and len(place.files()) == 1
