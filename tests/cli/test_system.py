"""`init-db`, `config`, global options and exit statuses as real processes."""

import json
import os

import pytest

from tests.conftest import DIAMOND, Peach
from tests.servers import databases


def test_init_db_creates_once_and_check_and_sql_change_nothing(peach: Peach) -> None:
    assert peach("init-db", "--check", code=1).stdout
    assert "CREATE TABLE" in peach.json("init-db", "--sql")["sql"].upper()
    assert not peach.database.exists()
    peach("init-db")
    assert peach.database.exists()
    assert peach.json("init-db", "--check")["steps"] == []
    peach("init-db")


@pytest.mark.parametrize("kind", databases.KINDS)
def test_init_db_on_a_server_enters_with_the_password_of_a_file_or_of_a_credential(peach: Peach, kind: str) -> None:
    known, secret = databases.server(kind), "pass-word of 'them'"
    with databases.database(kind) as name:
        databases.execute(
            known,
            f"""CREATE USER {name}@'%' IDENTIFIED BY "{secret}" """,
            f"GRANT ALL PRIVILEGES ON `{name}`.* TO {name}@'%'",
        )
        peach.env["PEACHCTL_DATABASE__URL"] = f"mysql://{name}@/{name}?unix_socket={known['socket']}"
        file = peach.home / "password"
        file.write_text(secret + "\n")
        file.chmod(0o600)
        peach.env["PEACHCTL_DATABASE__PASSWORD_FILE"] = str(file)
        assert "CREATE TABLE" in peach.inside("init-db", "--sql")
        assert "to do: apply sql/mysql/0001_queue.sql" in peach.inside("init-db", "--check")
        assert databases.execute(known, "SHOW TABLES", database=name) == []
        done = peach("init-db")
        assert "done: apply sql/mysql/0002_peach.sql" in done.stdout and not peach.database.exists()
        del peach.env["PEACHCTL_DATABASE__PASSWORD_FILE"]
        refused = peach("queue", "list", code=5)
        assert name in refused.stderr and len(refused.stderr.splitlines()) <= 2
        credential = peach.home / "credentials" / "peachctl-database-password"
        credential.parent.mkdir()
        credential.write_text(secret)
        credential.chmod(0o600)
        peach.env["CREDENTIALS_DIRECTORY"] = str(credential.parent)
        assert json.loads(peach.inside("init-db", "--check", "-o", "json"))["steps"] == []
        databases.execute(known, f"DROP USER {name}@'%'")


def test_bad_configuration_exits_2_with_file_key_what_is_expected_and_the_nearest_key(peach: Peach) -> None:
    file = peach.home / "peachctl.toml"
    file.write_text('[execute]\nslotz = 3\nscheduler = "proceses"\ndrain = "soon"\n')
    done = peach("config", "check", code=2)
    for said in ("peachctl.toml", "execute.slotz", "execute.slots", "proceses", "processes", "execute.drain"):
        assert said in done.stderr, said
    error = json.loads(peach("queue", "list", "-o", "json", code=2).stderr)["error"]
    assert error["code"] == 2
    file.write_text("[execute\n")
    assert "peachctl.toml:1: is no TOML" in peach("config", "check", code=2).stderr
    file.unlink()
    assert "PEACHCTL_EXECUTE__SLOTZ" in peach("config", "check", code=2, PEACHCTL_EXECUTE__SLOTZ="3").stderr
    assert "nowhere.toml" in peach("--config", "nowhere.toml", "config", "check", code=2).stderr


def test_config_show_names_the_source_of_each_value(peach: Peach) -> None:
    value = peach.json("config", "show", "--sources")
    assert value["folders.data"] == {"value": str(peach.data), "source": "$PEACHCTL_FOLDERS__DATA"}
    assert value["execute.max_attempts"] == {"value": 3, "source": "default"}


@pytest.mark.fault("D10")
def test_config_init_writes_a_private_file_that_loads_and_never_overwrites(peach: Peach) -> None:
    peach("config", "init")
    file = peach.home / "peachctl.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    peach("config", "check")
    assert json.loads(peach.inside("config", "init", "--out", "-", "-o", "json")) == {
        "file": None,
        "text": file.read_text(),
    }
    assert "is there already" in peach("config", "init", code=1).stderr


def test_what_this_version_cannot_do_is_refused_not_ignored(peach: Peach) -> None:
    for key, value in (
        ("PEACHCTL_EXECUTE__SCHEDULER", "distributed"),
        ("PEACHCTL_EXECUTE__MEMORY_LIMIT", "1GiB"),
    ):
        assert "not in this version yet" in peach("consume", "execute", "--once", code=2, **{key: value}).stderr


def test_commands_work_on_a_database_server(peach: Peach) -> None:
    kind = databases.KINDS[0]
    with databases.database(kind) as name:
        at = {"PEACHCTL_DATABASE__URL": f"mysql://root@127.0.0.1:{databases.server(kind)['port']}/{name}"}
        missing = peach("queue", "list", code=2, **at).stderr
        assert "peachctl init-db" in missing and len(missing.splitlines()) <= 2
        peach("init-db", **at)
        peach("submit", peach.file(DIAMOND), **at)
        peach("consume", "execute", "--once", **at)
        peach("run", peach.file(DIAMOND), **at)
        listed = json.loads(peach("queue", "list", "-o", "json", **at).stdout)
        assert [row["status"] for row in listed] == ["success", "success"]
        assert not peach.database.exists()


def test_a_database_that_cannot_be_opened_exits_5_with_one_line(peach: Peach) -> None:
    peach.data.mkdir()
    peach.database.write_bytes(b"this is no database, and was never one" * 100)
    done = peach("queue", "list", code=5)
    assert str(peach.database) in done.stderr and len(done.stderr.splitlines()) <= 2


def test_a_data_folder_that_cannot_be_written_exits_2(peach: Peach) -> None:
    peach.data.write_text("a file is in the way")
    assert str(peach.data) in peach("run", peach.file(DIAMOND), code=2).stderr


def test_usage_mistakes_exit_2(peach: Peach) -> None:
    peach("queue", "list", "--statsu", "x", code=2)
    peach("queue", "list", "--status", "finished", code=2)
    peach("run", peach.file(DIAMOND), "--scheduler", "many", code=2)
    peach("nonsense", code=2)


def test_colours_follow_the_options_and_the_environment(peach: Peach) -> None:
    peach("submit", peach.file(DIAMOND))
    assert "\x1b[" not in peach("queue", "list").stdout
    assert "\x1b[" in peach("--color", "always", "queue", "list", NO_COLOR="").stdout
    assert "\x1b[" not in peach("--color", "never", "queue", "list", NO_COLOR="", FORCE_COLOR="1").stdout


def test_output_into_a_closed_pipe_is_no_error(peach: Peach) -> None:
    import subprocess
    import sys

    for _ in range(3):
        peach("submit", peach.file(DIAMOND))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "peachctl", "queue", "list", "-o", "jsonl"],
        env=peach.environment(),
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr
