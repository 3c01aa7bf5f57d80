"""The configuration: where it is looked for, what wins, and that every mistake is named at once."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from peachctl import config as configuration
from peachctl import config_values as values
from peachctl.config import Config, ConfigMistakes, Mysql, Sqlite, load
from peachctl.config_model import SECTIONS
from peachctl.errors import ConfigError, Exit

EXAMPLE = Path(__file__).parent.parent / "peachctl.toml.example"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working folder without any configuration."""
    for name in list(os.environ):
        if name.startswith(("PEACHCTL_", "XDG_")):
            monkeypatch.delenv(name)
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return tmp_path


def written(text: str, name: str = "peachctl.toml") -> Path:
    path = Path.cwd() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistakes(text: str = "", **environ: str) -> list[str]:
    """The lines of the error, without the file's name."""
    path = written(text)
    with pytest.raises(ConfigMistakes) as caught:
        load(path, environ)
    assert caught.value.exit is Exit.USAGE
    assert caught.value.message == "\n".join(map(str, caught.value.mistakes))
    return [str(one).replace(str(path), "FILE") for one in caught.value.mistakes]


def test_no_configuration_at_all_gives_the_defaults_of_the_documentation(alone: Path) -> None:
    config = load(environ={})
    data = alone / "home/.local/share/peachctl"
    assert config.file is None
    assert set(config.sources.values()) == {"default"}
    assert config.folders.data == data
    assert (config.folders.queue, config.folders.inbox) == (data / "queue", data / "inbox")
    assert config.folders.download_files == config.folders.downloads / "files"
    assert config.folders.download_workflows == config.folders.downloads / "workflows"
    assert isinstance(config.database.parsed, Sqlite)
    assert config.database.parsed.path.parent == data
    assert config.kafka.bootstrap_servers == ()
    execute = config.execute
    assert (execute.scheduler, execute.isolation, execute.max_attempts) == ("processes", "warm", 3)
    assert (execute.drain, execute.lease, execute.time_limit, execute.memory_limit) == (30.0, 30.0, None, None)
    assert execute.slots == len(os.sched_getaffinity(0))
    assert config.storage.folders == (data,)
    limits = config.limits
    assert (limits.message_bytes, limits.nodes, limits.free_space) == (1 << 20, 20_000, 100 << 20)


def test_the_default_hub_is_the_one_that_ships() -> None:
    assert (load(environ={}).folders.hub.parent / "examples.toml").is_file()


def test_the_first_place_that_has_a_file_wins(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        (alone / "system/peachctl/peachctl.toml", 1),
        (alone / "home/.config/peachctl/peachctl.toml", 2),
        (alone / "here/peachctl.toml", 3),
        (alone / "named.toml", 4),
        (alone / "given.toml", 5),
    ]
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(alone / "system"))
    for path, slots in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"execute.slots = {slots}\n")
        environ = {"PEACHCTL_CONFIG": str(path)} if slots >= 4 else {}
        config = load(path if slots == 5 else None, environ)
        assert (config.execute.slots, config.file) == (slots, path)
        assert config.sources["execute.slots"] == str(path)


@pytest.mark.parametrize("given", [True, False])
def test_a_file_that_was_named_and_is_not_there_is_a_mistake(given: bool) -> None:
    path = Path.cwd() / "nowhere.toml"
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load(path if given else None, {} if given else {"PEACHCTL_CONFIG": "nowhere.toml"})


def test_a_file_that_everybody_can_write_is_not_taken_just_because_it_lies_here() -> None:
    path = written("execute.slots = 2\n")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="everybody"):
        load(environ={})
    assert load(path, {}).execute.slots == 2


def test_the_environment_wins_over_the_file_and_is_named_as_source() -> None:
    path = written('[execute]\nslots = 2\ntime_limit = "1h"\n[services]\nignore = ["a"]\n')
    environ = {
        "PEACHCTL_EXECUTE__SLOTS": "7",
        "PEACHCTL_EXECUTE__TIME_LIMIT": "",
        "PEACHCTL_SERVICES__IGNORE": "b, c",
        "PEACHCTL_STORAGE__SCHEMES": '["file", "s3"]',
        "PEACHCTL_KAFKA__TLS_VERIFY": "false",
        "PEACHCTL_LIMITS__FREE_SPACE": "0",
        "PEACHCTL_CONFIG": "ignored, for a file was given",
        "PEACHCTL_FAILPOINT": "x",
    }
    config = load(path, environ)
    assert config.execute.slots == 7
    assert config.execute.time_limit is None
    assert config.services.ignore == ("b", "c")
    assert config.storage.schemes == ("file", "s3")
    assert config.kafka.tls_verify is False
    assert config.limits.free_space == 0
    assert config.sources["execute.slots"] == "$PEACHCTL_EXECUTE__SLOTS"
    assert config.sources["execute.drain"] == "default"


def test_services_are_published_each_second_at_the_most_or_never() -> None:
    assert load(written("[services]\npublish_every = 0\n"), {}).services.publish_every == 0
    assert load(written("[services]\npublish_every = '1s'\n"), {}).services.publish_every == 1
    [line] = mistakes("[services]\npublish_every = '10ms'\n")
    assert line.endswith("at least 1 s, or 0 for never, found '10ms'")


def test_paths_start_at_the_files_folder_or_the_working_folder_and_know_the_home(alone: Path) -> None:
    path = written('[folders]\ndata = "data"\nqueue = "../q"\nhub = "~/hub"\n', "sub/conf.toml")
    folders = load(path, {"PEACHCTL_FOLDERS__INBOX": "in"}).folders
    here = alone / "here"
    assert folders.data == here / "sub/data"
    assert folders.queue == here / "q"
    assert folders.hub == alone / "home/hub"
    assert folders.inbox == here / "in"
    assert folders.workflow_temp == here / "sub/data/workflow_temp"


def test_all_mistakes_are_named_at_once_with_file_key_expectation_and_nearest() -> None:
    found = mistakes(
        "colour = 1\n[execute]\nslotz = 3\nscheduler = 'thread'\ndrain = 'soon'\nlease = '1s'\nslots = true\n"
        "[kafak]\nx = 1\n[limits]\nnodes = '9'\n",
        PEACHCTL_LIMITS__MESSAGE_BYTES="big",
        PEACHCTL_EXECUTE__SLOTTS="1",
    )
    assert found == [
        "FILE: colour: unknown key",
        "FILE: execute.slotz: unknown key; the nearest is execute.slots",
        "FILE: kafak: unknown section; the nearest is kafka",
        "$PEACHCTL_EXECUTE__SLOTTS: unknown variable; the nearest is PEACHCTL_EXECUTE__SLOTS",
        "FILE: execute.slots: expected a whole number of at least 1, found true",
        'FILE: execute.scheduler: expected "processes", "threads", "sync" or "distributed", found \'thread\'',
        'FILE: execute.drain: expected a duration (seconds, or a text such as "30s", "10m", "2h", "30d"),'
        " found 'soon'",
        'FILE: execute.lease: expected a duration (seconds, or a text such as "30s", "10m", "2h", "30d"), at least 3 s,'
        " found '1s'",
        '$PEACHCTL_LIMITS__MESSAGE_BYTES: limits.message_bytes: expected a size (bytes, or a text such as "512KiB",'
        ' "1MiB", "2GiB"), from 1 KiB to 1 GiB, found \'big\'',
        "FILE: limits.nodes: expected a whole number of at least 1, found '9'",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("slots = 3\n", "FILE: slots: unknown key; the nearest is execute.slots"),
        ("execute = 3\n", "FILE: execute: expected a section ([execute]), found 3"),
        ("[folders.data]\nx = 1\n", "FILE: folders.data: expected a path, found a section"),
        ("[folders]\ndata = ''\n", "FILE: folders.data: expected a path, found ''"),
        ('[folders]\ndata = "a\\u0000b"\n', "FILE: folders.data: expected a path (it holds a control character)"),
        ("[folders]\ndata = '/x'\ninbox = '/x'\n", "FILE: folders.inbox: is the same folder as folders.data"),
        ("[storage]\nschemes = 'file'\n", None),
        (
            "[storage]\nschemes = [1]\n",
            'FILE: storage.schemes: expected a list of schemes such as "file", "https", "s3", found a list',
        ),
        (
            "[database]\nqueue_table = 'queue; DROP'\n",
            "FILE: database.queue_table: expected a table name (letters, digits, '_', at most 64), found 'queue; DROP'",
        ),
        ("[kafka]\ntls_key = '/k'\n", "FILE: kafka.tls_key: needs kafka.tls_cert as well"),
        (
            "[kafka]\nsecurity_protocol = 'SASL_SSL'\n",
            "FILE: kafka.security_protocol: needs kafka.sasl_mechanism as well",
        ),
        (
            "[kafka]\nbootstrap_servers = ['a:b']\n",
            'FILE: kafka.bootstrap_servers: expected a list of "HOST:PORT"'
            " ('a:b': the port is a number from 1 to 65535)",
        ),
        (
            "[kafka]\nstart = 'yesterday'\n",
            'FILE: kafka.start: expected "earliest", "latest" or a time (ISO 8601)'
            " (Invalid isoformat string: 'yesterday')",
        ),
        (
            "[execute]\nnotify_on = ['errors']\n",
            'FILE: execute.notify_on: expected a list of "error", "success", "cancelled", found a list',
        ),
    ],
)
def test_a_wrong_value_says_what_is_expected(text: str, line: str | None) -> None:
    if line is None:  # one word is a list of one, in the file as in the environment
        assert load(written(text), {}).storage.schemes == ("file",)
        return
    assert mistakes(text) == [line]


def test_syntax_errors_of_toml_name_the_line() -> None:
    assert mistakes("[execute]\nslots = \n")[0].startswith("FILE:2: is no TOML: ")
    path = Path.cwd() / "latin.toml"
    path.write_bytes(b"# gr\xfc\xdfe\n")
    with pytest.raises(ConfigMistakes, match=r"latin\.toml:1: is not UTF-8"):
        load(path, {})
    with pytest.raises(ConfigMistakes, match="cannot be read"):
        load(Path.cwd(), {})


def test_a_windows_editors_byte_order_mark_does_no_harm() -> None:
    path = Path.cwd() / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf[execute]\r\nslots = 2\r\n")
    assert load(path, {}).execute.slots == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [("30s", 30.0), ("10m", 600.0), ("2h", 7200.0), ("30d", 2_592_000.0), ("1.5s", 1.5), (5, 5.0), ("250ms", 0.25),
     ("7", 7.0), (0, 0.0)],
)  # fmt: skip
def test_durations_become_seconds(given: object, expected: float) -> None:
    assert values.duration(given) == pytest.approx(expected)


@pytest.mark.parametrize("given", ["", "s", "-1s", "1w", "1 h 2 m", "1e3", True, -1, None, float("nan"), "٣s", [1]])
def test_what_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(ValueError):
        values.duration(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("1MiB", 1 << 20), ("1mib", 1 << 20), ("512KiB", 512 << 10), ("1.5GB", 1_500_000_000), ("10 B", 10), (12, 12),
     ("12", 12), ("9007199254740993", 9007199254740993)],
)  # fmt: skip
def test_sizes_become_bytes(given: object, expected: int) -> None:
    assert values.size(given) == expected


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("sqlite:////var/lib/peach.db", Sqlite(Path("/var/lib/peach.db"))),
        ("sqlite:////a%20b/%3F.db", Sqlite(Path("/a b/?.db"))),
        ("mysql://peach@db:3307/peach", Mysql("peach", "db", 3307, "peach")),
        ("mysql://peach@db/peach", Mysql("peach", "db", 3306, "peach")),
        ("mysql://ada%40x@[::1]:1/p", Mysql("ada@x", "[::1]", 1, "p")),
        ("mysql://p@/peach?unix_socket=/run/m.sock", Mysql("p", "", 0, "peach", Path("/run/m.sock"))),
    ],
)
def test_database_urls_are_read_and_written_alike(url: str, parsed: Sqlite | Mysql) -> None:
    assert values.parse_database_url(url) == parsed
    assert values.parse_database_url(str(parsed)) == parsed
    assert load(environ={"PEACHCTL_DATABASE__URL": url}).database.parsed == parsed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///relative.db", "absolute"),
        ("postgres://a@b/c", "unknown kind"),
        ("mysql://db/peach", "user is missing"),
        ("mysql://u@db", "name of the database"),
        ("mysql://u@/n", "is missing"),
        ("mysql://u@h:99999/n", "port"),
        ("mysql://u@h/n?socket=/x", "unix_socket"),
        ("mysql://u@h/n?unix_socket=/x", "both"),
        ("mysql://u@h/n#1", "%23"),
        ("peach.db", "no kind of database"),
    ],
)
def test_a_database_url_that_cannot_be_used_says_why(url: str, says: str) -> None:
    [line] = mistakes(f"[database]\nurl = '{url}'\n")
    assert line.startswith("FILE: database.url: expected sqlite:////ABSOLUTE/PATH, mysql://")
    assert says in line


@pytest.mark.parametrize(
    "url", ["mysql://u:s3cr3t@h/n", "mysql://u:s3cr3t@h:x/n", "mysql://u:s3cr3t@/n", "s3cr3t@x://"]
)
def test_a_password_in_a_url_is_refused_and_never_shown(url: str) -> None:
    lines = mistakes(f"[database]\nurl = '{url}'\n[storage]\nxnat_servers = ['https://ada:s3cr3t@xnat']\n")
    assert len(lines) == 2
    assert "s3cr3t" not in "".join(lines)
    assert "password_file" in mistakes("[database]\nurl = 'mysql://u:s3cr3t@h/n'\n")[0]


def password_of(path: Path) -> str | None:
    config = load(environ={"PEACHCTL_DATABASE__PASSWORD_FILE": str(path)})
    return configuration.database_password(config, {})


@pytest.mark.fault("D10")
def test_a_password_comes_from_a_file_that_only_its_owner_can_read() -> None:
    path = written("s3cr3t ü\n", "password")
    path.chmod(0o600)
    assert password_of(path) == "s3cr3t ü"
    for mode in (0o640, 0o644, 0o602):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="by others"):
            password_of(path)


@pytest.mark.fault("D10")
def test_a_password_file_that_is_a_link_a_pipe_missing_or_no_password_is_refused() -> None:
    path = written("s3cr3t\n", "password")
    path.chmod(0o600)
    link, pipe, two, empty = (Path.cwd() / name for name in ("link", "pipe", "two", "empty"))
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    for name, text in ((two, "a\nb\n"), (empty, "\n")):
        name.write_text(text)
        name.chmod(0o600)
    for bad, says in (
        (link, "link"),
        (pipe, "regular"),
        (two, "one line"),
        (empty, "one line"),
        (Path("/no"), "No such"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            password_of(bad)
        assert "database.password_file" in caught.value.message
        assert "s3cr3t" not in caught.value.message


def test_a_systemd_credential_is_taken_where_no_file_is_named() -> None:
    credential = written("fr0m systemd", "peachctl-database-password")
    credential.chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(Path.cwd())}
    assert configuration.database_password(load(environ={}), environ) == "fr0m systemd"
    assert configuration.kafka_password(load(environ={}), environ) is None
    assert configuration.database_password(load(environ={}), {}) is None


def test_what_is_shown_is_json_and_masks_passwords() -> None:
    config = load(
        environ={"PEACHCTL_EXECUTE__NOTIFY": "tell https://ada:s3cr3t@host/x", "PEACHCTL_FOLDERS__DATA": "/d"}
    )
    shown = configuration.show(config)
    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown
    assert shown["folders"]["queue"] == "/d/queue"
    assert "s3cr3t" not in repr(shown)
    assert "s3cr3t" in repr(configuration.show(config, reveal=True))
    assert {f"{section}.{key}" for section, keys in shown.items() for key in keys} == config.sources.keys()


def test_seconds_of_an_option() -> None:
    assert configuration.seconds("10m") == 600
    with pytest.raises(ConfigError, match="'soon' is no duration"):
        configuration.seconds("soon")


def test_importing_the_configuration_loads_no_library() -> None:
    code = (
        "import sys; from peachctl import config; from peachctl.config import load;"
        "print(sorted({'msgspec', 'tomllib', 'difflib', 'platformdirs', 'fissix', 'typer'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The example file


def example_settings() -> dict[str, tuple[str, str]]:
    """`section.key` -> its line, and the comment that it stands under."""
    found: dict[str, tuple[str, str]] = {}
    section, comment = "", ""
    for line in EXAMPLE.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif match := re.match(r"#(\w+) = ", line):
            found[f"{section}.{match[1]}"] = (line[1:], comment)
        elif line.startswith("#"):
            comment += line[1:]
        if not line:
            comment = ""
    return found


def default(config: Config, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def test_the_example_names_every_key_and_no_other() -> None:
    known = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.__struct_fields__}
    assert example_settings().keys() == known


def test_the_example_as_it_is_sets_nothing() -> None:
    assert set(load(EXAMPLE, {}).sources.values()) == {"default"}


def test_the_example_uncommented_loads_and_its_values_are_the_defaults(alone: Path) -> None:
    text = re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE.read_text())
    given, defaults = load(written(text, "all.toml"), {}), load(environ={})
    for key, (_, comment) in example_settings().items():
        if "None by default" in comment:
            assert default(defaults, key) in (None, ()), key
            assert default(given, key) not in (None, ()), key
        elif key == "database.url":
            assert defaults.database.url.removeprefix(f"sqlite:///{alone}/home") in given.database.url
        elif key not in {"execute.slots", "folders.hub"}:  # cores, and where peachctl is installed
            assert default(given, key) == default(defaults, key), key


def test_the_text_of_config_init_is_the_example() -> None:
    assert configuration.example_text() == EXAMPLE.read_text()


# The files of 2017

BACKEND = """
library_path = "/opt/peach"
schemas = {"workflow": "/opt/peach/PeachShared/schemas/workflow.avsc"}
queue_path = "/var/peach/queue"
service_hub_path = "/var/peach/hub"
servers = {"kafka": "kafka1:9092, kafka2"}
mysql_info = {"host": "db", "user": "peach", "password": "s3cr3t", "database": "peach"}
events = {"workflow_execute-workflow": "Exec", "Service_serviceListUpdated": "List",
          "workflow_workflow-processed": "Done"}
table_names = {"queue": "jobs"}
computed = open("/tmp/never-read").read()

def get_queue_path():
    return queue_path
"""
SHARED = """
temp_locations = {"workflow_temp": "temp/workflow_temp", "download_workflow_temp": "/d/w",
                  "download_files_temp": "/d/f"}
servers = {"kafka": "<kafka_server>"}
events = {"serviceList": "List", "sendWorkflow": "Worfklow"}
"""


def test_the_files_of_2017_become_a_configuration_without_the_password() -> None:
    shared, backend = written(SHARED, "peachSharedConfig.py"), written(BACKEND, "peachBackendConfig.py")
    text = configuration.from_2017([shared, backend])
    assert "s3cr3t" not in text
    config = load(written(text, "made.toml"), {})
    assert config.folders.queue == Path("/var/peach/queue")
    assert config.folders.hub == Path("/var/peach/hub")
    assert config.folders.workflow_temp == Path.cwd() / "temp/workflow_temp"
    assert (config.folders.download_workflows, config.folders.download_files) == (Path("/d/w"), Path("/d/f"))
    assert config.kafka.bootstrap_servers == ("kafka1:9092", "kafka2:9092")
    kafka = config.kafka
    assert (kafka.topic_execute, kafka.topic_services, kafka.topic_processed) == ("Exec", "List", "Done")
    assert config.database.parsed == Mysql("peach", "db", 3306, "peach")
    assert config.database.queue_table == "jobs"
    notes = [line for line in text.splitlines() if line.startswith("# - ")]
    for part in ("password_file", "computed is computed", "Worfklow", "<kafka_server>", "kafka.start", "relative path"):
        assert [note for note in notes if part in note], part
    assert tomllib.loads(text)["database"] == {"url": "mysql://peach@db:3306/peach", "queue_table": "jobs"}


def test_a_file_of_2017_is_never_executed_and_hostile_texts_stay_texts() -> None:
    marker = Path.cwd() / "ran"
    old = written(
        f"import os\nos.mkdir({str(marker)!r})\nqueue_path = '/q\"\\n[execute]\\nslots = 9'\n"
        "service_hub_path = '/h\"]#'\ntable_names = {'queue': 'a; DROP TABLE b'}\n",
        "old.py",
    )
    text = configuration.from_2017([old])
    assert not marker.exists()
    raw = tomllib.loads(text)
    assert raw == {"folders": {"hub": '/h"]#'}, "database": {}}
    assert "database.queue_table: expected a table name" in text
    assert "folders.queue: expected a path" in text


def test_a_file_of_2017_in_python_2_is_read_too() -> None:
    old = written('print "config"\nqueue_path = "/q"\n', "old.py")
    assert tomllib.loads(configuration.from_2017([old])) == {"folders": {"queue": "/q"}}


def test_a_file_that_says_nothing_of_peach_is_refused() -> None:
    for text in ("x = 1\n", "this is no python\n"):
        with pytest.raises(Exception, match="old.py") as caught:
            configuration.from_2017([written(text, "old.py")])
        assert hasattr(caught.value, "hint")
    with pytest.raises(ConfigError, match="No such file"):
        configuration.from_2017([Path("nowhere.py")])
