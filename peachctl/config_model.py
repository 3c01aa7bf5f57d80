"""The keys of `peachctl.toml`: type, default and what is expected of each. Imported when a configuration is loaded.

`read` is what turns the raw value into the model's (config_values); without one the value is taken as TOML has it.
None as a default means "none" or, where `config` says so, a default that depends on other values (folders).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from peachctl import config_values as values


def _of(expected: str, read: Callable[..., Any] | None = None, **limits: Any) -> Meta:
    return Meta(description=expected, extra={"read": read}, **limits)


_DURATION = 'a duration (seconds, or a text such as "30s", "10m", "2h", "30d")'
_SIZE = 'a size (bytes, or a text such as "512KiB", "1MiB", "2GiB")'
_PATH = "a path"

Path_ = Annotated[Path, _of(_PATH, values.path)]
Word = Annotated[str, _of("a text that is not empty", min_length=1, max_length=249, pattern=r"^[^\x00-\x1f\x7f]+$")]
Topic = Annotated[
    str,
    _of("a topic name (letters, digits, '.', '_', '-', at most 249)", pattern=r"^[A-Za-z0-9._-]{1,249}$"),
]
Flag = Annotated[bool, _of("true or false")]

Scheduler = Literal["processes", "threads", "sync", "distributed"]
Isolation = Literal["warm", "fresh"]


class Folders(Struct, frozen=True, kw_only=True):
    data: Path_
    queue: Path_
    inbox: Path_
    workflow_temp: Path_
    downloads: Path_
    download_workflows: Path_
    download_files: Path_
    hub: Path_


class Database(Struct, frozen=True, kw_only=True):
    url: Annotated[
        str,
        _of(
            "sqlite:////ABSOLUTE/PATH, mysql://USER@HOST:PORT/NAME or mysql://USER@/NAME?unix_socket=PATH",
            values.database_url,
        ),
    ]
    password_file: Path_ | None = None
    queue_table: Annotated[str, _of("a table name (letters, digits, '_', at most 64)", values.table)] = "queue"
    tls_ca: Path_ | None = None
    tls_cert: Path_ | None = None
    tls_key: Path_ | None = None
    tls_verify: Flag = True

    @property
    def parsed(self) -> values.Sqlite | values.Mysql:
        return values.parse_database_url(self.url)


class Kafka(Struct, frozen=True, kw_only=True):
    bootstrap_servers: Annotated[tuple[str, ...], _of('a list of "HOST:PORT"', values.servers)] = ()
    topic_execute: Topic = "Workflow_ExecuteWorkflow"
    topic_processed: Topic = "Workflow_WorkflowProcessed"
    topic_services: Topic = "Service_serviceListUpdated"
    topic_dead: Topic = "Workflow_DeadLetter"
    group_ingest: Word = "peachctl-ingest"
    group_execute: Word = "peachctl-execute"
    start: Annotated[str, _of('"earliest", "latest" or a time (ISO 8601)', values.start)] = "earliest"
    session_timeout: Annotated[float, _of(f"{_DURATION}, at least 1 s", values.duration, ge=1)] = 10.0
    security_protocol: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"],
        _of('"plaintext", "ssl", "sasl_plaintext" or "sasl_ssl"', values.word),
    ] = "plaintext"
    sasl_mechanism: (
        Annotated[
            Literal["plain", "scram-sha-256", "scram-sha-512", "gssapi"],
            _of('"plain", "scram-sha-256", "scram-sha-512" or "gssapi"', values.word),
        ]
        | None
    ) = None
    sasl_username: Word | None = None
    sasl_password_file: Path_ | None = None
    tls_ca: Path_ | None = None
    tls_cert: Path_ | None = None
    tls_key: Path_ | None = None
    tls_verify: Flag = True


class Execute(Struct, frozen=True, kw_only=True):
    slots: Annotated[int, _of("a whole number of at least 1", ge=1, le=10_000)]
    scheduler: Annotated[Scheduler, _of('"processes", "threads", "sync" or "distributed"', values.word)] = "processes"
    isolation: Annotated[Isolation, _of('"warm" or "fresh"', values.word)] = "warm"
    drain: Annotated[float, _of(_DURATION, values.duration)] = 30.0
    notify: Annotated[tuple[str, ...], _of("a command (a text, or a list of texts)", values.command)] | None = None
    notify_on: Annotated[
        tuple[Literal["error", "success", "cancelled"], ...],
        _of('a list of "error", "success", "cancelled"', values.words),
    ] = ("error",)
    dask_address: (
        Annotated[
            str,
            _of('the address of a dask scheduler, such as "tcp://HOST:8786"', pattern=r"^[a-z]+://[^\s@]+$"),
        ]
        | None
    ) = None
    time_limit: Annotated[float, _of(f"{_DURATION}, more than 0", values.duration, gt=0)] | None = None
    memory_limit: Annotated[int, _of(f"{_SIZE}, at least 16 MiB", values.size, ge=16 << 20)] | None = None
    max_attempts: Annotated[int, _of("a whole number of at least 1", ge=1, le=1_000_000)] = 3
    # Renewed each second, and given up for lost after two thirds: less than 3 s leaves no room for one late renewal.
    lease: Annotated[float, _of(f"{_DURATION}, at least 3 s", values.duration, ge=3)] = 30.0
    per_user: Annotated[int, _of("a whole number of at least 1", ge=1, le=1_000_000)] | None = None


class Storage(Struct, frozen=True, kw_only=True):
    folders: Annotated[tuple[Path, ...], _of("a list of paths", values.paths)]
    xnat_servers: Annotated[
        tuple[str, ...], _of('a list of servers such as "https://xnat.example.org"', values.web_servers)
    ] = ()
    schemes: Annotated[tuple[str, ...], _of('a list of schemes such as "file", "https", "s3"', values.words)] = (
        "file",
        "https",
    )
    hosts: Annotated[tuple[str, ...], _of("a list of host names", values.words)] = ()
    file_bytes: Annotated[int, _of(f"{_SIZE}, at least 1", values.size, ge=1)] = 64 << 30
    file_time: Annotated[float, _of(f"{_DURATION}, more than 0", values.duration, gt=0)] = 6 * 3600.0


class Services(Struct, frozen=True, kw_only=True):
    publish_every: Annotated[float, _of(f"{_DURATION}, at least 1 s, or 0 for never", values.period)] = 60.0
    ignore: Annotated[tuple[str, ...], _of("a list of folder names", values.words)] = ()


class Limits(Struct, frozen=True, kw_only=True):
    message_bytes: Annotated[int, _of(f"{_SIZE}, from 1 KiB to 1 GiB", values.size, ge=1 << 10, le=1 << 30)] = 1 << 20
    nodes: Annotated[int, _of("a whole number of at least 1", ge=1, le=10_000_000)] = 20_000
    free_space: Annotated[int, _of(_SIZE, values.size, ge=0)] = 100 << 20


class Config(Struct, frozen=True, kw_only=True):
    """A whole configuration. Paths are absolute, durations seconds, sizes bytes.

    file: the file that was read, None when there is none. sources: for each `section.key` where its value comes from:
    `default`, the path of the file, or `$VARIABLE`.
    """

    folders: Folders
    database: Database
    kafka: Kafka
    execute: Execute
    storage: Storage
    services: Services
    limits: Limits
    file: Path | None = None
    sources: dict[str, str] = field(default_factory=dict)


SECTIONS: dict[str, type[Struct]] = {
    "folders": Folders,
    "database": Database,
    "kafka": Kafka,
    "execute": Execute,
    "storage": Storage,
    "services": Services,
    "limits": Limits,
}
