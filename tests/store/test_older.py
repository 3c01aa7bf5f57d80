"""The store once also on a real server without SKIP LOCKED, as installations of 2017 have it, and on one that is too
old. All of the suite runs on it, and on others, in `make proof ARGS="servers"`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mysql.connector  # noqa: TID253  only tests come here, and they mean it
import pytest

from peachctl.config_values import Mysql
from peachctl.errors import ConfigError, UnreachableError
from peachctl.store import Entry, Executor, Status
from peachctl.store.mysql import MysqlStore, open_store
from peachctl.store.mysql_connection import MysqlSession, Server
from peachctl.store.mysql_schema import migrate, plan
from tests.conftest import Peach
from tests.servers import databases
from tests.store.adapters import MysqlDatabase, ids
from tests.store.test_mysql import certificate, openssl
from tests.store.test_mysql_schema import FORMS, NEXT, ROWS, Place, _new_shape, _place

EXECUTOR = Executor("t", "h", "{}")
RIVAL = Executor("u", "i", "{}")


@pytest.fixture
def database() -> Iterator[MysqlDatabase]:
    made = MysqlDatabase(databases.OLD)
    yield made
    made.close()


@pytest.fixture
def store(database: MysqlDatabase) -> MysqlStore:
    made: MysqlStore = database.open()  # type: ignore[assignment]
    made.rows()
    assert not made._db.skips_locked
    return made


@pytest.fixture
def place() -> Iterator[Place]:
    with _place(databases.OLD) as made:
        yield made


@pytest.mark.parametrize("most", [1, 2, 7])
def test_without_skip_locked_the_same_rows_are_claimed(
    store: MysqlStore, entry: Callable[..., Entry], most: int
) -> None:
    first = store.file([entry(user) for user in ("a", "a", "B", "b", "c", "a")])[0].id
    taken: list[int] = []
    while claims := store.claim(EXECUTOR, most, 30):
        taken += [claim.id - first for claim in claims]
    assert taken == [0, 2, 4, 1, 3, 5]


@pytest.mark.fault("C5")
def test_of_several_that_claim_at_once_none_gets_a_row_of_another(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    made = ids(store.file([entry(f"user{n % 7}") for n in range(120)]))
    stores = [database.open() for _ in range(4)]
    together = threading.Barrier(4)
    taken: list[int] = []
    busy: list[int] = []

    def work(number: int) -> None:
        together.wait(20)
        while claims := stores[number].claim(Executor(f"t{number}", "h", "{}"), 3, 60):
            taken.extend(ids(claims))
            busy.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == made and len(set(busy)) > 1
    assert {(row.status, row.attempt) for row in store.rows(limit=200)} == {(Status.PROCESSING, 1)}


def test_a_row_that_a_limit_forbids_stays_in_the_queue(store: MysqlStore, entry: Callable[..., Entry]) -> None:
    first, second = ids(store.file([entry(), entry()]))
    assert ids(store.claim(EXECUTOR, 1, 60, only=first, per_user=1)) == [first]
    assert store.claim(EXECUTOR, 1, 60, only=second, per_user=1) == []
    assert [row.status for row in store.rows()] == [Status.QUEUED, Status.PROCESSING]


@pytest.mark.fault("F6", "C5")
def test_a_row_that_somebody_keeps_locked_is_passed_over(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    first, second = ids(store.file([entry(), entry("bob")]))
    with database.locked(first):
        started = time.monotonic()
        assert ids(store.claim(EXECUTOR, 5, 60)) == [second]
        assert time.monotonic() - started < 5
    assert ids(store.claim(EXECUTOR, 5, 60)) == [first]


def test_a_workflow_is_filed_claimed_and_ended(store: MysqlStore, entry: Callable[..., Entry]) -> None:
    (filed,) = store.file([entry(name="<a> name")])
    assert ids(store.unannounced(10)) == [filed.id]
    store.join(EXECUTOR)
    (claim,) = store.claim(EXECUTOR, 1, 60)
    assert store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar")
    row = store.get(filed.id)
    assert row is not None and (row.status, row.name, row.output_file) == (Status.SUCCESS, "<a> name", "x.tar")


def test_a_database_is_made_once(place: Place) -> None:
    assert len(plan(place.server).steps) == 2
    migrate(place.server)
    assert plan(place.server).steps == [] and place.shape() == _new_shape(place.kind)


@pytest.mark.parametrize("form", ["compact", "myisam"])
def test_an_adoption_leaves_every_value_as_it_was_and_the_next_id(place: Place, form: str) -> None:
    place.make_old(FORMS[form])
    assert migrate(place.server).adopts
    assert place.rows() == ROWS and place.shape() == _new_shape(place.kind)
    place.run("INSERT INTO queue (user) VALUES ('next')")
    assert place.run("SELECT max(id) FROM queue") == [(NEXT,)]


# A server with other settings


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[databases.Private]:
    """One whose TLS is that of its time: 1.1, and keys of RSA. A lock that is not given up undoes a transaction."""
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder, "ours", "IP:127.0.0.1", ("rsa:2048",))
    openssl(folder, "rsa", "-in", "ours.key", "-traditional", "-out", "ours.key")
    tls = (f"--ssl-ca={folder}/ours-ca.pem", f"--ssl-cert={folder}/ours.pem", f"--ssl-key={folder}/ours.key")
    with databases.private(databases.OLD, *tls, "--innodb-rollback-on-timeout=ON") as made:
        databases.execute(made.known, "CREATE DATABASE peach")
        yield made


@pytest.fixture
def server(own: databases.Private) -> Server:
    return Server(Mysql("root", "127.0.0.1", own.known["port"], "peach"))


@pytest.mark.parametrize(
    ("setting", "usual", "said"),
    [
        ("innodb_large_prefix", "ON", "innodb_large_prefix is OFF, ON is needed"),
        ("innodb_file_format", "Barracuda", "innodb_file_format is ANTELOPE, BARRACUDA is needed"),
    ],
)
def test_a_server_without_room_for_the_indexes_is_told_so_before_anything_is_changed(
    own: databases.Private, server: Server, setting: str, usual: str, said: str
) -> None:
    other = {"ON": "OFF", "Barracuda": "Antelope"}[usual]
    databases.execute(own.known, f"SET GLOBAL {setting} = {other}")
    for act in (plan, migrate):
        with pytest.raises(ConfigError, match=said) as caught:
            act(server)
        assert "docs/mysql.md" in str(caught.value.hint)
    databases.execute(own.known, f"SET GLOBAL {setting} = {usual}")
    assert databases.execute(own.known, "SHOW TABLES", database="peach") == []


def test_tls_that_nobody_speaks_any_more_is_left_out_where_none_is_asked_for(
    own: databases.Private, server: Server, tmp_path: Path
) -> None:
    assert databases.execute(own.known, "SELECT @@have_ssl, @@tls_version") == [("YES", "TLSv1,TLSv1.1")]
    with closing(MysqlSession(server)) as session:
        assert session.row("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[1] == ""
    certificate(tmp_path, "ours", "IP:127.0.0.1")
    with pytest.raises(UnreachableError, match="no trusted encrypted connection"):
        open_store(replace(server, tls_ca=tmp_path / "ours-ca.pem"), patience=0.2)


@pytest.mark.fault("C5")
def test_a_claim_that_is_undone_for_a_lock_leaves_the_session_as_patient_as_before(
    own: databases.Private, server: Server, entry: Callable[..., Entry]
) -> None:
    databases.execute(own.known, "CREATE DATABASE locks")
    here = replace(server, url=replace(server.url, name="locks"))
    migrate(here)
    with closing(open_store(here)) as store, closing(MysqlSession(here)) as other:
        (row,) = ids(store.file([entry()]))
        db, patient = store._db, "SELECT @@innodb_lock_wait_timeout"
        before = db.row(patient)

        def undone() -> None:
            with pytest.raises(mysql.connector.Error, match="1205"):
                db.change_unless_locked("UPDATE {queue} SET status = 1 WHERE id = %s", [row])

        def while_locked() -> None:
            other.row("SELECT id FROM queue WHERE id = %s FOR UPDATE", (row,))
            db.transaction(undone)

        other.transaction(while_locked)
        assert db.row(patient) == before != (1,)
        assert ids(store.claim(EXECUTOR, 1, 60)) == [row]


@pytest.mark.parametrize(
    ("version", "skips", "narrow"),
    [
        ("5.6.14", False, True),
        ("5.7.44-48-log", False, False),
        ("8.0.15", True, False),
        ("9.7.4-1", True, False),
        ("10.1.13-MariaDB", False, True),
        ("5.5.5-10.5.23-MariaDB-0+deb11u1", False, False),
        ("10.6.0-MariaDB", True, False),
        ("11.4.2-MariaDB", True, False),
        ("a fork", False, False),
    ],
)
def test_what_a_server_can_do_is_known_by_its_version(version: str, skips: bool, narrow: bool) -> None:
    session = MysqlSession(Server(Mysql("root", "127.0.0.1", 1, "peach")))
    session._know(version)
    assert (session.skips_locked, session.narrow) == (skips, narrow)


def test_mysql_5_5_is_too_old() -> None:
    with pytest.raises(ConfigError, match=r"MySQL 5\.5\.62-0ubuntu0, at least MariaDB 10\.1 or MySQL 5\.6 is needed"):
        MysqlSession(Server(Mysql("root", "127.0.0.1", 1, "peach")))._know("5.5.62-0ubuntu0")


def test_a_server_that_is_too_old_is_told_so_in_a_line_before_anything_is_changed(peach: Peach) -> None:
    with databases.private("mariadb", "--version=10.0.38-MariaDB") as own:
        databases.execute(own.known, "CREATE DATABASE peach")
        at = {"PEACHCTL_DATABASE__URL": f"mysql://root@127.0.0.1:{own.known['port']}/peach"}
        for command in (("init-db",), ("init-db", "--check"), ("queue", "list")):
            told = peach(*command, code=2, **at).stderr
            assert "the server is MariaDB 10.0.38-MariaDB, at least MariaDB 10.1 or MySQL 5.6 is needed" in told
            assert len(told.splitlines()) <= 2
        assert databases.execute(own.known, "SHOW TABLES", database="peach") == []
