"""file, file_claimed, unannounced, announced: messages become rows once."""

import html
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from peachctl.errors import PeachError, StateError
from peachctl.store import Entry, ExecutionFileTaken, Executor, Letter, Origin, Status, Store
from tests.store.adapters import Client, ids
from tests.store.conftest import NODES, origin


def test_a_filed_workflow_is_a_queued_row_with_the_contracts_columns(
    store: Store, entry: Callable[..., Entry], client: Client
) -> None:
    (filed,) = store.file([entry("ada@hospital", name="a <b> & c", priority=3, execution_file="x.py")])
    (row,) = client.run("SELECT * FROM queue")
    id, user, file, json, status, progress, title, sent, finished, priority, output = row
    assert (id, user, file, json, status, progress) == (filed.id, "ada@hospital", "x.py", NODES, 0, 0)
    assert (title, finished, priority, output) == ("a &lt;b&gt; &amp; c", "1000-01-01 00:00:00", 3, "")
    assert abs(datetime.fromisoformat(sent) - datetime.now()) < timedelta(seconds=5)
    assert len(sent) == len("2024-01-01 00:00:00")


def test_a_filed_workflow_is_read_back(store: Store, other: Store, entry: Callable[..., Entry]) -> None:
    (filed,) = store.file([entry(name="a <b>", hub="/hub", scheduler="sync", execution_file="x.py")])
    row = other.get(filed.id)
    assert row is not None and row == other.find("x.py") and [row] == other.rows()
    assert (row.name, row.status, row.attempt, row.host, row.reason) == ("a <b>", Status.QUEUED, 0, None, None)
    assert (row.hub, row.scheduler, row.finished_date) == ("/hub", "sync", None)
    assert filed.new and filed.execution_file == "x.py"


@pytest.mark.fault("C13")
def test_a_batch_is_filed_in_its_order(store: Store, entry: Callable[..., Entry]) -> None:
    filed = store.file([entry() for _ in range(50)])
    assert ids(filed) == sorted(ids(filed)) and len(set(ids(filed))) == 50
    assert ids(store.unannounced(1000)) == ids(filed)


@pytest.mark.fault("A7", "B1")
def test_a_message_that_comes_again_makes_no_second_row(
    store: Store, other: Store, entry: Callable[..., Entry]
) -> None:
    first = entry(origin=origin(7))
    (filed,) = store.file([first])
    again = entry(origin=origin(7), sha256=first.sha256)
    (known, fresh) = other.file([again, entry(origin=origin(8))])
    assert (known.id, known.execution_file, known.new) == (filed.id, first.execution_file, False)
    assert fresh.new and len(store.rows()) == 2


def test_the_same_origin_twice_in_one_call_makes_one_row(store: Store, entry: Callable[..., Entry]) -> None:
    first = entry(origin=origin(7))
    filed = store.file([first, entry(origin=origin(7), sha256=first.sha256)])
    assert [one.new for one in filed] == [True, False] and len(store.rows()) == 1


def test_equal_messages_of_two_origins_are_two_workflows(store: Store, entry: Callable[..., Entry]) -> None:
    store.file([entry(origin=origin(1), sha256="a" * 64), entry(origin=origin(2), sha256="a" * 64)])
    assert len(store.rows()) == 2


def test_topics_and_partitions_are_told_apart(store: Store, entry: Callable[..., Entry]) -> None:
    store.file([entry(origin=origin(1)), entry(origin=origin(1, "inbox@Host")), entry(origin=origin(1, "inbox@host"))])
    assert len(store.rows()) == 3


def test_another_message_at_a_known_origin_stops_with_its_sentence(store: Store, entry: Callable[..., Entry]) -> None:
    store.file([entry(origin=origin(7))])
    with pytest.raises(StateError, match="made anew"):
        store.file([entry(), entry(origin=origin(7))])
    assert len(store.rows()) == 1


def test_a_topic_that_was_made_anew_begins_a_new_epoch(
    store: Store, entry: Callable[..., Entry], client: Client
) -> None:
    store.file([entry(origin=origin(7)), entry(origin=origin(7, "other"))])
    client.run("INSERT INTO peach_meta (name, value) VALUES ('epoch:Workflow_ExecuteWorkflow', '1')")
    assert store.file([entry(origin=origin(7))])[0].new
    with pytest.raises(StateError, match="made anew"):
        store.file([entry(origin=origin(7, "other"))])


def test_the_last_offset_of_a_partition_is_that_of_any_message_known_of_it(
    store: Store, other: Store, entry: Callable[..., Entry]
) -> None:
    topic = origin(0).topic
    assert store.last_offset(topic, 0) is None
    store.file([entry(origin=origin(7)), entry(origin=origin(9, "other")), entry(origin=Origin(topic, 1, 3))])
    refused = Letter("no", "", None, origin(8), None, 1, b"x", 1.0)
    store.file([], [refused])
    assert [other.last_offset(topic, part) for part in (0, 1, 2)] == [8, 3, None]
    store.new_epoch(topic)
    assert other.last_offset(topic, 0) is None and other.last_offset("other", 0) == 9


def test_where_reading_of_a_topic_began_is_said_once(store: Store, other: Store) -> None:
    assert store.began("t") is None
    assert store.begin("t", {0: 5, 11: 1 << 40}) == {0: 5, 11: 1 << 40}
    assert other.begin("t", {0: 6, 1: 6}) == {0: 5, 11: 1 << 40} == other.began("t")
    assert other.began("T") is None
    store.new_epoch("t")
    assert other.began("t") == {} == other.begin("t", {0: 7})


def test_a_message_whose_row_was_deleted_is_not_filed_again(
    store: Store, entry: Callable[..., Entry], client: Client
) -> None:
    first = entry(origin=origin(7))
    (filed,) = store.file([first])
    client.run("DELETE FROM queue")
    (known,) = store.file([entry(origin=origin(7), sha256=first.sha256)])
    assert (known.id, known.execution_file, known.new) == (filed.id, "", False)
    assert store.rows() == [] and store.unannounced(10) == []


def test_a_taken_script_name_files_nothing_of_the_call(store: Store, entry: Callable[..., Entry]) -> None:
    store.file([entry(execution_file="taken.py")])
    with pytest.raises(ExecutionFileTaken, match=r"taken\.py"):
        store.file([entry(origin=origin(1)), entry(execution_file="taken.py")])
    assert len(store.rows()) == 1 and len(store.unannounced(10)) == 1
    assert store.file([entry(origin=origin(1))])[0].new


def test_a_refused_workflow_is_a_row_in_error_that_never_runs(
    store: Store, entry: Callable[..., Entry], executor: Executor
) -> None:
    (filed,) = store.file([entry(refused="a cycle: a -> b -> a")])
    row = store.get(filed.id)
    assert row is not None and (row.status, row.reason) == (Status.ERROR, "a cycle: a -> b -> a")
    assert row.finished_date is not None and ids(store.unannounced(10)) == [filed.id]
    assert store.claim(executor, 10, 30) == []


def test_an_acknowledged_announcement_is_owed_no_more(store: Store, other: Store, entry: Callable[..., Entry]) -> None:
    made = ids(store.file([entry() for _ in range(5)]))
    other.announced(made[:2])
    other.announced([])
    assert ids(store.unannounced(2)) == made[2:4]
    store.announced(made)
    assert store.unannounced(10) == []


def test_filing_and_claiming_leaves_no_moment_for_others(
    store: Store, other: Store, entry: Callable[..., Entry], executor: Executor, rival: Executor
) -> None:
    claim = store.file_claimed(entry(hub="/hub", origin=origin(1)), executor, 30)
    assert (claim.attempt, claim.resumed, claim.row.status, claim.row.hub) == (1, False, Status.PROCESSING, "/hub")
    assert other.claim(rival, 10, 30) == [] and store.unannounced(10) == []
    assert store.report(claim, 5, [])


def test_filing_and_claiming_a_taken_script_name_files_nothing(
    store: Store, entry: Callable[..., Entry], executor: Executor
) -> None:
    store.file([entry(execution_file="taken.py")])
    with pytest.raises(ExecutionFileTaken):
        store.file_claimed(entry(execution_file="taken.py"), executor, 30)
    assert len(store.rows()) == 1


def test_filing_and_claiming_a_known_or_refused_message_is_refused(
    store: Store, entry: Callable[..., Entry], executor: Executor
) -> None:
    first = entry(origin=origin(1))
    store.file([first])
    with pytest.raises(StateError):
        store.file_claimed(entry(origin=origin(1), sha256=first.sha256), executor, 30)
    with pytest.raises(StateError):
        store.file_claimed(entry(refused="no"), executor, 30)
    assert len(store.rows()) == 1


HOSTILE = [
    "../../etc/passwd",
    "a\0b",
    "'; DROP TABLE queue; --",
    '"%s" % `x` {queue} ? :a \\ \\\'',
    "\n\r\t\x1b[31m",
    "<script>alert(1)</script>",
    "検査 \U0001f9e0 é́",
    "x" * 400,
    "",
    "import",
    "\ud800 alone",
]


@pytest.mark.fault("C10", "E8")
@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_comes_back_as_it_went_in(
    store: Store, other: Store, entry: Callable[..., Entry], executor: Executor, hostile: str
) -> None:
    seen = hostile.encode("utf-8", "backslashreplace").decode()
    made = entry(hostile, name=hostile, execution_file=f"{seen[:200]}.py", hub=hostile, workflow_json=NODES + hostile)
    (filed,) = store.file([made])
    row = other.get(filed.id)
    assert row is not None and row == other.find(made.execution_file)
    assert (row.user, row.name, row.hub) == (seen, seen, seen)
    assert row.workflow_json == NODES + seen
    assert [one.id for one in other.rows(user=hostile)] == [filed.id]
    claim = store.claim(executor, 1, 30)[0]
    assert store.finish(claim, Status.ERROR, reason=hostile, output_file=hostile)
    row = other.get(filed.id)
    assert row is not None and (row.reason, row.output_file) == (seen, seen)


def test_the_title_is_escaped_and_cut_but_never_inside_an_entity(store: Store, file: Callable[..., int]) -> None:
    for name in ("&" * 300, "x" + "<" * 300, "'" * 300, "xx" + '"' * 300, "y" * 300, "a" * 254 + "&", "a" * 251 + "&b"):
        row = store.get(file(name=name))
        assert row is not None
        title = row.original_workflow_file
        assert len(title) <= 255 and html.escape(name).startswith(title)
        assert html.escape(html.unescape(title)) == title
        assert len(title) > 255 - 6 and row.name == name


def test_a_priority_beyond_the_column_is_refused(store: Store, entry: Callable[..., Entry]) -> None:
    with pytest.raises(PeachError, match="priority"):
        store.file([entry(priority=1 << 40)])
    assert store.rows() == []


def test_a_row_with_a_megabyte_of_json_fits(store: Store, file: Callable[..., int]) -> None:
    body = '{"name": "big", "nodes": [], "x": "' + "\U0001f9e0" * 250_000 + '"}'
    row = store.get(file(workflow_json=body, name="big"))
    assert row is not None and row.workflow_json == body
