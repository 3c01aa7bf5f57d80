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
