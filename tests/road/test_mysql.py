"""Consumers and commands on a database server, as real processes: clients that end a run, passwords, `queue`."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_consume_kafka import running, slow
from tests.conftest import DIAMOND, Peach, node, workflow
from tests.servers import databases

CANARY = "c4nary-p4ssword"


@pytest.fixture(params=databases.KINDS)
def at(peach: Peach, request: pytest.FixtureRequest) -> Iterator[Any]:
    """What runs SQL as a client of the installation does."""
    known = databases.server(request.param)
    with databases.database(request.param) as name:
        peach.env["PEACHCTL_DATABASE__URL"] = f"mysql://root@127.0.0.1:{known['port']}/{name}"
        peach.inside("-q", "init-db")
        yield lambda *statements: databases.execute(known, *statements, database=name)


def at_work(peach: Peach) -> set[int]:
    """All processes but those that wait for the next run."""
    return {pid for pid in peach.marked() if name_of(pid) not in ("peach:waiting", "")}


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


@pytest.mark.fault("C7")
def test_a_client_that_deletes_or_cancels_a_row_ends_all_processes_of_the_run_in_5_seconds(
    peach: Peach, at: Any
) -> None:
    process = peach.start("consume", "execute", PEACHCTL_EXECUTE__SLOTS="2", PEACHCTL_EXECUTE__LEASE="30s")
    peach("submit", peach.file(DIAMOND))
    peach.until(lambda: [row["status"] for row in peach.rows()] == ["success"])
    without = peach.until(lambda: (found := at_work(peach)) and len(found) == 3 and found)
    file = peach.file(slow(peach, f"{peach.home}-daemon"))
    ids = [row["id"] for row in peach.json("submit", file, file)]
    peach.until(lambda: all(running(peach, id) for id in ids))
    assert len(at_work(peach) - without) >= 4, "two runs, and the daemon of each"
    began = time.monotonic()
    at(f"DELETE FROM queue WHERE id = {ids[0]}", f"UPDATE queue SET status = 2 WHERE id = {ids[1]}")
    peach.until(lambda: at_work(peach) == without)
    assert time.monotonic() - began < 5
    [(status, finished, output)] = peach.until(
        lambda: at("SELECT status, finished_date, output_file FROM queue WHERE id > 1 AND output_file <> ''")
    )
    assert status == 2 and finished.year > 2000
    assert (peach.data / "downloads" / "files" / output).exists()
    assert [row["id"] for row in peach.rows()] == [ids[1], 1]
    peach.until(lambda: not (peach.data / "workflow_temp" / f"workflow_{ids[0]}").exists())
    assert "cancelled" in peach.detail(ids[1])["reason"]
    process.terminate()
    assert process.wait(20) == 0


# Passwords


@pytest.mark.fault("D9")
@pytest.mark.parametrize("kind", databases.KINDS)
def test_the_password_of_the_database_is_in_nothing_that_is_said_or_shown(peach: Peach, kind: str) -> None:
    known = databases.server(kind)
    password = peach.home / "secret"
    password.touch(0o600)
    password.write_text(CANARY + "\n")
    go_on = peach.home / "go-on"
    said: list[str] = []
    with databases.database(kind) as name:
        user = f"CREATE USER {name} IDENTIFIED BY '{CANARY}'"
        databases.execute(known, user, f"GRANT ALL ON `{name}`.* TO {name}")
        peach.env |= {  # over the socket: the servers of the tests have no TLS
            "PEACHCTL_DATABASE__URL": f"mysql://{name}@/{name}?unix_socket={known['socket']}",
            "PEACHCTL_DATABASE__PASSWORD_FILE": str(password),
        }
        said.append(peach.inside("-v", "init-db"))
        process = peach.start("-v", "consume", "all")
        value = workflow(node("t", "Text", ["x"]), node("u", "Until", [str(go_on)], "t"))
        peach.inbox.mkdir(parents=True, exist_ok=True)
        peach.file(value).rename(peach.inbox / "one.json")
        peach.until(lambda: peach.rows() and running(peach, 1, "u"), 40)
        pids = peach.marked()
        assert process.pid in pids and len(pids) >= 4, "the consumer, its supervisor, the parent of runs, a run"
        for pid in pids:
            for shown in ("cmdline", "environ"):
                assert CANARY.encode() not in (Path("/proc") / str(pid) / shown).read_bytes()
        said += [peach.inside("-v", "queue", "list"), peach.inside("-v", "config", "show", "--sources")]
        go_on.touch()
        peach.until(lambda: [row["status"] for row in peach.rows()] == ["success"])
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        said.append(process.stdout.read())
        # Another one: it is refused at once, by name.
        password.write_text(f"{CANARY}!")
        for command in (("consume", "ingest"), ("consume", "execute"), ("queue", "list")):
            refused = peach.start("-v", *command)
            assert refused.wait(40) == 5 and refused.stdout is not None
            said.append(refused.stdout.read())
            stderr = (peach.home / f"stderr.{len(peach.running) - 1}").read_text()
            assert f"refuses the user '{name}'" in stderr and "Traceback" in stderr
        databases.execute(known, f"DROP USER {name}")
    assert [text for text in said if CANARY in text] == []
    seen = [path for path in peach.home.rglob("*") if path.is_file() and path != password]
    assert [path for path in seen if CANARY.encode() in path.read_bytes()] == []


# Commands


def test_every_command_of_the_queue_and_run_do_as_they_say(peach: Peach, at: Any) -> None:
    def status() -> list[tuple[int, str]]:
        return [(row["id"], row["status"]) for row in peach.rows()]

    failing = workflow(node("a", "Text", ["x"]), node("f", "Fail", ["on purpose"], "a"), user="Bob")
    good, bad = peach.file(DIAMOND), peach.file(failing, "bad.json")
    done = peach.json("run", good)
    assert (done["id"], done["status"], done["progress"]) == (1, "success", 100) and Path(done["output_path"]).exists()
    assert peach.json("run", bad, code=3)["nodes"][1]["error"]["message"] == "on purpose"
    assert "on purpose" in peach.inside("queue", "show", 2)
    assert peach.inside("queue", "logs", 1, "E") == '[E](info): "saved out.txt"\n'
    assert [row["id"] for row in peach.json("submit", good, good, bad, "--priority", 7)] == [3, 4, 5]
    cancelled = peach("queue", "cancel", 4, 5, 1, 9, code=4)
    assert cancelled.stdout.count("is cancelled (it was queued)") == 2
    assert "workflow 1 has ended already" in cancelled.stderr and "there is no workflow 9" in cancelled.stderr
    assert [row["status"] for row in peach.json("queue", "retry", 2, 5)] == ["queued"] * 2
    peach("queue", "retry", 1, code=4)
    peach("queue", "retry", 1, "--from-start")
    assert status() == [(5, "queued"), (4, "cancelled"), (3, "queued"), (2, "queued"), (1, "queued")]
    peach("consume", "execute", "--once")
    assert status() == [(5, "error"), (4, "cancelled"), (3, "success"), (2, "error"), (1, "success")]
    listed = peach.json("queue", "list", "--user", "BOB", "--status", "error", "--limit", 1)
    assert [(row["id"], row["priority"], row["attempt"]) for row in listed] == [(5, 7, 1)]
    assert [row["id"] for row in peach.json("queue", "list")] == [5, 4, 3, 2, 1]
    columns = at("SELECT id, user, status, progress, priority FROM queue WHERE status <> 4 ORDER BY id")
    assert columns == [(1, "ada@hospital", 3, 100, 1), (3, "ada@hospital", 3, 100, 7), (4, "ada@hospital", 2, 0, 7)]
