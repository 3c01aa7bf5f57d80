"""A SIGKILL at every fail point of the road: the workflow is taken up again and ends, and nothing keeps running."""

import signal
import sqlite3
from collections.abc import Callable

import pytest

from tests import topics
from tests.conftest import DIAMOND, Peach, node, workflow
from tests.road.judge import judge
from tests.servers import kafka
from tests.test_failpoints import all_points

FAILING = workflow(node("a", "Text", ["x"]), node("f", "Fail", ["on purpose"], "a"), node("u", "Upper", [], "f"))
CYCLE = workflow(node("a", "Upper", [], "b"), node("b", "Upper", [], "a"))


def killed(peach: Peach, point: str, *arguments: object) -> None:
    done = peach(*arguments, code=None, PEACHCTL_FAILPOINT=point)
    assert done.returncode == -signal.SIGKILL, f"{point} was not passed\n{done.stdout}\n{done.stderr}"


def drop(peach: Peach, value: object, name: str = "one.json") -> None:
    peach.inbox.mkdir(parents=True, exist_ok=True)
    peach.file(value, "being-written").rename(peach.inbox / name)


def in_ingest(peach: Peach, point: str) -> None:
    drop(peach, DIAMOND)
    killed(peach, point, "consume", "ingest", "--once")
    peach("consume", "ingest", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def in_refusal(peach: Peach, point: str) -> None:
    """A workflow that decodes but cannot run gets a row with status 4 and a packed log, once."""
    drop(peach, CYCLE)
    killed(peach, point, "consume", "ingest", "--once")
    peach("consume", "ingest", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1, statuses=("error",))
    assert len(peach.letters()) == 1


def in_rejection(peach: Peach, point: str) -> None:
    """What does not decode has no row, and is set aside once."""
    drop(peach, "{not json", "bad.json")
    killed(peach, point, "consume", "ingest", "--once")
    peach("consume", "ingest", "--once")
    [letter] = peach.letters()
    assert letter["file"] == "bad.json"
    judge(peach, rows=0)


def in_retried_letter(peach: Peach, point: str) -> None:
    """A refused workflow that is patched: whatever the kill left, it runs once, under the id that it had."""
    drop(peach, CYCLE)
    peach("consume", "ingest", "--once")
    [letter] = peach.letters()
    patch = peach.file({"nodes[0].connections[0]": {"port_idx": -1, "node_id": "x"}}, "patch.json")
    killed(peach, point, "dlq", "retry", letter["number"], "--patch", patch)
    assert peach.letters() == []
    peach("consume", "ingest", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def in_dropped_letter(peach: Peach, point: str) -> None:
    drop(peach, "{not json", "bad.json")
    peach("consume", "ingest", "--once")
    killed(peach, point, "dlq", "drop", 1)
    peach("consume", "ingest", "--once")
    assert peach.letters() == []
    judge(peach, rows=0)


def in_execute(peach: Peach, point: str) -> None:
    peach("submit", peach.file(DIAMOND))
    killed(peach, point, "consume", "execute", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def after_a_dead_executor(peach: Peach, point: str) -> None:
    peach.env["PEACHCTL_EXECUTE__LEASE"] = "600s"
    peach("submit", peach.file(DIAMOND))
    killed(peach, "execute:claimed", "consume", "execute", "--once")
    killed(peach, point, "consume", "execute", "--once")
    peach("consume", "execute", "--once")
    [row] = judge(peach, rows=1)
    assert row["attempt"] == 2


def in_failing(peach: Peach, point: str) -> None:
    peach("submit", peach.file(FAILING))
    killed(peach, point, "consume", "execute", "--once")
    peach("consume", "execute", "--once")
    [row] = judge(peach, rows=1, statuses=("error",))
    assert "on purpose" in row["reason"]


def with_lost_script(peach: Peach, point: str) -> None:
    peach("submit", peach.file(DIAMOND))
    [script] = peach.queue.glob("*.py")
    script.unlink()
    killed(peach, point, "consume", "execute", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def with_edited_script(peach: Peach, point: str) -> None:
    peach("submit", peach.file(DIAMOND))
    [script] = peach.queue.glob("*.py")
    script.write_text(script.read_text().replace("run(graph)", "run(graph)  # edited"))
    killed(peach, point, "consume", "execute", "--once")
    peach("consume", "execute", "--once")
    [row] = judge(peach, rows=1, statuses=("error",))
    assert "edited" in row["reason"]


def with_unpacked_refusal(peach: Peach, point: str) -> None:
    """Ingest died before it packed the log of a refusal: the next executor does."""
    drop(peach, CYCLE)
    killed(peach, "ingest:filed", "consume", "ingest", "--once")
    killed(peach, point, "consume", "execute", "--once")
    peach("consume", "ingest", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1, statuses=("error",))


def with_deleted_row(peach: Peach, point: str) -> None:
    peach("submit", peach.file(workflow(node("a", "Text", ["x"]), node("s", "Sleep", ["60"], "a"))))
    process = peach.start("consume", "execute", PEACHCTL_FAILPOINT=point)
    peach.until(lambda: [row for row in peach.rows() if row["status"] == "processing"])
    with sqlite3.connect(peach.database) as database:
        database.execute("DELETE FROM queue")
    assert process.wait(30) == -signal.SIGKILL
    peach("consume", "execute", "--once")
    judge(peach, rows=0)


def while_draining(peach: Peach, point: str) -> None:
    go_on = peach.home / "go on"
    peach("submit", peach.file(workflow(node("a", "Text", ["x"]), node("s", "Until", [str(go_on)], "a"))))
    process = peach.start("consume", "execute", PEACHCTL_FAILPOINT=point, PEACHCTL_EXECUTE__DRAIN="0.1s")
    peach.until(lambda: [one for row in peach.rows() for one in running_nodes(peach, row["id"])])
    process.terminate()
    assert process.wait(30) == -signal.SIGKILL
    go_on.touch()
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def running_nodes(peach: Peach, id: int) -> list[str]:
    return [one["id"] for one in peach.detail(id)["nodes"] if one["status"] == "running"]


def in_run(peach: Peach, point: str) -> None:
    killed(peach, point, "run", peach.file(DIAMOND))
    filed = len(peach.rows())
    peach("consume", "execute", "--once")
    judge(peach, rows=filed)


def in_cancelled_run(peach: Peach, point: str) -> None:
    slow = workflow(node("a", "Text", ["x"]), node("s", "Sleep", ["60"], "a"))
    process = peach.start("run", peach.file(slow), PEACHCTL_FAILPOINT=point)
    peach.until(lambda: [row for row in peach.rows() if row["status"] == "processing"])
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGKILL
    peach("consume", "execute", "--once")
    assert [row["status"] for row in peach.rows()] == ["cancelled"]


def in_watch(peach: Peach, point: str) -> None:
    peach.queue.mkdir(parents=True)
    (peach.queue / "own.py").write_text(
        "from peachctl.runtime import literal, node, output, run\n"
        "graph = {}\ngraph['a'] = node('Upper', 1, [literal('x')], [])\nrun(graph)\n"
    )
    killed(peach, point, "watch", "--once", "--existing")
    peach("watch", "--once", "--existing")
    judge(peach, rows=1)


def in_saved_again(peach: Peach, point: str) -> None:
    peach("run", peach.file(DIAMOND))
    process = peach.start("watch", PEACHCTL_FAILPOINT=point)
    [script] = peach.queue.glob("*.py")
    peach.until(lambda: (script.touch(), script.write_text(script.read_text()), process.poll())[-1])
    assert process.returncode == -signal.SIGKILL
    peach("watch", "--once")
    judge(peach, rows=1)


def in_submit(peach: Peach, point: str) -> None:
    killed(peach, point, "submit", peach.file(DIAMOND))
    peach("consume", "ingest", "--once")
    peach("consume", "execute", "--once")
    judge(peach, rows=1)


def in_submit_over_kafka(peach: Peach, point: str) -> None:
    """What was acknowledged to it is there, whether or not anybody was told."""
    with topics.on(kafka.shared()) as at:
        at.create_all()
        peach.env.update(at.environment())
        killed(peach, point, "submit", peach.file(DIAMOND))
        peach("consume", "all", "--once")
        judge(peach, rows=1)


SCENARIOS: dict[str, Callable[[Peach, str], None]] = {
    "submit:sent": in_submit_over_kafka,
    "ingest:placed-later": in_submit,
    "ingest:submitted": in_submit,
    "ingest:submitted-announced": in_submit,
    **dict.fromkeys(
        [
            *("ingest:cleaned", "ingest:cleaned-downloads", "ingest:polled", "ingest:filed", "ingest:drafted"),
            *("ingest:placed", "ingest:published", "ingest:announced", "ingest:acked"),
        ],
        in_ingest,
    ),
    "ingest:packed": in_refusal,
    "ingest:attached": in_refusal,
    "ingest:rejected": in_rejection,
    **dict.fromkeys(["letters:filed", "letters:unpacked", "letters:removed"], in_retried_letter),
    "letters:dropped": in_dropped_letter,
    **dict.fromkeys(
        [
            *("execute:joined", "execute:renewed", "execute:expired", "execute:claimed"),
            *("execute:prepared", "execute:written", "execute:started", "execute:reported", "execute:published"),
            *("execute:packed", "execute:finished", "execute:left"),
        ],
        in_execute,
    ),
    "execute:released": after_a_dead_executor,
    "execute:logged": in_failing,
    "execute:rendered": with_lost_script,
    "execute:failure-packed": with_edited_script,
    "execute:refusal-packed": with_unpacked_refusal,
    "execute:refusal-attached": with_unpacked_refusal,
    "execute:removed": with_deleted_row,
    "execute:last-reported": while_draining,
    "execute:given-back": while_draining,
    "run:joined": in_run,
    "run:filed": in_run,
    "run:cancelled": in_cancelled_run,
    "watch:filed": in_watch,
    "watch:retried": in_saved_again,
}


def test_every_fail_point_is_killed_at() -> None:
    assert set(SCENARIOS) == set(all_points())


@pytest.mark.fault("A1", "A3", "A5", "A6", "A7", "A8", "A9", "A10")
@pytest.mark.parametrize("point", SCENARIOS)
def test_a_kill_at(point: str, peach: Peach) -> None:
    SCENARIOS[point](peach, point)
