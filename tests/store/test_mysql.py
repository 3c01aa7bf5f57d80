"""What is MySQL's and MariaDB's alone: lost connections and replies, frozen servers, locks, limits, TLS, passwords."""

import functools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mysql.connector  # noqa: TID253  only tests come here, and they mean it
import pytest

from peachctl.config_values import Mysql
from peachctl.errors import ConfigError, PeachError, UnreachableError
from peachctl.ingest import unique_names
from peachctl.store import (
    Claim,
    Entry,
    EntryTooLarge,
    Executor,
    Letter,
    NodeStatus,
    Status,
    Wanted,
    mysql_claim,
    mysql_connection,
)
from peachctl.store.mysql import MysqlStore, open_store
from peachctl.store.mysql_connection import MysqlSession, Server, _text, marks
from peachctl.store.mysql_schema import migrate
from peachctl.store.mysql_values import bind
from tests.servers import databases
from tests.servers.between import Between
from tests.store.adapters import MysqlDatabase, ids, place_server
from tests.store.conftest import origin, state
from tests.store.cutting import Cutting

EXECUTOR = Executor("t", "h", "{}")
RIVAL = Executor("u", "i", "{}")
CANARY = "c4nary-p4ssword"


@pytest.fixture(params=databases.KINDS)
def database(request: pytest.FixtureRequest) -> Iterator[MysqlDatabase]:
    made = MysqlDatabase(request.param)
    yield made
    made.close()


@pytest.fixture
def one_server() -> Iterator[MysqlDatabase]:
    made = MysqlDatabase(databases.KINDS[0])
    yield made
    made.close()


@pytest.fixture
def store(database: MysqlDatabase) -> MysqlStore:
    return database.open()  # type: ignore[return-value]


def session(database: MysqlDatabase, patience: float = 10.0) -> MysqlSession:
    return MysqlSession(place_server(database.place), patience=patience)


def letter(field: str) -> Letter:
    return Letter("no", field, None, None, None, 1, b"x", 1.0)


@pytest.mark.parametrize("step", [1, 3])
def test_each_row_of_a_batch_is_known_by_its_own_id(
    database: MysqlDatabase, entry: Callable[..., Entry], step: int
) -> None:
    with closing(open_store(place_server(database.place))) as store:  # as root, who may set that everywhere
        store._db.change("SET SESSION auto_increment_increment = %s", (step,))
        for entries in ([entry()], [entry() for _ in range(5)], [entry() for _ in range(450)]):
            filed = store.file(entries)
            rows = {row.id: row.execution_file for row in store.unannounced(1000)}
            assert {one.id: one.execution_file for one in filed} == rows
            store.announced(rows)


# Replies that are lost


@pytest.fixture
def cutting(database: MysqlDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cutting]:
    # In plain, so that a COMMIT is seen passing by.
    plain = functools.partial(mysql.connector.connect, ssl_disabled=True)
    monkeypatch.setattr(mysql.connector, "connect", plain)
    made = Cutting(place_server(database.place).url.port)
    yield made
    made.close()


def through(cutting: Cutting, database: MysqlDatabase, patience: float = 10.0) -> MysqlStore:
    server = place_server(database.place)
    return open_store(replace(server, url=replace(server.url, port=cutting.port)), patience=patience)


@pytest.mark.fault("F4", "A4")
@pytest.mark.parametrize("cut", ["request", "reply", "late"])
def test_a_commit_that_is_cut_off_happens_once_whatever_it_was(
    database: MysqlDatabase, store: MysqlStore, cutting: Cutting, entry: Callable[..., Entry], cut: str
) -> None:
    with closing(through(cutting, database)) as far:

        def cutting_it(act: Callable[[], Any]) -> Any:
            before, cutting.cut = cutting.cuts, cut
            got = act()
            assert cutting.cuts == before + 1
            return got

        (filed,) = cutting_it(lambda: far.file([entry()], [letter("a")]))
        assert filed.new and ids(store.rows()) == [filed.id] and len(store.letters()) == 1
        (claim,) = cutting_it(lambda: far.claim(EXECUTOR, 5, 60))
        assert store.renew(EXECUTOR, [claim], 60) == {claim: Wanted.GO_ON} and claim.attempt == 1
        assert cutting_it(lambda: far.report(claim, 5, [state("a", NodeStatus.RUNNING)]))
        released = cutting_it(lambda: far.give_back(claim, vanished=True, max_attempts=9, reason="x"))
        assert released is not None and not released.ended
        (claim,) = store.claim(EXECUTOR, 1, 60)
        assert cutting_it(lambda: far.finish(claim, Status.ERROR, reason="x", output_file="x.tar"))
        cutting_it(lambda: far.retry(filed.id))
        assert cutting_it(lambda: far.cancel(filed.id)) is Status.QUEUED
        cutting_it(lambda: far.retry(filed.id))
        (claim,) = store.claim(EXECUTOR, 1, 60)
        assert ids(cutting_it(lambda: far.release([EXECUTOR.token], 9))) == [filed.id]
        assert cutting_it(lambda: far.new_epoch("topic")) == 1
        again = cutting_it(lambda: far.refile(store.letters()[0].number, entry()))
        assert again.new and len(store.rows()) == 2 and store.letters() == []
        store.file([], [letter("b")])
        assert cutting_it(lambda: far.drop_letters([one.number for one in store.letters()])) == 1
        cutting_it(lambda: far.delete(filed.id))
        mine = cutting_it(lambda: far.file_claimed(entry(), EXECUTOR, 60))
        assert store.renew(EXECUTOR, [mine], 60) == {mine: Wanted.GO_ON} and len(store.rows()) == 2


@pytest.mark.fault("F4", "A4")
@pytest.mark.parametrize("cut", ["request", "reply", "late"])
@pytest.mark.parametrize("count", [1, 3, 450])
def test_a_filing_with_origins_that_is_cut_off_finds_itself_by_them(
    database: MysqlDatabase, store: MysqlStore, cutting: Cutting, entry: Callable[..., Entry], cut: str, count: int
) -> None:
    """The transaction leaves no mark of its own."""
    many = [entry(execution_file=f"ada_{'a' * 32}_{1000 + n}_000000.py", origin=origin(n)) for n in range(count)]
    refused = entry(execution_file=f"ada_{'a' * 32}_1_000000.py", origin=origin(1000), refused="bad")
    letters = [
        replace(letter("a"), origin=origin(1000), sha256=refused.sha256),
        replace(letter("b"), origin=origin(1001), sha256="d" * 64),
    ]
    with closing(through(cutting, database)) as far:
        cutting.cut = cut
        filed = unique_names([*many, refused], lambda named: far.file(named, letters))
        assert cutting.cuts == 1
    rows = {row.id: row for row in store.rows()}
    assert sorted(one.id for one in filed) == sorted(rows) and len(rows) == count + 1
    assert all(rows[one.id].execution_file == one.execution_file for one in filed)
    assert len(store.letters()) == 2
    assert {row.id for row in store.unannounced(1000)} == set(rows)


def test_what_was_claimed_by_a_call_that_failed_is_given_out_by_the_next(
    database: MysqlDatabase, store: MysqlStore, cutting: Cutting, entry: Callable[..., Entry]
) -> None:
    made = ids(store.file([entry(), entry("bob")]))
    with closing(through(cutting, database, patience=0.3)) as far:
        cutting.cut, cutting.down = "reply", True
        with pytest.raises(UnreachableError):
            far.claim(EXECUTOR, 5, 60)
        assert store.counts()[Status.PROCESSING] == 2
        cutting.down = False
        claims = far.claim(EXECUTOR, 1, 60)
        assert ids(claims) == made and set(store.renew(EXECUTOR, claims, 60).values()) == {Wanted.GO_ON}
        assert far.claim(EXECUTOR, 5, 60) == []


def test_what_was_finished_by_a_call_that_failed_counts_as_finished(
    database: MysqlDatabase, store: MysqlStore, cutting: Cutting, entry: Callable[..., Entry]
) -> None:
    store.file([entry()])
    with closing(through(cutting, database, patience=0.3)) as far:
        (claim,) = far.claim(EXECUTOR, 1, 60)
        cutting.cut, cutting.down = "reply", True
        with pytest.raises(UnreachableError):
            far.finish(claim, Status.SUCCESS, reason=None, output_file="a.tar")
        cutting.down = False
        assert far.finish(claim, Status.SUCCESS, reason=None, output_file="a.tar")
        assert not far.finish(claim, Status.SUCCESS, reason=None, output_file="b.tar")


@pytest.mark.fault("C2", "A2")
def test_a_connection_that_is_killed_in_a_transaction_leaves_no_half_of_it(database: MysqlDatabase) -> None:
    client = database.client()
    tries = []

    def work() -> None:
        db.change("INSERT INTO peach_outbox (queue_id) VALUES (%s)", (1,))
        tries.append(db.row("SELECT connection_id()")[0])
        if len(tries) == 1:
            client.run(f"KILL {tries[0]}")
        db.change("INSERT INTO peach_outbox (queue_id) VALUES (%s)", (2,))

    with closing(session(database)) as db:
        db.transaction(work)
    assert len(tries) == 2 and client.run("SELECT queue_id FROM peach_outbox ORDER BY 1") == [(1,), (2,)]


def test_a_transaction_that_was_frozen_holds_no_lock_for_long_and_is_begun_again(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    (filed,) = store.file([entry()])
    monkeypatch.setattr(mysql_connection, "_IDLE", 1)
    tries = []

    def work() -> None:
        db.change("UPDATE {queue} SET priority = priority + 1 WHERE id = %s", (filed.id,))
        tries.append(1)
        if len(tries) == 1:
            # Waits for the lock that this frozen one holds, until the server ends its connection.
            store.prioritise(filed.id, 5)

    with closing(session(database)) as db:
        db.transaction(work)
    row = store.get(filed.id)
    assert len(tries) == 2 and row is not None and row.priority == 6


# Locks


@pytest.mark.fault("C3")
def test_of_two_that_lock_crosswise_both_succeed(database: MysqlDatabase) -> None:
    client = database.client()
    client.run("INSERT INTO peach_meta (name, value) VALUES ('a', '0'), ('b', '0')")
    both = threading.Barrier(2)
    tries: list[str] = []

    def run(first: str, second: str) -> None:
        def work() -> None:
            tries.append(first)
            db.change("UPDATE peach_meta SET value = value + 1 WHERE name = %s", (first,))
            if tries.count(first) == 1:
                both.wait(20)
            db.change("UPDATE peach_meta SET value = value + 1 WHERE name = %s", (second,))

        with closing(session(database)) as db:
            db.transaction(work)

    threads = [threading.Thread(target=run, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 3, "one of them was begun again"
    assert client.run("SELECT value FROM peach_meta WHERE name IN ('a', 'b')") == [("2",), ("2",)]


@pytest.mark.fault("C3")
def test_a_lock_that_is_not_given_up_ends_in_a_sentence_and_nothing_half_done(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    first, second = ids(store.file([entry(), entry()]))

    def work() -> None:
        db.change("UPDATE {queue} SET priority = 7 WHERE id = %s", (first,))
        db.change("UPDATE {queue} SET priority = 7 WHERE id = %s", (second,))

    with closing(session(database, patience=0.5)) as db:
        with database.locked(second):
            started = time.monotonic()
            with pytest.raises(UnreachableError, match="1205"):
                db.transaction(work)
            assert time.monotonic() - started < 10
        assert {row.priority for row in store.rows()} == {1}
        db.transaction(work)
    assert {row.priority for row in store.rows()} == {7}


@pytest.mark.fault("F6", "C5")
def test_a_claim_waits_for_nobody_and_nobody_who_files_waits_for_a_claim(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    first, second = ids(store.file([entry(), entry("bob")]))
    started = time.monotonic()
    with database.locked(first):
        assert ids(store.claim(EXECUTOR, 5, 60)) == [second]

    other, filed = database.open(), []

    def work() -> None:
        store._leases.begin(mysql_claim.pick(store._db, 5, None), EXECUTOR, 60)
        filed.extend(other.file([entry()]))

    store._db.transaction(work)
    assert len(filed) == 1 and time.monotonic() - started < 4
    assert ids(other.claim(RIVAL, 5, 60)) == ids(filed)


@pytest.mark.fault("F6", "F7")
def test_a_transaction_sees_what_others_commit_meanwhile(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    other, seen = database.open(), []
    levels = "SHOW SESSION VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')"
    assert {_text(value) for _, value in store._db.rows(levels)} == {"READ-COMMITTED"}

    def work() -> None:
        seen.append(store._db.row("SELECT count(*) FROM {queue}")[0])
        if len(seen) == 1:
            filed.extend(ids(other.file([entry()])))
        seen.append(store._db.row("SELECT count(*) FROM {queue}")[0])
        picked.extend(mysql_claim.pick(store._db, 5, None))

    filed: list[int] = []
    picked: list[int] = []
    store._db.transaction(work)
    assert seen == [0, 1] and picked == filed


def test_two_that_file_the_same_message_at_once_make_one_row(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    other = database.open()
    first = entry(origin=origin(1))
    same = entry(origin=origin(1), sha256=first.sha256)
    filed: list[Any] = []
    thread = threading.Thread(target=lambda: filed.extend(other.file([same])))

    def work() -> None:
        store._filing.file([first], [], announce=True)
        if not thread.ident:
            thread.start()
            waits_for_a_lock(other._db._connection.connection_id, database.client())

    store._db.transaction(work)
    thread.join()
    (row,) = store.rows()
    assert [(one.id, one.new) for one in filed] == [(row.id, False)]


def waits_for_a_lock(connection: int, client: Any) -> None:
    """Until the transaction of this connection waits for somebody else's."""
    until = time.monotonic() + 20
    waiting = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = ? AND trx_state = 'LOCK WAIT'"
    while not client.run(waiting, connection):
        assert time.monotonic() < until
        time.sleep(0.15)  # the table is renewed when nobody has read it for a tenth of a second


@pytest.mark.parametrize("window", [0, 1, 3, 4096])
@pytest.mark.parametrize("most", [1, 7])
def test_every_look_at_the_queue_takes_the_same_rows(
    one_server: MysqlDatabase, entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch, window: int, most: int
) -> None:
    monkeypatch.setattr(mysql_claim, "WINDOW", window)
    store = one_server.open()
    blocks = ["a"] * 6 + ["B", "b"] * 2 + ["c"] * 5 + ["d"] + ["A"] * 3 + ["", "e\0f", "\U0001f9e0", "e"]
    first = store.file([entry(user) for user in blocks])[0].id
    taken: list[int] = []
    while claims := store.claim(EXECUTOR, most, 30):
        taken += [claim.id - first for claim in claims]
    heads = [0, 6, 10, 15, 19, 20, 21, 22]
    assert taken[: len(heads)] == heads
    assert taken[len(heads) :] == [1, 7, 11, 2, 8, 12, 3, 9, 13, 4, 14, 5, 16, 17, 18]


def test_users_whom_the_collation_takes_for_one_share_a_limit(one_server: MysqlDatabase, entry: Any) -> None:
    store = one_server.open()
    first, _, bob = ids(store.file([entry("José"), entry("JOSE"), entry("bob")]))
    assert ids(store.claim(EXECUTOR, 9, 30, per_user=1)) == [first, bob]


# How much is said to the server


@pytest.mark.fault("C13")
def test_statements_do_not_grow_with_what_is_filed_renewed_and_told(
    store: MysqlStore, entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    real = store._db._execute

    def counting(sql: str, values: Any = ()) -> Any:
        statements.append(sql)
        return real(sql, values)

    monkeypatch.setattr(store._db, "_execute", counting)

    def cost(act: Callable[[], Any]) -> int:
        statements.clear()
        act()
        return len(statements)

    assert cost(lambda: store.file([entry(f"u{n}", origin=origin(n)) for n in range(100)])) <= 12
    assert cost(lambda: store.unannounced(100)) == 1
    # Without SKIP LOCKED each row is taken by itself.
    assert cost(lambda: store.claim(EXECUTOR, 90, 60)) <= 20 + (0 if store._db.skips_locked else 3 * 90)
    claims = store.claim(EXECUTOR, 10, 60)
    assert cost(lambda: store.renew(EXECUTOR, claims, 60)) == 2
    assert cost(lambda: store.claim(EXECUTOR, 10, 60)) == 1, "nothing waits"


# What the server takes, and who gets in: a server that announces another version


@pytest.fixture(scope="module")
def own() -> Iterator[databases.Private]:
    kind = databases.KINDS[0]
    announcing = ("--version=8.0.36",) if kind == "mariadb" else ()
    with databases.private(kind, "--max-allowed-packet=1M", *announcing) as made:
        databases.execute(made.known, "CREATE DATABASE peach")
        yield made


@pytest.fixture
def place(own: databases.Private) -> Server:
    server = Server(Mysql("root", "127.0.0.1", own.known["port"], "peach"))
    migrate(server)
    for table in ("queue", "peach_jobs", "peach_letters", "peach_runs", "peach_nodes"):
        databases.execute(own.known, f"DELETE FROM {table}", database="peach")
    return server


@pytest.mark.fault("C11")
def test_the_collation_is_one_that_every_server_knows(place: Server) -> None:
    with closing(open_store(place)) as store:
        assert store._db.row("SELECT @@collation_connection, @@character_set_client") == (
            "utf8mb4_general_ci", "utf8mb4",
        )  # fmt: skip


def test_a_connection_starts_no_program(place: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """To say what it runs on, the driver asks `lsb_release`, a script here and there, and fails where that fails."""
    mysql.connector.utils.get_platform.cache_clear()
    started: list[object] = []
    popen = subprocess.Popen.__init__
    monkeypatch.setattr(
        subprocess.Popen,
        "__init__",
        lambda self, args, *more, **how: (started.append(args), popen(self, args, *more, **how))[-1],
    )
    with closing(MysqlSession(place)) as session:
        assert session.rows("SELECT 1") == [(1,)]
    assert started == []


@pytest.mark.fault("C9")
def test_what_is_larger_than_a_packet_is_refused_by_name_and_the_rest_is_split(
    place: Server, entry: Callable[..., Entry]
) -> None:
    with closing(open_store(place)) as store:
        huge = entry(workflow_json='"' * 600_000, name="huge")
        with pytest.raises(EntryTooLarge, match="max_allowed_packet|at once") as caught:
            store.file([entry(), huge])
        assert caught.value.entry is huge and store.rows() == []
        assert len(store.file([entry(workflow_json="\\" * 100_000) for _ in range(20)])) == 20
        store.file([], [replace(letter("x"), body=b"'" * (1 << 20), size=1 << 20)])
        assert 400_000 < len(store.letters()[0].body) < 1 << 19
        (claim,) = store.claim(EXECUTOR, 1, 60)
        assert store.report(claim, 1, [state("a", NodeStatus.SUCCESS, outputs=["x" * (1 << 20)]), state("b")])
        assert [(node.status, node.outputs) for node in store.nodes(claim.id)] == [
            (NodeStatus.SUCCESS, None), (NodeStatus.WAITING, None),
        ]  # fmt: skip
        with pytest.raises(EntryTooLarge, match="600 characters"):
            store.file([entry("u" * 600)])


@pytest.mark.fault("C10")
def test_the_session_is_strict(store: MysqlStore) -> None:
    assert _text(store._db.row("SELECT @@SESSION.sql_mode")[0]) == "STRICT_ALL_TABLES"


@pytest.mark.fault("C10")
def test_a_value_that_a_lax_server_would_cut_is_refused(
    place: Server, own: databases.Private, entry: Callable[..., Entry]
) -> None:
    (before,) = databases.execute(own.known, "SELECT @@GLOBAL.sql_mode")[0]
    databases.execute(own.known, "SET GLOBAL sql_mode = ''")
    try:
        with closing(open_store(place)) as store:
            store.file([entry()])
            (claim,) = store.claim(EXECUTOR, 1, 60)
            with pytest.raises(PeachError, match="does not fit its column"):
                store.finish(claim, Status.SUCCESS, reason=None, output_file="x" * 600)
            assert [(row.status, row.output_file) for row in store.rows()] == [(Status.PROCESSING, "")]
    finally:
        databases.execute(own.known, f"SET GLOBAL sql_mode = '{before}'")


@pytest.mark.fault("C4")
def test_a_server_that_hangs_is_not_waited_for_without_end(
    place: Server, own: databases.Private, entry: Callable[..., Entry]
) -> None:
    with closing(open_store(place, patience=1)) as store:
        os.kill(own.known["pid"], signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(UnreachableError, match=r"no answer within \d+ s|2003|connection was lost") as caught:
                store.file([entry()])
            assert time.monotonic() - started < 8 and "root@127.0.0.1" in caught.value.message
            assert "\n" not in caught.value.message and "reconnect" not in caught.value.message
        finally:
            os.kill(own.known["pid"], signal.SIGCONT)
        assert store.file([entry()])[0].new


@pytest.mark.fault("B12", "C4")
def test_while_packets_vanish_nothing_is_waited_for_without_end_and_nothing_is_filed_twice(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    server = place_server(database.place)
    between = Between(server.url.port)
    one = entry(origin=origin(1))
    with closing(open_store(replace(server, url=replace(server.url, port=between.port)), patience=1)) as far:
        assert far.rows() == []
        started = time.monotonic()
        with between.swallowing(), pytest.raises(UnreachableError):
            far.file([one])
        assert time.monotonic() - started < 10
        assert far.file([one])[0].new
        assert ids(far.rows()) == ids(store.rows()) and len(store.rows()) == 1
    between.close()


@pytest.mark.fault("F5")
def test_the_driver_is_the_pure_one_whatever_was_imported_first(database: MysqlDatabase) -> None:
    command = (
        "import _mysql_connector, sys; from tests.store.adapters import open_place;"
        " store = open_place('mysql', sys.argv[1]); store.rows(); print(type(store._db._connection).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, database.place], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (done.stdout, done.returncode) == ("MySQLConnection\n", 0), done.stderr


@pytest.mark.fault("E8")
def test_every_value_comes_back_as_it_was_bound(database: MysqlDatabase) -> None:
    """Whatever a message holds is a value and never SQL."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000), 0x1F351)))
    values = (
        "",
        every,
        "%s",
        "%(a)s",
        "';--",
        "\\'",
        "\\",
        'a\\"',
        bytes(range(256)),
        -(2**63),
        2**64 - 1,
        None,
        True,
        0.5,
    )
    with closing(session(database)) as db:
        for value in values:
            (text,) = db.row("SELECT %s", (value,))
            assert (bytes(text) if isinstance(value, bytes) else text) == value, value
        found = db.row("SELECT " + marks(values), values)  # type: ignore[arg-type]
        assert [bytes(one) if isinstance(one, bytearray) else one for one in found] == list(values)
    for few_or_many in ((1,), (1, 2, 3)):
        with pytest.raises(ValueError, match="argument"):
            bind(b"SELECT %s, %s", few_or_many)


@pytest.mark.fault("C8")
def test_a_change_to_what_is_there_already_has_found_its_row(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    (filed,) = store.file([entry(priority=5)])
    store.prioritise(filed.id, 5)
    with closing(session(database)) as db:
        change = "UPDATE {queue} SET priority = 5 WHERE id = %s"
        assert [db.change(change, (id,)) for id in (filed.id, filed.id, filed.id + 1)] == [1, 1, 0]


@pytest.mark.fault("C14")
def test_a_store_has_one_connection_whatever_it_does(
    store: MysqlStore, database: MysqlDatabase, entry: Callable[..., Entry]
) -> None:
    def connections() -> int:
        user = place_server(database.place).url.name
        return len(database.client().run("SELECT id FROM information_schema.processlist WHERE user = ?", user))

    for _ in range(5):
        store.file([entry()])
        store.claim(EXECUTOR, 1, 60)
        assert len(store.rows()) > 0
    assert connections() == 1


@pytest.mark.fault("C1", "A4")
def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing(
    place: Server, own: databases.Private, entry: Callable[..., Entry]
) -> None:
    filed: list[int] = []
    sent: list[str] = []
    claimed: list[Claim] = []
    finished: list[int] = []
    over = threading.Event()
    failures: list[BaseException] = []

    def work(name: str) -> None:
        executor = Executor(name, "h", "{}")
        try:
            with closing(open_store(place, patience=60)) as store:
                while not over.is_set():
                    key = f"{name}-{len(sent)}"
                    sent.append(key)
                    filed.extend(ids(store.file([entry(name)], [letter(key)])))
                    claims = store.claim(executor, 2, 600)
                    claimed.extend(claims)
                    for claim in claims[:1]:
                        assert store.finish(claim, Status.SUCCESS, reason=None, output_file="x.tar")
                        finished.append(claim.id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"writer{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    pauses = random.Random(3)
    for _ in range(3):
        time.sleep(pauses.uniform(0.2, 0.6))
        own.kill()
        own.start()
    over.set()
    for thread in threads:
        thread.join()
    assert failures == [] and filed
    with closing(open_store(place)) as store:
        rows = {row.id: row for row in store.rows()}
        assert sorted(filed) == sorted(rows), "each row is known, and no known one is lost"
        assert Counter(one.field for one in store.letters()) == Counter(sent), "each letter is there once"
        assert sorted(ids(claimed)) == sorted(id for id, row in rows.items() if row.status is not Status.QUEUED)
        assert sorted(finished) == sorted(id for id, row in rows.items() if row.status is Status.SUCCESS)
        assert {row.attempt for row in rows.values()} <= {0, 1}


# TLS and passwords


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


_EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def certificate(folder: Path, name: str, subject: str, key: tuple[str, ...] = _EC) -> None:
    """An authority NAME-ca.pem, and a certificate NAME.pem of it for `subject` with its key."""
    new = ("req", "-x509", "-newkey", *key, "-nodes", "-days", "2")
    openssl(folder, *new, "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name} authority")
    openssl(
        folder, *new, "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key", "-keyout", f"{name}.key",
        "-out", f"{name}.pem", "-subj", "/CN=database", "-addext", f"subjectAltName={subject}",
        "-addext", "basicConstraints=critical,CA:FALSE",
    )  # fmt: skip


def test_tls_is_verified_when_it_is_asked_for(place: Server, own: databases.Private, tmp_path: Path) -> None:
    certificate(tmp_path, "ours", "IP:127.0.0.1")
    certificate(tmp_path, "elsewhere", "DNS:db.hospital.example")
    trusting = replace(place, tls_ca=tmp_path / "ours-ca.pem")
    encrypted = "SHOW SESSION STATUS LIKE 'Ssl_cipher'"

    with pytest.raises(UnreachableError, match=r"2026"):
        open_store(trusting)  # a server without TLS
    with pytest.raises(UnreachableError, match="not encrypted"):
        open_store(replace(trusting, tls_verify=False))

    def serving(name: str) -> None:
        own.stop()
        own.start(f"--ssl-cert={tmp_path / name}.pem", f"--ssl-key={tmp_path / name}.key")

    serving("ours")
    with closing(open_store(trusting)) as store:
        assert store._db.row(encrypted)[1]
    with closing(open_store(place)) as store:
        assert store._db.row(encrypted)[1], "without a wish TLS is used where the server has it"
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="database.tls_ca|certificate"):
        open_store(replace(place, tls_ca=tmp_path / "elsewhere-ca.pem"))
    with pytest.raises(ConfigError, match="cannot be read"):
        open_store(replace(place, tls_ca=tmp_path / "nowhere.pem"))
    serving("elsewhere")
    with pytest.raises(UnreachableError, match=r"match|127\.0\.0\.1") as caught:
        open_store(replace(place, tls_ca=tmp_path / "elsewhere-ca.pem"))
    assert "tls" in (caught.value.hint or "") and time.monotonic() - started < 60
    own.stop()
    own.start()


@pytest.mark.fault("D9")
def test_a_password_is_in_nothing_that_is_said(
    database: MysqlDatabase, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    client = database.client()
    with suppress(mysql.connector.Error):
        client.run("DROP USER peach_canary")
    client.run(f"CREATE USER peach_canary IDENTIFIED BY '{CANARY}'")
    server = place_server(database.place)
    right = replace(server, url=replace(server.url, user="peach_canary"), password=CANARY)
    wrong = replace(server, url=replace(server.url, user="peach_canary"), password=CANARY + "!")
    nowhere = replace(right, url=replace(right.url, port=1))
    said = [repr(right), str(right)]
    for one in (right, wrong, nowhere):
        with pytest.raises(UnreachableError) as caught:
            open_store(one, patience=0.2)
        said += ["".join(traceback.format_exception(caught.value)), repr(caught.value), str(caught.value.__dict__)]
        assert "peach_canary@127.0.0.1" in caught.value.message
    said += [caplog.text, *capfd.readouterr()]
    assert not any(CANARY in one for one in said)


# Sentences


def test_who_may_not_do_what_is_needed_is_told_so(
    database: MysqlDatabase, store: MysqlStore, entry: Callable[..., Entry]
) -> None:
    client = database.client()
    server = place_server(database.place)
    with suppress(mysql.connector.Error):
        client.run("DROP USER reader")
    client.run("CREATE USER reader")
    client.run(f"GRANT SELECT ON {server.url.name}.* TO reader")
    with closing(open_store(replace(server, url=replace(server.url, user="reader")))) as poor:
        with pytest.raises(UnreachableError, match="'reader' may not") as caught:
            poor.file([entry()])
        assert caught.value.hint is not None and "INSERT" in caught.value.hint
        assert poor.rows() == []
    with pytest.raises(UnreachableError, match="'reader' may not use a database 'nowhere', or there is none") as caught:
        open_store(replace(server, url=replace(server.url, user="reader", name="nowhere")), patience=0.2)
    assert "database.url" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"name": "nowhere"}, UnreachableError, "no database 'nowhere'"),
        ({"name": "mysql"}, ConfigError, "older schema, or none"),
        ({"user": "nobody", "name": "mysql"}, UnreachableError, "refuses the user 'nobody'"),
        ({"port": 1}, UnreachableError, r"could not be reached for 0\.2 s"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(
    database: MysqlDatabase, change: dict[str, Any], error: type[PeachError], says: str
) -> None:
    server = place_server(database.place)
    server = replace(server, url=replace(server.url, **change))
    started = time.monotonic()
    with pytest.raises(error, match=says) as caught:
        open_store(server, patience=0.2)
    assert caught.value.message.startswith(f"{server.url}") and caught.value.hint is not None
    assert time.monotonic() - started < 10


def test_what_is_no_database_server_is_told_so() -> None:
    import socketserver

    class Web(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 40)

    with socketserver.TCPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with pytest.raises(UnreachableError, match="127.0.0.1"):
            open_store(Server(Mysql("root", "127.0.0.1", web.server_address[1], "x")), patience=0.2)
        web.shutdown()


def test_a_table_that_somebody_dropped_asks_for_init_db(own: databases.Private, place: Server, entry: Any) -> None:
    with closing(open_store(place)) as store:
        databases.execute(own.known, "RENAME TABLE peach_jobs TO away", database="peach")
        with pytest.raises(ConfigError, match="peach_jobs") as caught:
            store.file([entry()])
        databases.execute(own.known, "RENAME TABLE away TO peach_jobs", database="peach")
        assert caught.value.hint == "peachctl init-db" and store.file([entry()])[0].new
