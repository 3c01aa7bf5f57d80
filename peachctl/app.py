"""The only place that knows all adapters: a configuration becomes an opened store, bus and runner.

Adapters are imported inside the functions, so that a command loads what it uses and no more.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peachctl.config import Config, Mysql, Sqlite
from peachctl.errors import ConfigError
from peachctl.store import Executor, Store

if TYPE_CHECKING:
    from peachctl.announce import Announcer
    from peachctl.bus import Bus
    from peachctl.bus.folder import FolderBus
    from peachctl.bus.kafka_events import KafkaEvents
    from peachctl.bus.kafka_send import KafkaSender
    from peachctl.bus.kafka_topics import Topic
    from peachctl.execute import ExecuteLoop, Observer
    from peachctl.hub import Hub
    from peachctl.ingest import Ingest
    from peachctl.letters import Letters
    from peachctl.options import Options
    from peachctl.runner import Runner
    from peachctl.stop import Stop
    from peachctl.store.mysql_connection import Server
    from peachctl.store.schema import Plan
    from peachctl.wire import Limits


def host() -> str:
    """The name of this host, as rows and origins carry it."""
    return socket.gethostname()


def open_store(config: Config, *, executes: bool = False) -> Store:
    """The configured database. Embedded, it is created when it is not there. Raises UnreachableError, ConfigError.

    executes: an executor has leases to renew: it waits for a lock, or for a server, for a fifth of a lease at most, so
    that it can try again, and again, before its supervisor ends all runs.
    """
    database, table = config.database.parsed, config.database.queue_table
    patience = config.execute.lease / 5 if executes else 30.0
    if isinstance(database, Sqlite):
        from peachctl.store import sqlite

        return sqlite.open_store(database.path, table, min(30.0, patience))
    from peachctl.store import mysql

    return mysql.open_store(_server(config, database), table, min(mysql.PATIENCE, patience))


def _server(config: Config, url: Mysql) -> "Server":
    """The configured server, with its password. Raises ConfigError."""
    from peachctl.config import database_password
    from peachctl.store.mysql_connection import Server

    asked = config.database
    return Server(url, database_password(config), asked.tls_ca, asked.tls_cert, asked.tls_key, asked.tls_verify)


def schema_plan(config: Config) -> "Plan":
    """What `init-db` would do; changes nothing."""
    database, table = config.database.parsed, config.database.queue_table
    if isinstance(database, Sqlite):
        from peachctl.store import sqlite

        return sqlite.plan(database.path, table)
    from peachctl.store import mysql_schema

    return mysql_schema.plan(_server(config, database), table)


def migrate(config: Config) -> "Plan":
    """What `init-db` does: creates, upgrades or adopts. Returns what was done."""
    database, table = config.database.parsed, config.database.queue_table
    make_folders(config)
    if isinstance(database, Sqlite):
        from peachctl.store import sqlite

        return sqlite.migrate(database.path, table)
    from peachctl.store import mysql_schema

    return mysql_schema.migrate(_server(config, database), table)


def kafka_topics(config: Config) -> "list[Topic]":
    """The topics that the configuration names, as the broker has them. Raises UnreachableError, RefusedError."""
    from peachctl.bus import kafka_topics

    return kafka_topics.topics(config)


def make_topics(config: Config, partitions: int, replicas: int | None) -> "list[Topic]":
    """What `init-kafka` does: makes the topics that are missing, and returns those."""
    from peachctl.bus import kafka_topics

    return kafka_topics.create(config, partitions, replicas)


def accept_new(config: Config, topic: str) -> bool:
    """What `init-kafka --accept-new` does. Returns whether the topic was another one than before."""
    from peachctl.bus import kafka_topics

    with closing(open_store(config)) as store:
        return kafka_topics.accept_new(config, store, topic)


def refuse_unready(config: Config) -> None:
    """Settings that this version cannot keep are refused, not ignored. Raises ConfigError."""
    unready = {
        "execute.scheduler = distributed": config.execute.scheduler == "distributed",
        "execute.memory_limit": config.execute.memory_limit is not None,
        "execute.notify": config.execute.notify is not None,
    }
    for key, used in unready.items():
        if used:
            raise ConfigError(f"{key} is not in this version yet", "leave it out of the configuration")


def limits(config: Config) -> "Limits":
    """How large a message may be."""
    from peachctl.wire import Limits

    return Limits(message_bytes=config.limits.message_bytes, nodes=config.limits.nodes)


def on_kafka(config: Config) -> bool:
    """Whether workflows come over Kafka, and not by the inbox folder."""
    return bool(config.kafka.bootstrap_servers)


def open_bus(config: Config, store: Store) -> "Bus":
    """What `consume ingest` reads: Kafka where it is configured, else the inbox. Raises ConfigError, PeachError."""
    if not on_kafka(config):
        return open_folder_bus(config)
    from peachctl.bus.kafka import KafkaBus

    return KafkaBus(config, store)


def open_folder_bus(config: Config) -> "FolderBus":
    """The embedded bus: inbox and queue folder."""
    from peachctl.bus.folder import FolderBus

    folders = config.folders
    return FolderBus(folders.inbox, folders.queue, host(), config.limits.message_bytes)


def load_hub(config: Config, folder: Path | None = None) -> "Hub":
    """The service hub as it is now. Raises PeachError where the folder cannot be read."""
    from peachctl import hub

    return hub.find_services(folder or config.folders.hub, config.services.ignore)


def make_folders(config: Config) -> None:
    """Creates the data folders that are missing. Raises ConfigError naming the folder."""
    folders = config.folders
    # Clients run as another user of a common group; they put files of their own into all but workflow_temp.
    wanted = {
        folders.data: 0o750,
        folders.workflow_temp: 0o2750,
        **dict.fromkeys((folders.queue, folders.inbox, folders.download_workflows, folders.download_files), 0o2770),
    }
    for folder, mode in wanted.items():
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(mode)
        except OSError as error:
            raise ConfigError(
                f"{folder}: {error.strerror}", "set folders.data to a folder that you can write"
            ) from error


def open_ingest(config: Config, store: Store, bus: "Bus") -> "Ingest":
    """The ingest loop over this store and bus."""
    from peachctl.ingest import Ingest

    return Ingest(
        store,
        bus,
        queue_folder=config.folders.queue,
        workflow_temp=config.folders.workflow_temp,
        download_files=config.folders.download_files,
        load_hub=lambda: load_hub(config),
        limits=limits(config),
        free_space=config.limits.free_space,
    )


def open_letters(config: Config, store: Store) -> "Letters":
    """The dead letters of this store."""
    from peachctl.letters import Letters

    return Letters(
        store,
        queue_folder=config.folders.queue,
        download_files=config.folders.download_files,
        inbox=config.folders.inbox,
        load_hub=lambda: load_hub(config),
        limits=limits(config),
        embedded=not on_kafka(config),
    )


def options(config: Config, **changes: Any) -> "Options":
    """What the configuration says about running workflows. changes: fields of `Options`."""
    from peachctl.options import Options
    from peachctl.runtime.job import reach_of

    run, folders = config.execute, config.folders
    cores = len(os.sched_getaffinity(0))
    made = Options(
        hub=folders.hub,
        queue=folders.queue,
        workflow_temp=folders.workflow_temp,
        download_workflows=folders.download_workflows,
        download_files=folders.download_files,
        slots=run.slots,
        scheduler=run.scheduler,
        workers=cores,
        lease=run.lease,
        drain=run.drain,
        max_attempts=run.max_attempts,
        per_user=run.per_user,
        time_limit=run.time_limit,
        free_space=config.limits.free_space,
        reach=reach_of(config.storage),
    )
    return replace(made, **changes)


@contextmanager
def opened_store(config: Config, stop: "Stop", *, once: bool, executes: bool = False) -> "Iterator[Store]":
    """The database of a consumer: a server that is away is waited for. executes: as for `open_store`. Raises
    UnreachableError, Stopped."""
    from peachctl.serve import waited_for

    def opened() -> Store:
        return open_store(config, executes=executes)

    embedded = isinstance(config.database.parsed, Sqlite)
    store = opened() if embedded else waited_for(opened, stop, once=once)
    with closing(store):
        yield store


@contextmanager
def serving_ingest(config: Config, stop: "Stop", *, once: bool) -> "Iterator[tuple[Ingest, Store]]":
    """The ingest loop with a store and a bus of its own. On Kafka it also publishes the list of services, unless
    `services.publish_every` is 0. To be entered in the thread that runs the loop."""
    with opened_store(config, stop, once=once) as store, closing(open_bus(config, store)) as bus:
        if once or not on_kafka(config) or not config.services.publish_every:
            yield open_ingest(config, store, bus), store
            return
        with announcing(config) as announcer:
            announcer.start()
            yield open_ingest(config, store, bus), store


def open_events(config: Config, heard: Callable[[], None]) -> "KafkaEvents":
    """What wakes an executor on Kafka. Raises ConfigError."""
    from peachctl.bus import kafka_client
    from peachctl.bus.kafka_events import KafkaEvents

    to = kafka_client.settings(config)

    def open_consumer(commits: bool) -> Any:
        kafka_client.reach(to, 5.0)
        return kafka_client.open_consumer(to, config.kafka.group_execute if commits else None)

    return KafkaEvents(open_consumer, config.kafka.topic_processed, heard)


def open_sender(config: Config, largest: int, patience: float) -> "KafkaSender":
    """What sends messages of at most `largest` bytes to Kafka, which it waits for `patience` seconds. Raises
    ConfigError."""
    from peachctl.bus import kafka_client
    from peachctl.bus.kafka_send import KafkaSender

    return KafkaSender(kafka_client.settings(config), largest, patience)


@contextmanager
def announcing(config: Config, patience: float = 5.0) -> "Iterator[Announcer]":
    """What publishes the list of services. patience: seconds for which one publication waits for Kafka. Raises
    ConfigError where there is none."""
    from peachctl.announce import Announcer
    from peachctl.wire import SERVICE_LIST_BYTES

    if not on_kafka(config):
        raise ConfigError(
            "the list of services is published over Kafka, and kafka.bootstrap_servers is not set",
            "embedded there is nobody to publish it to: peachctl services list shows it",
        )
    sender = open_sender(config, SERVICE_LIST_BYTES, patience)
    send = partial(sender.send, config.kafka.topic_services)
    announcer = Announcer(lambda: load_hub(config), send, config.services.publish_every or 60.0, close=sender.close)
    try:
        yield announcer
    finally:
        announcer.stop()


@contextmanager
def execute_loop(
    config: Config,
    store: Store,
    options: "Options",
    *,
    observer: "Observer | None" = None,
    alone: bool = False,
    terminal: bool = False,
) -> Iterator["tuple[ExecuteLoop, Executor]"]:
    """An executor on this host, signed on with its proof of life; ends what it runs when the block is left.

    alone: runs what it adopts and no other row. terminal: the run gets this terminal (for `--pdb`).
    """
    from peachctl.execute import ExecuteLoop
    from peachctl.runner import alive

    refuse_unready(config)
    held = alive.take(alive.default_folder())
    executor = Executor(held.token, host(), held.proof)

    def open_runner(orders_after: float) -> "Runner":
        if terminal:
            from peachctl.runner.terminal import TerminalRunner

            return TerminalRunner(held.fd, held.token)
        from peachctl.runner.supervised import open_runner

        return open_runner(config.execute.isolation, held.fd, held.token, orders_after)

    loop = ExecuteLoop(
        store, open_runner, executor, options, observer=observer or (lambda _claim, _event: None), alone=alone
    )
    try:
        yield loop, executor
    finally:
        if loop.close():
            held.release()
        else:
            os.close(held.fd)  # its file stays: that it can be locked proves that this executor is gone
