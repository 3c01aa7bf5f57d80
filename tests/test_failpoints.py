"""Every step of the road that changes something is followed by a fail point; tests/road kills at each of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import peachctl

PACKAGE = Path(peachctl.__file__).parent
ROAD = (
    "ingest.py",
    "drafts.py",
    "execute.py",
    "prepare.py",
    "ends.py",
    "returns.py",
    "takeover.py",
    "serve.py",
    "app.py",
    "by_hand.py",
    "letters.py",
    "submission.py",
)
OVER_KAFKA = (
    *(
        "announce.py",
        "bus/kafka.py",
        "bus/kafka_dead.py",
        "bus/kafka_events.py",
        "bus/kafka_publish.py",
        "bus/kafka_send.py",
    ),
    *("bus/kafka_start.py", "bus/kafka_topics.py"),
)
"""What only an installation with Kafka has; tests/road/test_kill_installation.py kills there."""
CHANGES = {
    "store": {
        *("file", "file_claimed", "announced", "join", "leave", "claim", "renew", "report", "finish", "give_back"),
        *("release", "release_expired", "cancel", "retry", "delete", "prioritise", "hold", "attach", "drop_letters"),
        *("refile", "new_epoch", "begin"),
    },
    "bus": {"ack", "reject", "publish"},
    "script_files": {"place", "draft"},
    "files": {"write", "prepare_attempt", "publish", "pack", "write_refusal", "remove_workflow"},
    "runner": {"start"},
    "sender": {"send"},
    # Kafka's own clients. What only moves a consumer of this process (seek, pause, assign) dies with it.
    "producer": {"send"},
    "consumer": {"commit", "commit_async"},
    "admin": {"create_topics", "delete_topics", "create_partitions", "alter_group_offsets"},
    "self": {"_send"},
    "": {"alter", "_commit_at_end"},
}
WITHOUT = {
    ("bus/kafka_publish.py", "producer.send"): "it is under way: the broker has it or not, as before `kafka:sent`",
    ("bus/kafka_send.py", "_producer.send"): "each caller has a point behind it: `submit:sent`, `announce:sent`",
    ("bus/kafka_start.py", "admin.alter_group_offsets"): "each caller of `alter` has a point behind it",
    ("bus/kafka_events.py", "consumer.commit_async"): "executors begin at the end: the position is for people alone",
    ("bus/kafka_events.py", "consumer.commit"): "the same position, at the end",
    ("bus/kafka_events.py", "_commit_at_end"): "the same position, at the end",
}
"""Steps without a point of their own, and why a kill behind them is no other case."""


def points_of(path: Path) -> list[str]:
    """The names of all fail points in a file."""
    return [
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "fail_point"
        and isinstance(node.args[0], ast.Constant)
    ]


def all_points() -> list[str]:
    return [point for name in ROAD for point in points_of(PACKAGE / name)]


def points_over_kafka() -> list[str]:
    return [point for name in OVER_KAFKA for point in points_of(PACKAGE / name)]


def _bodies(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                yield body


def _changing_call(statement: ast.stmt) -> str | None:
    """The changing verb that a statement calls, or the head of one that has others in it."""
    heads = [getattr(statement, name, None) for name in ("test", "iter")] if hasattr(statement, "body") else [statement]
    for node in (node for head in heads if head is not None for node in ast.walk(head)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CHANGES[""]:
            return node.func.id
        if not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
        if name and node.func.attr in CHANGES.get(name.lstrip("_"), ()):
            return f"{name}.{node.func.attr}"
    return None


def _is_point(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == "fail_point"
    )


def steps_without_a_point(source: str) -> list[str]:
    missing = []
    for body in _bodies(ast.parse(source)):
        for statement, following in zip(body, [*body[1:], None], strict=True):
            call = _changing_call(statement)
            if call is not None and (following is None or not _is_point(following)):
                missing.append(f"line {statement.lineno}: {call}")
    return missing


def test_every_step_that_changes_something_has_a_fail_point() -> None:
    missing = {name: steps_without_a_point((PACKAGE / name).read_text()) for name in (*ROAD, *OVER_KAFKA)}
    found = {(name, line.partition(": ")[2]): line for name, lines in missing.items() for line in lines}
    assert {where: line for where, line in found.items() if where not in WITHOUT} == {}
    assert set(WITHOUT) - set(found) == set(), "they have a point by now, or are gone"


def test_a_step_without_a_fail_point_is_found() -> None:
    assert steps_without_a_point("def f(self):\n    self._store.finish(1)\n    return 1\n") == ["line 2: _store.finish"]
    assert steps_without_a_point("def f(self):\n    self._store.finish(1)\n    fail_point('x')\n") == []
    assert steps_without_a_point("if not alter(1):\n    f()\ng()\n") == ["line 1: alter"]
    assert steps_without_a_point("if not alter(1):\n    f()\nfail_point('x')\n") == []


def test_names_of_fail_points_are_unique() -> None:
    points = [*all_points(), *points_over_kafka()]
    assert sorted(points) == sorted(set(points))
    assert len(points) >= 30
