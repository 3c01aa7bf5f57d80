"""Fixtures of the suite: each case runs against every adapter."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peachctl.store import Entry, Executor, NodeState, NodeStatus, Origin, Store
from tests.store.adapters import ADAPTERS, Client, Database

NODES = '{"name": "a name", "user": "ada", "nodes": []}'


@pytest.fixture(params=sorted(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(adapter: str, tmp_path: Path) -> Iterator[Database]:
    made = ADAPTERS[adapter](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(database: Database) -> Store:
    return database.open()


@pytest.fixture
def other(store: Store, database: Database) -> Store:
    """A second connection to the same database."""
    return database.open()


@pytest.fixture
def client(store: Store, database: Database) -> Client:
    """Somebody else's SQL, as web clients send it."""
    return database.client()


@pytest.fixture
def executor(store: Store) -> Executor:
    made = Executor("token-1", "host-1", '{"lock": 1}')
    store.join(made)
    return made


@pytest.fixture
def rival(store: Store) -> Executor:
    made = Executor("token-2", "host-2", '{"lock": 2}')
    store.join(made)
    return made


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """An entry with a script name of its own."""
    numbers = itertools.count(1)

    def make(user: str = "ada", **changes: Any) -> Entry:
        number = next(numbers)
        values: dict[str, Any] = {
            "user": user,
            "name": "a name",
            "workflow_json": NODES,
            "execution_file": f"{number}.py",
            "sha256": f"{number:064x}",
            **changes,
        }
        return Entry(**values)

    return make


@pytest.fixture
def file(store: Store, entry: Callable[..., Entry]) -> Callable[..., int]:
    """Files one workflow and returns its id."""

    def make(user: str = "ada", **changes: Any) -> int:
        return store.file([entry(user, **changes)])[0].id

    return make


def origin(offset: int, topic: str = "Workflow_ExecuteWorkflow") -> Origin:
    return Origin(topic, 0, offset)


def state(id: str, status: NodeStatus = NodeStatus.WAITING, **changes: Any) -> NodeState:
    return NodeState(id, "Service", 1, status, **changes)
