"""The schema on real servers: made, taken over from 2017, interrupted, printed; and what stands in its way."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peachctl import failpoint
from peachctl.config_values import Mysql
from peachctl.errors import ConfigError, UnreachableError
from peachctl.store import Executor, Status, schema
from peachctl.store.mysql import MysqlStore, open_store
from peachctl.store.mysql_connection import MysqlSession, Server
from peachctl.store.mysql_schema import MysqlSchema, migrate, need_schema, plan
from tests.servers import databases
from tests.store.adapters import ids

OLD = """CREATE TABLE {table} (
  id INT AUTO_INCREMENT PRIMARY KEY, user VARCHAR(30), execution_file VARCHAR(255) {unique}, workflow_json TEXT,
  status INT(1), progress INT(3), original_workflow_file VARCHAR(255),
  sending_date datetime NOT NULL DEFAULT '1000-01-01', finished_date datetime NOT NULL DEFAULT '1000-01-01',
  priority INT(1), output_file VARCHAR(255)) {options}"""
"""The table of 2017 (contract, "historical type")."""

_SENT, _NO = "2017-05-01 10:00:00", "1000-01-01 00:00:00"
_TITLE = "workflow.wf"
ROWS = [
    (3, "Ada", "a.py", '{"name": "queued", "nodes": []}', 0, 0, _TITLE, _SENT, _NO, 1, None),
    (4, "bob", "b.py", '{"name": "running", "nodes": []}', 1, 50, _TITLE, _SENT, _NO, 1, ""),
    (5, "bob", "c.py", '{"name": "cancelled"}', 2, 50, _TITLE, _SENT, _NO, 2, ""),
    (7, "Jürgen Groß", "Jürgen_c.py", '{"name": "eaten "x" ü"', 3, 100, _TITLE, _SENT, _NO, None, "1_ä.tar"),
    (8, "a" * 30, "d" * 255, '{"name": "cut ' + "x" * 65_521, 3, 100, "e" * 255, _SENT, _NO, 1, "f" * 255),
    (9, None, None, None, 4, None, None, _NO, _NO, None, None),
    (10, "zero", "z.py", "{}", 4, 7, _TITLE, "0000-00-00 00:00:00", "0000-00-00 00:00:00", -1, ""),
    (11, "", "", "", None, None, "", "2017-02-31 10:00:00", _NO, 0, ""),
    (12, "ada", "e.py", '{"name": "torn', 0, 0, _TITLE, _SENT, _NO, 1, ""),
]
NEXT = 41
"""The id that the old table would give to its next row: the rows up to it were deleted."""

LATIN = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=latin1"
FORMS = {
    "compact": "ENGINE=InnoDB ROW_FORMAT=COMPACT DEFAULT CHARSET=latin1",
    "compressed": "ENGINE=InnoDB ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8 DEFAULT CHARSET=utf8mb3",
    "myisam": "ENGINE=MyISAM PACK_KEYS=1 DEFAULT CHARSET=latin1 COLLATE=latin1_german2_ci",
    "redundant": "ENGINE=InnoDB ROW_FORMAT=REDUNDANT DEFAULT CHARSET=latin1",
}

AS_TEXT = "SELECT " + ", ".join(f"CAST({name} AS CHAR)" if "date" in name else name for name in schema.COLUMNS)


@dataclass
class Place:
    """One database of a test, and a client's connection to it."""

    kind: str
    database: str
    client: Any

    @property
    def server(self) -> Server:
        return self.entered("root")

    def entered(self, user: str, password: str | None = None) -> Server:
        port = databases.server(self.kind)["port"]
        return Server(Mysql(user, "127.0.0.1", port, self.database), password)

    def user(self, privileges: str) -> Server:
        """A new user with these on this database, and how it enters."""
        name = f"u_{uuid.uuid4().hex[:14]}"
        self.run(f"CREATE USER {name}@'%'", f"GRANT {privileges} ON `{self.database}`.* TO {name}@'%'")
        return self.entered(name)

    @property
    def session(self) -> MysqlSession:
        return MysqlSession(self.server)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        cursor = self.client.cursor()
        found: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor.execute(statement)
            found = cursor.fetchall() if cursor.with_rows else []
        return found

    def rows(self, table: str = "queue") -> list[tuple[Any, ...]]:
        return self.run(f"{AS_TEXT} FROM {table} ORDER BY id")

    def connect(self, **options: Any) -> Any:
        return contextlib.closing(databases.connect(databases.server(self.kind), self.database, **options))

    def make_old(self, options: str = LATIN, unique: str = "UNIQUE", table: str = "queue") -> None:
        self.run(
            "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'",
            OLD.format(table=table, options=options, unique=unique),
        )
        self.client.cursor().executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * 11)})", ROWS)
        self.run(
            f"INSERT INTO {table} (id, sending_date) VALUES ({NEXT - 1}, '{_SENT}')",
            f"DELETE FROM {table} WHERE id = {NEXT - 1}",
            "SET SESSION sql_mode = DEFAULT",
        )

    def shape(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that information_schema says of the tables' form."""
        queries = {
            "tables": "TABLE_NAME, ENGINE, ROW_FORMAT, TABLE_COLLATION FROM information_schema.TABLES",
            "columns": "TABLE_NAME, ORDINAL_POSITION, COLUMN_NAME, COLUMN_DEFAULT, IS_NULLABLE, COLUMN_TYPE,"
            " COLLATION_NAME, COLUMN_KEY, EXTRA FROM information_schema.COLUMNS",
            "indexes": "TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX, COLUMN_NAME, COLLATION, SUB_PART, NON_UNIQUE"
            " FROM information_schema.STATISTICS",
            "keys": "TABLE_NAME, CONSTRAINT_NAME, CONSTRAINT_TYPE FROM information_schema.TABLE_CONSTRAINTS",
        }
        return {
            name: self.run(f"SELECT {what} WHERE TABLE_SCHEMA = DATABASE() ORDER BY 1, 2, 3")
            for name, what in queries.items()
        }

    def dump(self) -> list[Any]:
        """Form and content of everything, as text."""
        found: list[Any] = []
        for (table,) in self.run("SHOW TABLES"):
            found += [self.run(f"SHOW CREATE TABLE `{table}`"), self.run(f"SELECT * FROM `{table}`")]
        return found


@contextlib.contextmanager
def _place(kind: str) -> Iterator[Place]:
    with databases.database(kind) as name, contextlib.closing(databases.connect(databases.server(kind), name)) as own:
        yield Place(kind, name, own)


@functools.cache
def _new_shape(kind: str) -> dict[str, list[tuple[Any, ...]]]:
    """Of a database that was never one of 2017."""
    with _place(kind) as made:
        migrate(made.server)
        return made.shape()


@pytest.fixture(params=databases.KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with _place(request.param) as made:
        yield made


@pytest.fixture
def second(place: Place) -> Iterator[Place]:
    with _place(place.kind) as made:
        yield made


@pytest.fixture(params=databases.KINDS)
def adopted(request: pytest.FixtureRequest) -> Iterator[Place]:
    with _place(request.param) as made:
        made.make_old()
        migrate(made.server)
        yield made


def test_a_database_is_made_once(place: Place) -> None:
    todo = plan(place.server)
    assert todo.steps == ["apply sql/mysql/0001_queue.sql", "apply sql/mysql/0002_peach.sql"] and not todo.adopts
    with pytest.raises(ConfigError, match="older schema, or none") as caught:
        need_schema(place.session)
    assert caught.value.hint == "peachctl init-db"
    assert migrate(place.server) == todo
    assert plan(place.server).steps == [] and migrate(place.server).statements == []
    need_schema(place.session)
    assert place.run("SELECT * FROM queue") == [] and place.run("SELECT * FROM peach_left") == []


@pytest.mark.fault("F6", "C5")
def test_the_queue_has_an_index_that_a_claim_follows_to_its_end(place: Place) -> None:
    migrate(place.server)
    found = place.run(
        "SELECT COLUMN_NAME, COLLATION FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE()"
        " AND INDEX_NAME = 'peach_queue_claim' ORDER BY SEQ_IN_INDEX"
    )
    assert [name for name, _ in found] == ["status", "priority", "id", "user"]
    # Servers without descending indexes go through it backwards for the priority, and forwards within one.
    claims = ["ORDER BY priority DESC LIMIT 1", "AND priority = 1 ORDER BY id LIMIT 1"]
    if ("priority", "D") in found:
        claims.append("ORDER BY priority DESC, id LIMIT 1")
    assert len(claims) == 3 or place.kind not in ("mariadb", "mysql")
    for rest in claims:
        explained = place.run(f"EXPLAIN SELECT id FROM queue FORCE INDEX (peach_queue_claim) WHERE status = 0 {rest}")
        assert "filesort" not in str(explained).lower()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_adoption_leaves_every_value_as_it_was_and_the_next_id(place: Place, form: str) -> None:
    place.make_old(FORMS[form])
    assert place.rows() == ROWS
    done = migrate(place.server)
    assert done.adopts and re.match(r"adopt the table queue of 2017: about [\d,]+ rows, [\d.]+ MB, are", done.steps[0])
    assert place.rows() == ROWS
    place.run("INSERT INTO queue (user) VALUES ('next')")
    assert place.run("SELECT max(id) FROM queue") == [(NEXT,)]
    assert place.shape() == _new_shape(place.kind)


def test_what_was_unfinished_at_the_adoption_is_remembered_and_nothing_that_comes_later(adopted: Place) -> None:
    assert adopted.run("SELECT queue_id FROM peach_left ORDER BY 1") == [(3,), (4,), (12,)]
    adopted.run("INSERT INTO queue (user, status) VALUES ('x', 0)")
    assert migrate(adopted.server).steps == []
    assert adopted.run("SELECT count(*) FROM peach_left") == [(3,)]


def test_clients_of_2017_find_the_table_that_they_know(adopted: Place) -> None:
    with adopted.connect(charset="latin1", collation="latin1_swedish_ci", sql_mode="") as client:
        cursor = client.cursor()
        cursor.execute("SELECT * FROM queue WHERE user = 'JÜRGEN groß'")
        ((id, user, file, *_, priority, output),) = cursor.fetchall()
        assert (id, user, file, priority, output) == (7, "Jürgen Groß", "Jürgen_c.py", None, "1_ä.tar")
        cursor.execute("DELETE FROM queue WHERE id = 3")
        cursor.execute("UPDATE queue SET status = 2 WHERE id = 4")
        cursor.execute("INSERT INTO queue (execution_file) VALUES ('only.py')")
        cursor.execute("SELECT * FROM queue WHERE execution_file = 'only.py'")
        ((id, user, _, body, status, progress, title, _, _, priority, output),) = cursor.fetchall()
    assert (id, user, body, status, progress, title, priority, output) == (NEXT, "", None, 0, 0, "", 1, "")


@pytest.mark.fault("C10")
def test_long_users_any_script_and_large_workflows_have_room(adopted: Place) -> None:
    adopted.run(
        f"INSERT INTO queue (user, execution_file, workflow_json) VALUES"
        f" ('{'検' * 512}', '{'査' * 255}', REPEAT('😀', 1000000))"
    )
    found = adopted.run(f"SELECT char_length(user), char_length(workflow_json) FROM queue WHERE id = {NEXT}")
    assert found == [(512, 1_000_000)]


def test_users_are_compared_without_case_and_what_is_ours_byte_for_byte(adopted: Place) -> None:
    assert adopted.run("SELECT id FROM queue WHERE user = 'ADA' ORDER BY id") == [(3,), (12,)]
    for topic in ("Topic", "topic", "topic "):
        adopted.run(f"INSERT INTO peach_origins VALUES ('{topic}', 0, 0, 0, NULL, NULL, 'dead')")
    assert len(adopted.run("SELECT * FROM peach_origins")) == 3
    adopted.run("INSERT INTO peach_letters (reason, field, size, body, received) VALUES ('', '', 2, X'00FF', 0)")
    assert adopted.run("SELECT body FROM peach_letters") == [(b"\x00\xff",)]


def test_nothing_of_ours_stands_between_a_client_and_its_rows(adopted: Place) -> None:
    shape = adopted.shape()
    assert {kind for *_, kind in shape["keys"]} == {"PRIMARY KEY", "UNIQUE"}
    assert adopted.run("SHOW TRIGGERS") == []
    adopted.run("DELETE FROM queue")
    assert adopted.rows() == []


def test_what_others_hung_on_the_table_is_still_there_after_the_adoption(place: Place) -> None:
    place.make_old()
    place.run(
        "CREATE INDEX theirs ON queue (sending_date)",
        "CREATE VIEW titles AS SELECT id, user FROM queue",
        "CREATE TABLE log (id INT)",
        "CREATE TRIGGER watch AFTER DELETE ON queue FOR EACH ROW INSERT INTO log VALUES (old.id)",
    )
    migrate(place.server)
    place.run("DELETE FROM queue WHERE id = 3")
    assert place.run("SELECT id FROM log") == [(3,)] and len(place.run("SELECT * FROM titles")) == len(ROWS) - 1
    assert "theirs" in {index for _, index, *_ in place.shape()["indexes"]}


@pytest.mark.parametrize("key", ["by_file", "execution_file"])
def test_script_names_are_unique_after_an_adoption_whatever_the_key_was_called(place: Place, key: str) -> None:
    place.make_old(unique="")
    if key == "by_file":
        place.run("ALTER TABLE queue ADD UNIQUE KEY by_file (execution_file)")
    migrate(place.server)
    assert {index for _, index, _, column, *_ in place.shape()["indexes"] if column == "execution_file"} == {key}
    with pytest.raises(Exception, match="1062"):
        place.run("INSERT INTO queue (execution_file) VALUES ('a.py')")


@pytest.mark.parametrize(("table", "old"), [("order", True), ("Queue_2", False)])
def test_a_plan_changes_nothing_and_its_sql_makes_the_same_database(
    place: Place, second: Place, table: str, old: bool
) -> None:
    for one in (place, second):
        if old:
            one.make_old(table=f"`{table}`")
    before = place.dump()
    text = schema.sql_text(plan(place.server, table))
    assert place.dump() == before
    client = [*databases.client(place.kind), place.database]
    done = subprocess.run(client, input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert plan(place.server, table).steps == []
    migrate(second.server, table)
    assert place.shape() == second.shape() and place.dump() == second.dump()
    assert schema.sql_text(plan(place.server, table)) == "-- nothing is to be done\n"


def _killed(place: Place, count: int) -> bool:
    """Runs init-db in a process that dies after its n-th statement; False where there were fewer."""
    child = os.fork()
    if not child:
        os.environ["PEACHCTL_FAILPOINT"] = f"schema:step@{count}"
        failpoint._passed.clear()
        with contextlib.suppress(BaseException):
            migrate(place.server)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
def test_a_kill_between_any_two_statements_is_mended_by_the_next_init_db(
    place: Place, second: Place, old: bool
) -> None:
    for one in (place, second):
        if old:
            one.make_old()
    count = 1
    todo = plan(place.server).statements
    # Each attempt comes one statement further than the last one. Old and new differ in the first file alone.
    while todo and (old or any("'schema', '1'" in statement for statement in todo)):
        assert _killed(place, count)
        left = plan(place.server).statements
        count = 1 if left[:1] != todo[:1] else count + 1
        todo = left
    migrate(place.server)
    migrate(second.server)
    assert place.shape() == second.shape() and place.dump() == second.dump()


def test_of_two_init_db_at_once_one_waits_and_finds_nothing_to_do(place: Place) -> None:
    place.make_old()
    done: list[schema.Plan] = []
    threads = [threading.Thread(target=lambda: done.append(migrate(place.server))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(len(one.steps) for one in done) == [0, 2]
    assert place.rows() == ROWS


@pytest.mark.fault("C12")
@pytest.mark.parametrize("may_see", [True, False])
def test_a_session_in_the_way_is_named_and_the_next_init_db_succeeds(place: Place, may_see: bool) -> None:
    place.make_old()
    owner = place.entered("root") if may_see else place.user("ALL PRIVILEGES")
    with place.connect(autocommit=False) as reader:
        cursor = reader.cursor()
        cursor.execute("SELECT count(*) FROM queue")
        assert cursor.fetchall() == [(len(ROWS),)]
        who = rf"connection {reader.connection_id} \(root@" if may_see else "a session that this user may not see"
        with pytest.raises(UnreachableError, match=f"in use for 1 s by {who}"):
            migrate(owner, lock_wait=1)
        assert place.rows() == ROWS
        reader.rollback()
    assert migrate(owner, lock_wait=1).adopts
    assert place.rows() == ROWS


@pytest.mark.fault("C12")
def test_a_reader_does_not_keep_others_from_the_table_while_an_init_db_waits(place: Place) -> None:
    migrate(place.server)
    with MysqlSchema(place.session, lock_wait=1).changing():
        assert place.run("SELECT count(*) FROM queue") == [(0,)]


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("id INT PRIMARY KEY, what INT", "id, what"),
        (", ".join(f"{name} TEXT" for name in schema.COLUMNS), "the column id .* type text"),
    ],
)
def test_a_table_of_somebody_else_is_not_taken_for_a_queue(place: Place, definition: str, said: str) -> None:
    place.run(f"CREATE TABLE queue ({definition})")
    before = place.dump()
    for act in (plan, migrate):
        with pytest.raises(ConfigError, match=said):
            act(place.server)
    assert place.dump() == before


def test_the_user_of_the_consumers_sees_the_plan_and_is_told_who_may_execute_it(place: Place) -> None:
    place.make_old()
    runtime = place.user("SELECT, INSERT, UPDATE, DELETE")
    assert plan(runtime).adopts
    with pytest.raises(UnreachableError, match="1142") as caught:
        migrate(runtime)
    assert "owner of the database" in str(caught.value.hint)
    migrate(place.user("ALL PRIVILEGES"))
    assert plan(runtime).steps == []


def test_a_text_that_is_none_stops_the_adoption_and_is_told(place: Place) -> None:
    """Bytes under another character set than the one that they were written in: files of MyISAM that were copied."""
    old = OLD.format(table="queue", options="ENGINE=MyISAM DEFAULT CHARSET=utf8mb3", unique="")
    wide = old.replace("TABLE queue", "TABLE latin").replace("utf8mb3", "latin1").replace("255", "765")
    place.run(old, wide.replace("VARCHAR(30)", "VARCHAR(90)"), "INSERT INTO latin (user) VALUES (X'4AFC7267656E')")
    place.run("FLUSH TABLES")
    folder = Path(databases.server(place.kind)["socket"]).parent / "data" / place.database
    for kind in ("MYD", "MYI"):
        shutil.copyfile(folder / f"latin.{kind}", folder / f"queue.{kind}")
    place.run("FLUSH TABLES")
    assert place.run("SELECT HEX(user) FROM queue") == [("4AFC7267656E",)]
    with pytest.raises(ConfigError, match="a text in the table 'queue' is none") as caught:
        migrate(place.server)
    assert "Texts that are none" in str(caught.value.hint)
    assert place.run("SELECT HEX(user) FROM queue") == [("4AFC7267656E",)]
    place.run("UPDATE queue SET user = 'Jürgen'")
    assert migrate(place.server).adopts and place.run("SELECT user FROM queue") == [("Jürgen",)]


@pytest.fixture
def store(adopted: Place) -> Iterator[MysqlStore]:
    with contextlib.closing(open_store(adopted.user("SELECT, INSERT, UPDATE, DELETE"))) as made:
        yield made


def test_a_store_is_not_opened_before_the_adoption(place: Place) -> None:
    place.make_old()
    with pytest.raises(ConfigError, match="holds a queue of 2017") as caught:
        open_store(place.server)
    assert caught.value.hint == "peachctl init-db"


def test_rows_of_2017_are_listed_whatever_is_in_them_and_start_by_no_means_by_themselves(store: MysqlStore) -> None:
    assert store.adopted()
    assert [row.id for row in store.rows()] == sorted((row[0] for row in ROWS), reverse=True)
    zero = store.get(10)
    assert zero is not None and (zero.sending_date, zero.finished_date) == (None, None)
    executor = Executor("t", "h", "{}")
    store.join(executor)
    assert store.claim(executor, 10, 30) == [] and store.claim(executor, 10, 30, only=3) == []
    assert store.release_expired(3) == [] and store.unpacked(10) == [] and store.unannounced(10) == []
    store.retry(4)
    assert ids(store.claim(executor, 10, 30)) == [4]
    assert store.cancel(3) is Status.QUEUED


def _sql_of(heading: str) -> list[str]:
    """The statements of the SQL block below a heading of docs/mysql.md."""
    page = (Path(__file__).parents[2] / "docs" / "mysql.md").read_text(encoding="utf-8")
    block = page.partition(f"# {heading}\n")[2].partition("```sql\n")[2].partition("```")[0]
    return [statement for statement in block.split(";\n") if statement]


def test_the_way_back_to_the_old_backend_is_the_one_that_is_documented(adopted: Place) -> None:
    old = {"charset": "latin1", "collation": "latin1_swedish_ci", "sql_mode": ""}
    file = (
        "INSERT INTO queue (user, execution_file, workflow_json, status, progress, original_workflow_file,"
        " sending_date, priority, output_file) VALUES ('Jörg', 'j.py', '{}', 0, 0, 'workflow.wf', NOW(), 1, '')"
    )
    adopted.run(*_sql_of("Back to the old backend"))
    assert adopted.run("SHOW TABLES") == [("queue",)]
    assert {index for _, index, *_ in adopted.shape()["indexes"]} == {"PRIMARY", "execution_file"}
    with adopted.connect(**old) as backend:
        cursor = backend.cursor()
        cursor.execute(file)
        cursor.execute("UPDATE queue SET status = 1 WHERE id = LAST_INSERT_ID()")
        cursor.execute("SELECT * FROM queue WHERE user = 'Jörg'")
        ((id, user, *_),) = cursor.fetchall()
    assert (id, user) == (NEXT, "Jörg") and adopted.rows()[:-1] == ROWS
    assert migrate(adopted.server).adopts
    assert adopted.shape() == _new_shape(adopted.kind)
    assert adopted.run("SELECT queue_id FROM peach_left ORDER BY 1") == [(3,), (4,), (12,), (NEXT,)]


def test_the_documented_users_can_do_what_they_are_for(place: Place) -> None:
    unique = uuid.uuid4().hex[:8]
    _, *users = _sql_of("Two users")
    names = {"peach.*": f"`{place.database}`.*", "peach_owner@": f"owner_{unique}@", " peach@": f" peach_{unique}@"}
    for statement in users:
        for name, other in names.items():
            statement = statement.replace(name, other)
        place.run(statement)
    socket = Path(databases.server(place.kind)["socket"])

    def enter(user: str, password: str) -> Server:
        return Server(Mysql(f"{user}_{unique}", "", 0, place.database, socket), password)

    assert len(migrate(enter("owner", "a password")).steps) == 2
    with contextlib.closing(open_store(enter("peach", "another password"))) as store:
        store.join(Executor("t", "h", "{}"))
        assert len(store.executors()) == 1
    with pytest.raises(UnreachableError, match="refuses the user"):
        migrate(enter("owner", "another password"))


def test_texts_that_were_written_as_latin1_and_are_utf_8_are_kept_and_can_be_mended(place: Place) -> None:
    place.make_old()
    place.run("INSERT INTO queue (user) VALUES (CONVERT(_binary X'4DC3BC6C6C6572' USING latin1))")
    migrate(place.server)
    with place.connect(charset="latin1", collation="latin1_swedish_ci") as old:
        cursor = old.cursor()
        cursor.execute(f"SELECT HEX(CONVERT(user USING latin1)) FROM queue WHERE id = {NEXT}")
        assert cursor.fetchall() == [("4DC3BC6C6C6572",)]
    page = (Path(__file__).parents[2] / "docs" / "mysql.md").read_text(encoding="utf-8")
    place.run(page.partition("Once no such client is left:\n\n```sql\n")[2].partition(";")[0])
    assert place.run(f"SELECT user FROM queue WHERE id = {NEXT}") == [("Müller",)]
    assert place.rows()[:-1] == ROWS


@pytest.mark.parametrize("kind", databases.KINDS)
def test_a_server_that_is_killed_in_the_midst_of_an_adoption_has_the_old_table_or_the_new_one(kind: str) -> None:
    with databases.private(kind) as own:
        databases.execute(own.known, "CREATE DATABASE peach")
        with contextlib.closing(databases.connect(own.known, "peach")) as client:
            place = Place(kind, "peach", client)
            place.make_old()
            for _ in range(11):
                place.run("INSERT INTO queue (user, workflow_json) SELECT user, REPEAT('x', 500) FROM queue")
            before = place.run("SELECT count(*), sum(id) FROM queue")
        server = Server(Mysql("root", "127.0.0.1", own.known["port"], "peach"))

        def adopt() -> None:
            with contextlib.suppress(UnreachableError):
                migrate(server)

        adopting = threading.Thread(target=adopt)
        altering = "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE '-- A table%ALTER TABLE%'"
        with contextlib.closing(databases.connect(own.known)) as watcher:
            cursor = watcher.cursor()
            adopting.start()
            while adopting.is_alive():
                cursor.execute(altering)
                if cursor.fetchall():
                    break
            own.kill()
        adopting.join(60)
        # InnoDB of 5.6 does not start over a file that it had but begun: docs/mysql.md, "Which servers".
        for begun in (own.home / "data" / "peach").glob("#sql*.ibd"):
            if kind in ("mysql56", "mariadb101") and not begun.stat().st_size:
                begun.unlink()
        own.start()
        with contextlib.closing(databases.connect(own.known, "peach")) as client:
            place = Place(kind, "peach", client)
            assert place.run("SELECT count(*), sum(id) FROM queue") == before
            assert place.run("SELECT count(*) FROM queue WHERE user = 'Jürgen Groß'")[0][0] > 1000
            migrate(server)
            assert place.run("SELECT count(*), sum(id) FROM queue") == before
            assert place.shape() == _new_shape(kind)
