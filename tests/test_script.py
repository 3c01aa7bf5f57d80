"""Scripts are deterministic, hold any text as a literal, and tell a torn file from an edited one."""

import ast
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peachctl import wire
from peachctl.script import nodes_of, read_header, render
from peachctl.workflow import Connection, Double, Float, Node, ServiceRef, Workflow

MD5 = "0123456789abcdef0123456789abcdef"
GOLDEN = Path(__file__).parent / "golden"
HOSTILE = [
    "../../x",
    "a\0b",
    'it\'s "both"',
    "'''\"\"\"",
    "two\nlines\rand\x0bmore\x0cof\x85them\u2028all\u2029",
    "ends in \\",
    "\\'",
    "x" * 400,
    "class",
    "<script>alert(1)</script>",
    "\U0001f9e0 脑",
    "\u202egnp.exe",
    "{graph} {0} %s",
    "# checksum: sha256 " + "0" * 64 + " of the 3 bytes after this line\n",
    "",
    "\ud800",
]


def chain(*, user: str = "ada@hospital", name: str = "chain", length: int = 3) -> Workflow:
    nodes = [Node("n0", ServiceRef("Load", 1), ("x",), (Connection(-1, "in.txt"),))]
    nodes += [Node(f"n{i}", ServiceRef("Upper", 2), (), (Connection(0, f"n{i - 1}"),)) for i in range(1, length)]
    return Workflow(name, user, tuple(nodes))


def executed(script: str) -> dict:
    """The graph that the script makes, by the runtime's own records."""
    names: dict = {"__name__": "not main"}
    exec(compile(script, "script.py", "exec"), names)
    return names["graph"]


def statements(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("graph[")]


def test_the_script_of_the_golden_diamond_reads_as_it_should():
    message = (GOLDEN / "diamond.bin").read_bytes()
    md5 = hashlib.md5(message).hexdigest()
    lines = render(wire.decode_workflow(message), md5).split("\n")
    assert lines[:5] == [
        "#!/usr/bin/env python3",
        "# peachctl workflow script, format 1: written by peachctl, run by `peachctl run-script FILE` or `python FILE`",
        "# workflow: 'diamond'",
        "# user: 'ada@hospital'",
        f"# message: {md5}",
    ]
    assert lines[5].startswith("# checksum: sha256 ")
    assert lines[6:] == [
        "from peachctl.runtime import literal, node, output, run",
        "",
        "graph = {}",
        "graph['A'] = node('Split', 1, [literal('in.txt')], [])",
        "graph['B'] = node('Upper', 1, [output('A', 0)], [])",
        "graph['C'] = node('Reverse', 1, [output('A', 1)], [])",
        "graph['D'] = node('Join', 1, [output('B', 0), output('C', 0)], ['-'])",
        "",
        'if __name__ == "__main__":',
        "    run(graph)",
        "",
    ]


def test_parameters_are_written_as_services_get_them():
    node = Node("p", ServiceRef("S", 1), ("0", 0, Double(1.0), Float(0.5), None, -3, Double("nan"), "None"), (None,))
    script = render(Workflow("w", "u", (node,)), MD5)
    assert statements(script) == [
        "graph['p'] = node('S', 1, [None], ['0', '0', '1.0', '0.5', None, '-3', 'nan', 'None'])"
    ]


def test_nodes_stand_after_what_they_need():
    workflow = chain(length=50)
    shuffled = Workflow("w", "u", workflow.nodes[::-1])
    assert [node[0] for node in nodes_of(render(shuffled, MD5))] == [f"n{i}" for i in range(50)]


def test_a_cycle_has_no_script():
    from peachctl.errors import PeachError

    nodes = tuple(Node(a, ServiceRef("S", 1), (), (Connection(0, b),)) for a, b in ("ab", "ba"))
    with pytest.raises(PeachError):
        render(Workflow("w", "u", nodes), MD5)


@pytest.mark.fault("E8")
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_a_literal_wherever_it_stands(text):
    node = Node(text, ServiceRef(text, 1), (text,), (Connection(-1, text),))
    after = Node("after" + text, ServiceRef("S", 1), (), (Connection(0, text),))
    script = render(Workflow(text, text, (node, after)), MD5)
    header = read_header(script)
    assert (header.workflow, header.user, header.message) == (text, text, MD5)
    assert header.intact
    assert len(script.split("\n")) == 15
    assert nodes_of(script) == [(text, text, 1), ("after" + text, "S", 1)]
    if "\ud800" not in text:  # no message can hold it, and no Python source either but as an escape
        script.encode()
    graph = executed(script)
    assert list(graph) == [text, "after" + text]
    calls = [found for found in ast.walk(ast.parse(script)) if isinstance(found, ast.Call)]
    assert {call.func.id for call in calls} == {"node", "literal", "output", "run"}


@settings(max_examples=60)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(), st.integers(0, 2**31 - 1))
def test_any_text_comes_back_from_the_script(one, other, version):
    node = Node(one, ServiceRef(other, version), (other,), (Connection(-1, one), None))
    script = render(Workflow(other, one, (node,)), "")
    assert nodes_of(script) == [(one, other, version)]
    header = read_header(script.encode())
    assert (header.workflow, header.user, header.message, header.state) == (other, one, "", "intact")
    assert render(Workflow(other, one, (node,)), "") == script


def test_an_md5_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not an MD5"):
        render(chain(), "x\nimport os")


@pytest.mark.fault("E6")
def test_ten_thousand_nodes_render_read_and_compile_quickly():
    started = time.process_time()
    script = render(chain(length=10_000), MD5)
    assert len(nodes_of(script)) == 10_000
    assert len(executed(script)) == 10_000
    assert time.process_time() - started < 10


@pytest.mark.fault("D2")
def test_a_script_cut_anywhere_is_torn_or_not_recognised_but_never_intact_or_edited():
    script = render(chain(name="Größe"), MD5).encode()
    first = script.index(b"format 1") + len(b"format 1")
    for length in range(len(script)):
        header = read_header(script[:length])
        assert header is None if length < first else header.state == "torn", length
        exact = read_header(script[:length], script.decode())
        assert exact is None or exact.state == "torn", length


@pytest.mark.fault("A11")
def test_a_script_whose_blocks_never_reached_the_disk_is_torn():
    script = render(chain(), MD5).encode()
    assert read_header(script[:600] + b"\0" * (len(script) - 600)).state == "torn"


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("'x'", "'yy'"),
        lambda text: text.replace("'x'", "''"),
        lambda text: text + "print('done')\n",
        lambda text: text.replace("graph['n2'] = node('Upper', 2, [output('n1', 0)], [])\n", ""),
        lambda text: text.replace("graph['n2'] = node('Upper', 2, [output('n1', 0)], [])\n", "").rstrip(),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text.replace("'x'", "'y'"),
        lambda text: text.replace("# checksum", "# was"),
        lambda text: text.replace("bytes after", "octets after"),
    ],
)
def test_an_edited_script_is_edited_with_or_without_knowing_what_it_was(edit):
    script = render(chain(), MD5)
    assert read_header(edit(script)).state == "edited"
    assert read_header(edit(script), script).state == "edited"


def test_a_shortened_script_without_its_end_is_edited_where_what_it_was_is_known():
    script = render(chain(), MD5)
    edited = script.replace("literal('in.txt')", "None")[:-20]
    assert read_header(edited, script).state == "edited"


@pytest.mark.parametrize("text", ["", "print(1)\n", "#!/usr/bin/env python3\n", "\0" * 300, "import dask\n# peachctl"])
def test_what_peachctl_did_not_write_has_no_header(text):
    assert read_header(text) is None


@settings(max_examples=60)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_reading_a_header_raises_nothing(data, at):
    script = render(chain(), MD5).encode()
    read_header(data)
    found = read_header(script[:at] + data + script[at:])
    assert found is None or found.intact is (found.state == "intact")


@pytest.mark.parametrize(
    "text",
    [
        "graph = {",
        "a\0",
        "print(1)",
        "graph = make()",
        "graph = {}\ngraph['a'] = other('S', 1)",
        "graph = {}\ngraph[name] = node('S', 1, [], [])",
        "graph = {}\ngraph['a'] = node(S, 1, [], [])",
        "(" * 5000 + ")" * 5000,
    ],
)
def test_nodes_that_cannot_be_read_are_none(text):
    assert nodes_of(text) is None


def test_reading_the_nodes_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    text = f"open({str(mark)!r}, 'w')\ngraph = {{}}\ngraph['a'] = node('S', 1, [open({str(mark)!r}, 'w')], [])\n"
    assert nodes_of(text) == [("a", "S", 1)]
    assert not mark.exists()


def test_rendering_does_not_depend_on_the_hash_seed():
    program = (
        "import sys; from peachctl import wire, script;"
        "sys.stdout.write(script.render(wire.decode_workflow(open(sys.argv[1], 'rb').read()), ''))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program, str(GOLDEN / "diamond.bin")],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(texts) == 1
