"""Both ways of a runner, isolated in both ways."""

import secrets
from collections.abc import Iterator

import pytest

from tests.runner.rig import Rig, opened

WAYS = [f"{isolation}-{way}" for isolation in ("warm", "fresh") for way in ("namespace", "fallback")]


@pytest.fixture
def marker() -> str:
    """An argument for `sleep` that nobody else has."""
    return f"300.{secrets.randbelow(10**15):015d}"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS, scope="module")
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A runner that the tests of a module share."""
    with opened(request.param, tmp_path_factory.mktemp("runs")) as rig:
        yield rig
