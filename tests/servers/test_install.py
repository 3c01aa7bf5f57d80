"""What is kept of servers: a version that this file names no more is fetched anew, one that it names is not."""

from pathlib import Path

import pytest

from tests.servers import install


def test_a_change_of_the_version_fetches_anew_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(into: Path) -> str:
        fetched.append(into)
        return install.WANTED["kafka"] + there[0]

    there = [""]
    monkeypatch.setattr(install, "CACHE", tmp_path)
    monkeypatch.setitem(install.SERVERS, "kafka", fetch)
    for wanted, more, times in (("4.1", ".0", 1), ("4.1", ".2", 1), ("4.1.0", "", 1), ("4.2", "", 2), ("4.20", "", 3)):
        there[0] = more
        monkeypatch.setitem(install.WANTED, "kafka", wanted)
        assert install.install("kafka") == install.installed("kafka")
        assert len(fetched) == times
        assert len(list(tmp_path.iterdir())) == 1
    there[0] = "1"
    monkeypatch.setitem(install.WANTED, "kafka", "5")
    with pytest.raises(RuntimeError, match="there is kafka 51 now, and 5 is wanted"):
        install.install("kafka")
