"""`queue` as real processes."""

import json

from tests.conftest import DIAMOND, Peach, node, workflow


def test_an_empty_queue_is_an_empty_list(peach: Peach) -> None:
    assert peach.json("queue", "list") == []
    assert peach("queue", "list", "-o", "jsonl").stdout == ""


def test_the_queue_is_listed_newest_first_and_filtered(peach: Peach) -> None:
    other = {**DIAMOND, "user": "Bob"}
    peach("submit", peach.file(DIAMOND), peach.file(other, "other.json"))
    assert [row["id"] for row in peach.json("queue", "list")] == [2, 1]
    assert [row["id"] for row in peach.json("queue", "list", "--user", "bob")] == [2], "users compare without case"
    assert peach.json("queue", "list", "--status", "success") == []
    assert len(peach.json("queue", "list", "--limit", 1)) == 1
    lines = peach("queue", "list", "-o", "jsonl").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [2, 1]
    assert "ada@hospital" in peach("queue", "list").stdout


def test_an_id_that_is_not_there_exits_4_as_text_and_as_json(peach: Peach) -> None:
    assert "there is no workflow 7" in peach("queue", "show", 7, code=4).stderr
    error = json.loads(peach("queue", "show", 7, "-o", "json", code=4).stderr)["error"]
    assert error["code"] == 4 and error["hint"] == "peachctl queue list"
    peach("queue", "logs", 7, code=4)


def test_logs_show_what_the_workflow_printed_and_what_a_node_logged(peach: Peach) -> None:
    peach("run", peach.file(DIAMOND))
    assert '[E](info): "saved out.txt"' in peach("queue", "logs", 1).stdout
    assert peach("queue", "logs", 1, "E").stdout == '[E](info): "saved out.txt"\n'
    assert peach("queue", "logs", 1, "A").stdout == ""
    assert "no node 'X'" in peach("queue", "logs", 1, "X", code=4).stderr
    logged = {"node": "E", "level": "info", "line": '[E](info): "saved out.txt"'}
    assert json.loads(peach.inside("queue", "logs", 1, "-o", "json")) == [logged]
    assert json.loads(peach.inside("queue", "logs", 1, "E", "-f", "-o", "jsonl")) == logged
    assert json.loads(peach.inside("queue", "logs", 1, "A", "-o", "json")) == []


def test_logs_are_followed_line_by_line_to_the_end(peach: Peach) -> None:
    gate = peach.home / "gate"
    value = workflow(
        node("s", "Save", ["x"], ["t"]), node("u", "Until", [str(gate)], "s"), node("w", "Save", ["y"], "u")
    )
    peach("submit", peach.file(value))
    peach.start("consume", "execute")
    following = peach.start("queue", "logs", 1, "-f")
    assert following.stdout is not None
    assert following.stdout.readline() == '[s](info): "saved x"\n'
    gate.touch()
    assert following.stdout.read() == '[w](info): "saved y"\n'
    assert following.wait(20) == 0


def test_passwords_inside_uris_are_masked_unless_revealed(peach: Peach) -> None:
    secret = "hunter2-very-secret"
    uri = json.dumps({"user": "u", "password": secret, "server": "http://xnat", "root": "/data/files/x"})
    value = workflow(node("a", "Text", [uri]), node("f", "Fail", [f"cannot open {uri}"], "a"), name="with secret")
    file = peach.file(value)
    done = peach("run", file, code=3)
    outputs = [done.stdout, done.stderr]
    for command in (("queue", "list"), ("queue", "show", 1), ("queue", "show", 1, "-o", "json"), ("queue", "logs", 1)):
        shown = peach(*command)
        outputs += [shown.stdout, shown.stderr]
    for shape in ("tree", "dot", "mermaid", "svg"):
        outputs.append(peach("decode", file, "-o", shape).stdout)
    assert not [text for text in outputs if secret in text]
    assert secret in peach("decode", file, "-o", "tree", "--reveal").stdout
    assert secret in peach("decode", file, "-o", "json").stdout
    import tarfile

    [tar] = (peach.data / "downloads" / "files").glob("*.tar")
    with tarfile.open(tar) as opened:
        for member in opened.getmembers():
            stream = opened.extractfile(member)
            assert stream is None or secret.encode() not in stream.read(), member.name
    for script in peach.queue.glob("*.py"):
        assert script.stat().st_mode & 0o007 == 0
    assert peach.database.stat().st_mode & 0o007 == 0


def test_workflows_are_cancelled_and_retried_each_by_itself(peach: Peach) -> None:
    peach("submit", *[peach.file(DIAMOND, name) for name in ("a.json", "b.json", "c.json")])
    [first, second] = peach.json("queue", "cancel", 1, 3)
    assert [(row["id"], row["status"]) for row in (first, second)] == [(1, "cancelled"), (3, "cancelled")]
    assert first["finished_date"] is not None and first["reason"] == "it was cancelled"
    # One that cannot be is said, and holds up no other.
    done = peach("queue", "cancel", 1, 7, 2, code=4)
    assert done.stdout == "Workflow 2 is cancelled (it was queued).\n"
    for said in ("workflow 1 has ended already (cancelled)", "there is no workflow 7", "Next: peachctl queue retry 2"):
        assert said in done.stderr
    done = peach("queue", "retry", 1, 7, "-o", "json", code=4)
    assert [(row["id"], row["status"], row["reason"]) for row in json.loads(done.stdout)] == [(1, "queued", None)]
    assert json.loads(done.stderr)["error"]["code"] == 4
    peach("consume", "execute", "--once")
    assert [row["status"] for row in peach.json("queue", "list")] == ["cancelled", "cancelled", "success"]


def test_what_succeeded_runs_again_only_from_its_start(peach: Peach) -> None:
    peach("run", peach.file(DIAMOND))
    done = peach("queue", "retry", 1, code=4)
    assert "only what failed or was cancelled" in done.stderr and "queue retry --from-start 1" in done.stderr
    assert json.loads(peach("queue", "retry", 1, "-o", "json", code=4).stdout) == []
    done = peach("queue", "retry", 1, "--from-start")
    assert done.stdout == "Workflow 1 is queued again, from its start.\n"
    assert "Next: peachctl queue show 1" in done.stderr
    peach("consume", "execute", "--once")
    [row] = peach.json("queue", "list")
    assert (row["status"], row["attempt"]) == ("success", 2)
