"""What must hold of a data folder once the next executor has been on its database."""

import contextlib
import sqlite3
import tarfile
import time
from typing import Any

from tests.conftest import Peach


def judge(peach: Peach, *, rows: int, statuses: tuple[str, ...] = ("success",)) -> list[dict[str, Any]]:
    """Holds that there are exactly `rows` workflows, each ended in one of `statuses` with a packed output and (unless
    it succeeded) a reason; that nothing of them runs on; and that no half-written file is left. Returns the rows."""
    found = peach.rows()
    assert len(found) == rows, found
    for row in found:
        assert row["status"] in statuses, row
        assert row["reason"] if row["status"] != "success" else row["reason"] is None, row
        detail = peach.detail(row["id"])
        assert detail["output_path"], detail
        with tarfile.open(detail["output_path"]) as tar:
            names = tar.getnames()
        assert f"workflow_{row['id']}" in names
        assert all(name.split("/")[0] == f"workflow_{row['id']}" for name in names), names
        if row["status"] == "success":
            assert row["progress"] == 100
            assert {node["status"] for node in detail["nodes"]} <= {"success", "reused"}
        else:
            assert f"workflow_{row['id']}/peachctl.log" in names, names
        assert row["attempt"] == 0 or (peach.queue / row["execution_file"]).is_file()
    end = time.monotonic() + 10
    while (left := peach.marked()) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == [], "processes were left alive"
    assert list(peach.data.rglob(".taken/*")) == []
    with contextlib.closing(sqlite3.connect(peach.database)) as database:
        assert database.execute("SELECT count(*) FROM queue WHERE status IN (0, 1)").fetchone() == (0,)
    return found
