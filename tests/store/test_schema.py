"""The schema: numbered files, plans, and a database of 2017 adopted."""

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from peachctl.errors import ConfigError, StateError
from peachctl.store import Entry, Executor, Status, Store, schema
from peachctl.store.sqlite import SqliteStore, migrate, open_store, plan
from tests.store.adapters import SqliteClient, ids

# The table as a dump of 2017 comes out of a converter: all but the key may be null, no AUTOINCREMENT.
OLD = """
CREATE TABLE {table} (id INTEGER PRIMARY KEY, user VARCHAR(30), execution_file VARCHAR(255) UNIQUE, workflow_json TEXT,
  status INT(1), progress INT(3), original_workflow_file VARCHAR(255),
  sending_date datetime NOT NULL DEFAULT '1000-01-01', finished_date datetime NOT NULL DEFAULT '1000-01-01',
  priority INT(1), output_file VARCHAR(255));
"""
_SENT = "2017-05-01 10:00:00"
_NO = "1000-01-01"
ROWS = [
    (3, "Ada", "a.py", '{"name": "queued", "nodes": []}', 0, 0, "workflow.wf", _SENT, _NO, 1, None),
    (4, "bob", "b.py", '{"name": "running", "nodes": []}', 1, 50, "workflow.wf", _SENT, _NO, 1, ""),
    (7, "bob", "c.py", '{"name": "torn "x"', 3, 100, "workflow.wf", _SENT, _NO, None, "1_w.tar"),
    (9, None, None, None, 4, None, None, _NO, _NO, None, None),
    (12, "ada", "d.py", '{"name": "torn', 0, 0, "workflow.wf", _SENT, _NO, 1, ""),
]


def make_old(path: Path, table: str = "queue") -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.format(table=table))
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * 11)})", ROWS)
        connection.commit()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    make_old(path)
    return path


@pytest.fixture
def adopted(old: Path) -> Iterator[SqliteStore]:
    migrate(old)
    with closing(open_store(old)) as store:
        yield store


def schema_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"\s+", " ", sql.replace('"', "")) for name, sql in found}


def test_an_adopted_database_has_the_schema_of_a_new_one(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.sqlite"
    assert migrate(old).adopts
    assert not migrate(new).adopts
    assert schema_of(old) == schema_of(new)


def test_that_it_was_adopted_is_remembered(adopted: SqliteStore, store: Store) -> None:
    assert adopted.adopted() and not store.adopted()


def test_adoption_leaves_every_row_as_it_was(adopted: SqliteStore, old: Path) -> None:
    client = SqliteClient(old)
    assert client.run("SELECT * FROM queue ORDER BY id") == ROWS
    client.close()
    assert [row.id for row in adopted.rows()] == [12, 9, 7, 4, 3]


def test_what_an_adopted_database_holds_unfinished_starts_by_no_means_by_itself(
    adopted: SqliteStore, entry: Callable[..., Entry]
) -> None:
    executor = Executor("t", "h", "{}")
    adopted.join(executor)
    assert adopted.claim(executor, 10, 30) == []
    assert adopted.claim(executor, 10, 30, only=3) == []
    assert adopted.release_expired(3) == [] and adopted.unpacked(10) == [] and adopted.unannounced(10) == []
    (new,) = adopted.file([entry("ADA")])
    # The row that says 1 since 2017 is nobody's run, and takes no share of its user's.
    (newer,) = adopted.file([entry("bob")])
    assert ids(adopted.claim(executor, 10, 30, per_user=1)) == [new.id, newer.id] and new.id > 12
    row = adopted.get(4)
    assert row is not None and row.status is Status.PROCESSING and row.reason is not None and "retry" in row.reason


def test_what_was_left_is_retried_or_cancelled_by_the_operator(adopted: SqliteStore) -> None:
    executor = Executor("t", "h", "{}")
    adopted.join(executor)
    adopted.retry(4)
    assert ids(adopted.claim(executor, 10, 30)) == [4]
    assert adopted.cancel(3) is Status.QUEUED
    assert adopted.claim(executor, 10, 30) == []
    adopted.retry(3)
    (claim,) = adopted.claim(executor, 10, 30)
    assert (claim.id, claim.attempt, claim.row.reason, claim.row.name) == (3, 1, None, "queued")
    with pytest.raises(StateError, match="cannot be read"):
        adopted.retry(12)
    assert adopted.cancel(12) is Status.QUEUED


def test_a_row_that_comes_after_the_adoption_is_run(adopted: SqliteStore, old: Path) -> None:
    client = SqliteClient(old)
    client.run("INSERT INTO queue (user, execution_file, workflow_json, status) VALUES ('x', 'n.py', '{}', 0)")
    client.run("DELETE FROM queue WHERE id = 13")
    client.run("INSERT INTO queue (user, execution_file, workflow_json, status) VALUES ('x', 'm.py', '{}', 0)")
    client.close()
    executor = Executor("t", "h", "{}")
    adopted.join(executor)
    assert ids(adopted.claim(executor, 10, 30)) == [14], "an id is given once"


def test_a_queue_of_2017_is_adopted_when_it_is_asked_for_and_not_before(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(ConfigError, match="2017") as caught:
        open_store(old)
    assert caught.value.hint == "peachctl init-db"
    assert plan(old).adopts
    assert old.read_bytes() == before


def test_what_others_hung_on_the_table_is_still_there_after_the_adoption(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(
            "CREATE INDEX theirs ON queue (sending_date);"
            "CREATE VIEW titles AS SELECT id, user FROM queue;"
            "CREATE TABLE log (id);"
            "CREATE TRIGGER watch AFTER DELETE ON queue BEGIN INSERT INTO log VALUES (old.id); END;"
        )
    migrate(old)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("DELETE FROM queue WHERE id = 3")
        assert connection.execute("SELECT id FROM log").fetchall() == [(3,)]
        assert len(connection.execute("SELECT * FROM titles").fetchall()) == 4
    assert "theirs" in schema_of(old)


def test_a_plan_says_what_is_to_be_done_and_changes_nothing(old: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "there.sqlite"
    made = plan(missing)
    assert made.steps == ["apply sql/sqlite/0001_queue.sql", "apply sql/sqlite/0002_peach.sql"]
    assert not missing.parent.exists()
    adopting = plan(old)
    assert adopting.adopts and adopting.steps[0] == "adopt the table queue of 2017" and adopting.version == 2
    assert plan(old) == adopting
    migrate(old)
    done = plan(old)
    assert (done.steps, done.statements, done.adopts) == ([], [], False)
    assert schema.sql_text(done) == "-- nothing is to be done\n"
    assert migrate(old).steps == []


@pytest.mark.parametrize("table", ["queue", "order", "Queue_2"])
def test_the_sql_that_is_printed_makes_the_same_database(tmp_path: Path, table: str) -> None:
    for name in ("printed", "printed-old"):
        path = tmp_path / name
        if name == "printed-old":
            make_old(path, f'"{table}"')
        text = schema.sql_text(plan(path, table))
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(text)
        assert plan(path, table).steps == []
        migrate(tmp_path / "migrated", table)
        assert schema_of(path) == schema_of(tmp_path / "migrated")


def test_the_queue_table_may_have_another_name(tmp_path: Path, entry: Callable[..., Entry]) -> None:
    path = tmp_path / "x.sqlite"
    executor = Executor("t", "h", "{}")
    with closing(open_store(path, "select")) as store:
        (filed,) = store.file([entry()])
        (claim,) = store.claim(executor, 1, 30)
        store.finish(claim, Status.SUCCESS, reason=None, output_file="")
        assert ids(store.rows()) == [filed.id]
    with pytest.raises(ConfigError, match="'select'"):
        open_store(path, "queue")


@pytest.mark.parametrize(
    "name", ['queue"', "queue; DROP TABLE x", "", "1a", "a b", "peach_jobs", "sqlite_master", "é", "a" * 65, "a\n"]
)
def test_a_name_that_is_none_becomes_no_sql(tmp_path: Path, name: str) -> None:
    for act in (open_store, plan, migrate):
        with pytest.raises(ConfigError, match="queue_table"):
            act(tmp_path / "x.sqlite", name)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    open_store(path).close()
    client = SqliteClient(path)
    client.run("UPDATE peach_meta SET value = '99' WHERE name = 'schema'")
    client.close()
    for act in (open_store, plan, migrate):
        with pytest.raises(ConfigError, match="version 99"):
            act(path)


def test_a_table_of_somebody_else_is_not_taken_for_a_queue(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE queue (id, what)")
    for act in (open_store, plan, migrate):
        with pytest.raises(ConfigError, match="id, what"):
            act(path)


def test_an_older_schema_of_ours_is_upgraded_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Callable[..., Entry]
) -> None:
    path = tmp_path / "x.sqlite"
    with closing(open_store(path)) as store:
        store.file([entry()])
    newer = tmp_path / "sql"
    shutil.copytree(schema.sql_folder("sqlite"), newer)
    (newer / "0003_more.sql").write_text(
        "ALTER TABLE peach_jobs ADD COLUMN more INTEGER;\n\nUPDATE peach_meta SET value = '3' WHERE name = 'schema';\n"
    )
    monkeypatch.setattr(schema, "sql_folder", lambda dialect: newer)
    assert plan(path).steps == ["apply sql/sqlite/0003_more.sql"] and plan(path).version == 3
    with pytest.raises(ConfigError, match="older schema") as caught:
        open_store(path, create=False)
    assert caught.value.hint == "peachctl init-db"
    with closing(open_store(path)) as store:
        assert len(store.rows()) == 1 and store._db.row("SELECT more FROM peach_jobs") == (None,)
    assert plan(path).steps == []


def test_each_file_writes_its_own_number() -> None:
    for file in schema.files("sqlite")[1:]:
        number = rf"'schema',\s*'{file.number}'|SET value = '{file.number}' WHERE name = 'schema'"
        assert re.search(number, file.path.read_text()), file.path.name


def test_a_gap_in_the_numbers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0002_x.sql").touch()
    monkeypatch.setattr(schema, "sql_folder", lambda dialect: tmp_path)
    with pytest.raises(FileNotFoundError, match="numbered"):
        schema.files("sqlite")


def test_an_unknown_dialect_has_no_files() -> None:
    with pytest.raises(FileNotFoundError):
        schema.files("dbase")


def test_an_adoption_that_fails_leaves_the_database_as_it_was(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE peach_nodes (x)")
    before = schema_of(old)
    with pytest.raises(Exception, match="peach_nodes"):
        migrate(old)
    assert schema_of(old) == before
    client = SqliteClient(old)
    assert client.run("SELECT * FROM queue ORDER BY id") == ROWS
    client.close()
