"""Drawings show all of a workflow, also of one that cannot run, and hold any text."""

import io
import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peachctl import wire
from peachctl.draw import dot, mermaid, svg, tree
from peachctl.draw.layout import fitted, layout, text_width
from peachctl.draw.picture import picture
from peachctl.workflow import Connection, Double, Node, Service, ServiceParameter, ServiceRef, Workflow

GOLDEN = Path(__file__).parent / "golden"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "../../x",
    "a\0b",
    'it\'s "both"',
    "two\nlines\r\x0b\x0c\x85\u2028\u2029",
    "ends in \\",
    "x" * 400,
    "class",
    "</text><script>alert(1)</script>",
    "]]><!-- --> & &amp; &#0;",
    "\U0001f9e0 脑",
    "\u202egnp.exe\x1b[31m",
    '"]; b0 --> b1 %% #quot; `md` **b**',
    '"]; } digraph { a -> b <b> \\N \\l',
    "[red]markup[/red] [/]",
    "\ufffe\uffff\ud800",
    "",
]
URI = json.dumps({"user": "ada", "password": "S3cr3t!", "server": "http://10.0.0.5:8080", "root": "/data/files/ct.nii"})


def service(name, inputs=(), outputs=(), params=()):
    declared = tuple(ServiceParameter(key.lower(), key, 0) for key in params)
    return {name: {1: Service(name, name, 1, f"what {name} does", tuple(inputs), tuple(outputs), declared)}}


def node(node_id, service_id="S", connections=(), parameters=(), version=1):
    return Node(node_id, ServiceRef(service_id, version), tuple(parameters), tuple(connections))


HUB = {
    **service("Load", ["file"], ["image", "mask"]),
    **service("Smooth", ["image"], ["image"], ["fwhm", "method"]),
    **service("Render", ["image", "overlay", "outline"], ["picture"], ["colours"]),
}
BRAIN = Workflow(
    "brain",
    "ada@hospital",
    (
        node("load", "Load", [Connection(-1, "/data/ct.nii")]),
        node("smooth", "Smooth", [Connection(0, "load")], [Double(6.0)]),
        node("again", "Smooth", [Connection(0, "smooth")], ["3.0", None]),
        node("render", "Render", [Connection(0, "again"), Connection(1, "load"), None, None], ["viridis"]),
    ),
)
BROKEN = Workflow(
    "broken",
    "eve",
    (
        node("a", connections=[Connection(0, "b"), Connection(3, "nowhere")]),
        node("b", connections=[Connection(0, "a")]),
        node("b", connections=[Connection(2, "b")]),
        node("self", connections=[Connection(0, "self")]),
        node("alone"),
    ),
)


def printed(workflow, services=None, states=None, *, reveal=False, width=120):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(tree(workflow, services, states, reveal=reveal))
    return console.file.getvalue()


def every_drawing(workflow, services=None, *, reveal=False):
    yield svg(workflow, services, reveal=reveal)
    yield dot(workflow, services, reveal=reveal)
    yield mermaid(workflow, services, reveal=reveal)
    yield printed(workflow, services, reveal=reveal, width=2000)


def golden():
    return [wire.decode_workflow(path.read_bytes()) for path in sorted(GOLDEN.glob("*.bin")) if is_workflow(path)]


def is_workflow(path):
    return not path.name.startswith(("malformed", "service_list"))


def html_labels(text):
    return [ET.fromstring(f"<label>{label}</label>") for label in re.findall(r"label=<(.*)>, tooltip", text)]


def holds_dot(text):
    """Whether DOT's own strings and HTML labels are all closed, and nothing but our words stands outside them."""
    bare = re.sub(r"label=<.*>, tooltip", "label=HTML, tooltip", text)
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "STRING", bare)
    return '"' not in bare and re.fullmatch(r"[A-Za-z0-9_ \n\[\]{}=,;:.>-]*", bare) is not None


def holds_mermaid(text):
    lines = text.split("\n")[4:]
    label = r"(?:[A-Za-z0-9 .,/:_@…=+→-]|[^\x00-\xa0]|#\d+;|</?[bi]>|<br/>)*"
    ours = re.compile(
        rf'  b\d+(?:\["{label}"\]|\(\["{label}"\]\))(?::::\w+)?|  b\d+ -\.?-?->(?:\|"{label}"\|)? b\d+'
        r"|  classDef .*|  linkStyle [\d,]+ .*|"
    )
    return [line for line in lines if not ours.fullmatch(line)] == []


def test_the_tree_says_of_each_port_what_is_attached():
    assert printed(BRAIN, HUB).splitlines() == [
        "brain  ada@hospital · 4 nodes",
        "├── layer 1",
        "│   └── load  Load v1",
        "│       ├── ● file ← “/data/ct.nii”",
        "│       ├── ◆ image → smooth › image",
        "│       └── ◆ mask  → render › overlay",
        "├── layer 2",
        "│   └── smooth  Smooth v1",
        "│       ├── ● image ← load › image",
        "│       ├──   fwhm = 6.0",
        "│       ├──   method  not set",
        "│       └── ◆ image → again › image",
        "├── layer 3",
        "│   └── again  Smooth v1",
        "│       ├── ● image ← smooth › image",
        "│       ├──   fwhm = 3.0",
        "│       ├──   method  not set",
        "│       └── ◆ image → render › image",
        "└── layer 4",
        "    └── render  Render v1",
        "        ├── ● image   ← again › image",
        "        ├── ● overlay ← load › mask",
        "        ├── ○ outline   not connected",
        "        ├──   colours = viridis",
        "        └── ○ picture   nobody reads it",
    ]


def test_the_tree_shows_the_states_of_a_run():
    text = printed(BRAIN, HUB, {"load": "success", "smooth": "error", "again": "skipped", "render": "waiting"})
    assert "✓ load  Load v1  success" in text
    assert "✗ smooth  Smooth v1  error" in text


def test_the_tree_marks_what_is_wrong():
    text = printed(BROKEN)
    assert "← b › out 0 (closes a cycle)" in text
    assert "← nowhere (no such node, out 3)" in text
    assert text.count("this id stands more than once") == 2


def test_ports_are_numbered_without_a_hub():
    assert "in 0 ← smooth › out 0" in printed(BRAIN)
    assert "param 0 = viridis" in printed(BRAIN)


def test_the_svg_shows_all_nodes_ports_literals_and_parameters():
    text = svg(BRAIN, HUB)
    shown = [found.text for found in ET.fromstring(text).iter(f"{SVG}text") if found.text]
    assert {"brain", "load", "smooth", "again", "render", "Load v1", "Render v1", "/data/ct.nii"} <= set(shown)
    assert {"file", "image", "mask", "overlay", "outline", "picture"} <= set(shown)
    spans = [found.text for found in ET.fromstring(text).iter(f"{SVG}tspan")]
    assert {"fwhm", "6.0", "method", "not set", "colours", "viridis"} <= set(spans)
    titles = [found.text for found in ET.fromstring(text).iter(f"{SVG}title")]
    assert "input 2: outline: not connected" in titles
    assert "load: Load v1, what Load does" in titles
    assert text.count('class="pw-way pw-way-literal"') == 1
    assert text.count('class="pw-way"') == 4
    assert text.count('class="pw-open"') == 2
    assert text.count('class="pw-literal"') == 1


def test_the_svg_is_light_and_dark_and_stands_alone():
    text = svg(BRAIN, HUB)
    assert "prefers-color-scheme:dark" in text
    assert not re.findall(r"(?:href|src|url|@import|<script|var\()", text)
    assert not [found for found in ET.fromstring(text).iter() if "id" in found.attrib]


def test_the_svg_shows_the_states_of_a_run_by_colour_mark_and_word():
    states = {"load": "success", "smooth": "error", "again": "skipped", "render": "no such state"}
    text = svg(BRAIN, HUB, states)
    assert "1 success · 1 error · 1 skipped" in text
    assert text.count('class="pw-mark"') == 3
    assert "smooth: Smooth v1, what Smooth does: error" in text
    assert "no such state" not in text


def test_the_svg_of_a_broken_workflow_marks_what_is_wrong():
    text = svg(BROKEN, None)
    assert text.count("pw-back pw-bad") == 2
    assert text.count("pw-missing pw-bad") == 1
    assert "there is no node &#x27;nowhere&#x27;" in text
    assert text.count("this id stands more than once") == 2


@pytest.mark.parametrize("states", [None, {"load": "success"}])
@pytest.mark.parametrize("workflow", [*golden(), BRAIN, BROKEN], ids=lambda found: found.name)
def test_boxes_stand_apart_inside_the_picture_and_connections_lead_to_the_right(workflow, states):
    shown = picture(workflow, HUB)
    placed = layout(shown, badges=bool(states))
    for one, other in combinations(placed.places, 2):
        assert (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
    for place in placed.places:
        assert place.x >= 0
        assert place.y >= 0
        assert place.x + place.width <= placed.width
        assert place.y + place.height <= placed.height
    for way in placed.ways:
        source, target = placed.places[way.edge.source], placed.places[way.edge.target]
        assert way.points[0][1] == source.x + source.width
        assert way.points[-1][0] == target.x
        assert source.y < way.points[0][2] < source.y + source.height
        assert target.y < way.points[-1][2] < target.y + target.height
        if way.edge.kind != "cycle":
            lefts = [point[0] for point in way.points]
            assert lefts == sorted(lefts)


def test_connections_that_need_not_cross_do_not():
    # Two chains, listed so that the order of the list would make each of their connections cross.
    nodes = [node("a0"), node("b0")]
    for step in range(1, 6):
        pair = [node(f"{name}{step}", connections=[Connection(0, f"{name}{step - 1}")]) for name in "ab"]
        nodes += pair if step % 2 else pair[::-1]
    placed = layout(picture(Workflow("w", "u", tuple(nodes)), None))
    tops = {box.id: place.y for box, place in zip(nodes, placed.places, strict=True)}
    above = {tops[f"a{step}"] < tops[f"b{step}"] for step in range(6)}
    assert len(above) == 1


def test_a_long_connection_passes_between_the_boxes():
    nodes = [node("s")] + [node(f"n{i}", connections=[Connection(0, f"n{i - 1}" if i else "s")]) for i in range(4)]
    nodes.append(node("end", connections=[Connection(0, "n3"), Connection(0, "s")]))
    placed = layout(picture(Workflow("w", "u", tuple(nodes)), None))
    long = next(way for way in placed.ways if len(way.points) > 2)
    for left, right, height in long.points[1:-1]:
        over = [place for place in placed.places if place.x < right and left < place.x + place.width]
        assert over
        assert not [place for place in over if place.y < height < place.y + place.height]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_a_text_in_every_language(text):
    hub = service(text, [text], [text], [text])
    first = node(text, text, [Connection(-1, text), Connection(0, text + "?")], [text])
    workflow = Workflow(text, text, (first, node("after", text, [Connection(0, text)], [None])))
    for services in (None, hub):
        drawn = svg(workflow, services, {text: "error"})
        drawn.encode()
        tags = {found.tag.removeprefix(SVG) for found in ET.fromstring(drawn).iter()}
        assert tags <= {"svg", "title", "style", "rect", "g", "text", "tspan", "path", "circle"}
        graph = dot(workflow, services)
        assert holds_dot(graph)
        assert {found.tag for label in html_labels(graph) for found in label.iter()} <= {
            *("label", "table", "tr", "td", "b", "br", "i", "font")
        }
        chart = mermaid(workflow, services)
        assert holds_mermaid(chart)
        assert json.loads(chart.split("\n")[1].removeprefix("title: "))
        lines = printed(workflow, services, width=300).split("\n")
        assert all(line.isprintable() for line in lines)
        assert len(lines) <= 16


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_graph_can_be_drawn(data):
    ids = data.draw(st.lists(st.sampled_from("abcdef"), max_size=8))
    ends = st.builds(Connection, st.sampled_from([-1, 0, 1, 7, 2**31 - 1]), st.sampled_from([*"abcdefxy", URI]))
    nodes = [
        node(
            node_id, data.draw(st.sampled_from(sorted(HUB))), data.draw(st.lists(st.none() | ends, max_size=5)), [None]
        )
        for node_id in ids
    ]
    workflow = Workflow("any", "u", tuple(nodes))
    for services in (None, HUB):
        ET.fromstring(svg(workflow, services))
        assert holds_dot(dot(workflow, services))
        assert holds_mermaid(mermaid(workflow, services))
        assert printed(workflow, services)


@pytest.mark.parametrize(
    "secret",
    [URI, json.dumps({"x": URI}), "https://ada:S3cr3t!@host/ct.nii", "https://host/ct.nii?X-Amz-Signature=S3cr3t!"],
)
def test_passwords_are_masked_unless_revealed(secret):
    workflow = Workflow(
        secret,
        secret,
        (node(secret, secret, [Connection(-1, secret), Connection(0, secret + "x")], [secret]),),
    )
    hub = service(secret, [secret], [secret], [secret])
    for services in (None, hub):
        for drawn in every_drawing(workflow, services):
            assert "S3cr3t" not in drawn
    revealed = Workflow("w", "u", (node("a", connections=[Connection(-1, secret)], parameters=[secret]),))
    for drawn in (svg(revealed, None, reveal=True), printed(revealed, None, reveal=True, width=400)):
        assert "S3cr3t" in drawn


def test_a_uri_of_2017_is_shown_by_its_file_and_server():
    workflow = Workflow("w", "u", (node("a", connections=[Connection(-1, URI)]),))
    assert "← “ct.nii” on 10.0.0.5:8080" in printed(workflow)
    assert ">ct.nii<" in svg(workflow, None)


def test_a_password_that_a_cut_goes_through_is_masked():
    long = "x" * 19_990 + '"password": "' + "S3cr3t!" * 10 + '"'
    workflow = Workflow("w", "u", (node("a", parameters=[long]),))
    assert "S3cr3t" not in svg(workflow, None)


def chain(length):
    return Workflow(
        "chain", "u", tuple(node(f"n{i}", connections=[Connection(0, f"n{i - 1}")] if i else []) for i in range(length))
    )


def web(length):
    return Workflow(
        "web",
        "u",
        tuple(
            node(f"n{i}", connections=[Connection(i % 3, f"n{i * 7919 % i}"), Connection(0, f"n{i // 2}")] if i else [])
            for i in range(length)
        ),
    )


def circle(length):
    return Workflow("c", "u", tuple(node(f"n{i}", connections=[Connection(0, f"n{i - 1}")]) for i in range(length)))


def greedy(many):
    return Workflow("g", "u", (node("a", parameters=["v"] * many, connections=[Connection(-1, "x")] * many),))


@pytest.mark.parametrize(
    "workflow",
    [chain(10_000), web(10_000), circle(2_000), web(499), greedy(1_999), greedy(50_000)],
    ids=["chain", "web", "circle", "web499", "greedy", "greedier"],
)
def test_a_large_workflow_is_drawn_in_seconds(workflow):
    started = time.process_time()
    drawn = svg(workflow, None)
    assert time.process_time() - started < 12
    assert len(drawn) < 12_000_000
    started = time.process_time()
    assert dot(workflow, None)
    assert mermaid(workflow, None)
    assert time.process_time() - started < 8


def test_a_large_tree_has_a_line_per_node():
    workflow = chain(600)
    lines = printed(workflow).splitlines()
    assert len(lines) == 1 + 2 * 600
    assert lines[-1].strip() == "└── n599  S v1  ← n598"


def test_texts_are_cut_to_their_room():
    assert fitted("short", 100, 12) == "short"
    assert fitted("x" * 100, 100, 12).endswith("…")
    assert fitted("/a/long/way/to/ct.nii", 60, 12, tail=True).endswith("ct.nii")
    for text in ("x" * 100, "W" * 100, "脑" * 100, "i" * 500):
        assert text_width(fitted(text, 80, 12), 12) <= 80


def test_drawings_do_not_depend_on_the_hash_seed():
    program = (
        "import sys; from pathlib import Path; from peachctl import wire; from peachctl.draw import svg, dot, mermaid\n"
        "for name in sys.argv[1:]:\n"
        "    w = wire.decode_workflow(Path(name).read_bytes())\n"
        "    print(svg(w, None), dot(w, None), mermaid(w, None))"
    )
    names = [str(path) for path in sorted(GOLDEN.glob("*.bin")) if is_workflow(path)]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, *names],
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_drawing_loads_no_terminal_library_until_a_tree_is_asked_for():
    program = "import sys, peachctl.draw; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("char", ["x", "W", "\u2014", "\u754c", "\ufdfd", "\U0001f9e0"])
def test_a_heading_stays_inside_the_svg_in_any_font_and_tells_the_number_of_nodes(char):
    root = ET.fromstring(svg(Workflow(char * 300, char * 300, (node("a"),)), None, {"a": "success"}))
    room = float(root.get("width")) - 56
    title, about = [one for one in root.iter(f"{SVG}text") if one.get("x") == "28"][:2]
    assert [float(one.get("textLength") or 0) for one in (title, about)] == [room, room]
    assert (about.text or "").endswith("… · 1 node · 1 success")
