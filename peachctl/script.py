"""Workflow -> script: a Python file that a person can read, run by hand and debug. Pure: the same in, the same out.

The form of the file (format 1):

    #!/usr/bin/env python3
    # peachctl workflow script, format 1: written by peachctl, run by `peachctl run-script FILE` or `python FILE`
    # workflow: 'diamond'
    # user: 'ada@hospital'
    # message: MD5 of the Avro message, in hex
    # checksum: sha256 HEX of the N bytes after this line
    from peachctl.runtime import literal, node, output, run

    graph = {}
    graph['A'] = node('Split', 1, [literal('in.txt')], [])
    ...
    if __name__ == "__main__":
        run(graph)

One statement per node, in topological order: a nested expression of some hundred levels does not compile. Texts of
the message are Python literals in the code, and ASCII literals in the comments, so that none can end its line. They
stand in calls (`literal(...)`, `output(...)`): dask can take none of them for a key of the graph.
"""

import ast
import hashlib
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from peachctl.workflow import Connection, Node, Parameter, Workflow, order

FORMAT = 1

State: TypeAlias = Literal["intact", "torn", "edited"]

_SHEBANG = "#!/usr/bin/env python3\n"
_OURS = "# peachctl workflow script, format "
_SAYS = ": written by peachctl, run by `peachctl run-script FILE` or `python FILE`\n"
_IMPORTS = "from peachctl.runtime import literal, node, output, run\n\ngraph = {}\n"
_TRAILER = '\nif __name__ == "__main__":\n    run(graph)\n'

_BEGIN = re.compile(rb"\A(?:\xef\xbb\xbf)?#![^\n]*\n" + re.escape(_OURS.encode()) + rb"([0-9]{1,6})\b[^\n]*(?:\n|\Z)")
_FIELD = re.compile(rb"# (workflow|user|message|checksum): ([^\r\n]*)\r?\n")
_CHECKSUM = re.compile(rb"sha256 ([0-9a-f]{64}) of the ([0-9]{1,12}) bytes after this line")


@dataclass(frozen=True, slots=True)
class Header:
    """What a script of ours says of itself. Fields that cannot be read any more are ''.

    message: MD5 of the Avro message, in hex ('' if it was not known). checksum: SHA-256 of the body, in hex.
    state: `intact`: as it was written; `torn`: its end is missing or never reached the disk, it may be written again;
    `edited`: somebody changed it, it is theirs.
    """

    format: int
    workflow: str
    user: str
    message: str
    checksum: str
    state: State

    @property
    def intact(self) -> bool:
        """Whether the checksum is that of the body."""
        return self.state == "intact"


def render(workflow: Workflow, md5: str) -> str:
    """The script of a workflow. md5: of the Avro message, 32 hex digits, or '' where it is not known.

    Parameters are written as the contract hands them to services: `str(value)`, or None. Raises PeachError where the
    workflow has no order (a cycle), and ValueError for an md5 that is none.
    """
    if not re.fullmatch(r"(?:[0-9a-f]{32})?", md5):
        raise ValueError(f"not an MD5 in hex: {md5!r}")
    body = "".join((_IMPORTS, *map(_statement, order(workflow)), _TRAILER))
    written = body.encode()
    return (
        f"{_SHEBANG}{_OURS}{FORMAT}{_SAYS}"
        f"# workflow: {workflow.name!a}\n"
        f"# user: {workflow.user!a}\n"
        f"# message: {md5}\n"
        f"# checksum: sha256 {hashlib.sha256(written).hexdigest()} of the {len(written)} bytes after this line\n"
        f"{body}"
    )


def _statement(node: Node) -> str:
    inputs = ", ".join(map(_input, node.connections))
    parameters = ", ".join(map(_parameter, node.parameters))
    return f"graph[{node.id!r}] = node({node.service.id!r}, {node.service.version}, [{inputs}], [{parameters}])\n"


def _input(connection: Connection | None) -> str:
    if connection is None:
        return "None"
    if connection.is_literal:
        return f"literal({connection.node_id!r})"
    return f"output({connection.node_id!r}, {connection.port_idx})"


def _parameter(value: Parameter) -> str:
    return "None" if value is None else repr(str(value))


def read_header(script: str | bytes, expected: str | None = None) -> Header | None:
    """The header of a script, None where peachctl did not write it (or nothing of its first two lines is left).

    expected: what `render` gives for the row, where that is known. With it torn and edited are told apart exactly: a
    torn file is a beginning of the expected one. Without it a script counts as torn when it is shorter than it was
    and its last line is missing, or when it holds NUL bytes (blocks that never reached the disk).
    """
    data = script.encode(errors="surrogatepass") if isinstance(script, str) else script
    begin = _BEGIN.match(data)
    if begin is None:
        return None
    fields: dict[str, bytes] = {}
    position = begin.end()
    while "checksum" not in fields and (found := _FIELD.match(data, position)):
        fields[found[1].decode()] = found[2]
        position = found.end()
    checksum = _CHECKSUM.match(fields.get("checksum", b""))
    body = data[position:]
    return Header(
        format=int(begin[1]),
        workflow=_text(fields.get("workflow")),
        user=_text(fields.get("user")),
        message=fields.get("message", b"").decode(errors="replace"),
        checksum=checksum[1].decode() if checksum else "",
        state=_state(data, body, checksum, expected),
    )


def _state(data: bytes, body: bytes, checksum: re.Match[bytes] | None, expected: str | None) -> State:
    if checksum and hashlib.sha256(body).hexdigest().encode() == checksum[1]:
        return "intact"
    if b"\0" in data:
        return "torn"
    if expected is not None:
        return "torn" if expected.encode().startswith(data) else "edited"
    short = checksum is None or len(body) < int(checksum[2])
    if not short or (checksum is None and b"graph = " in body):
        return "edited"
    if checksum and hashlib.sha256(body + b"\n").hexdigest().encode() == checksum[1]:
        return "torn"
    return "edited" if body.rstrip().endswith(_TRAILER.strip().encode()) else "torn"


def _text(value: bytes | None) -> str:
    """The text that a comment of the header holds, '' where it is no text any more."""
    try:
        text = ast.literal_eval((value or b"''").decode("ascii"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return text if isinstance(text, str) else ""


def nodes_of(script: str) -> list[tuple[str, str, int]] | None:
    """The nodes of a script, as (id, service, version) in its own order, without running anything of it.

    None where they cannot be read: no Python, no `graph`, or a `graph` that is made in another way than ours (an
    edited script may do that, and runs all the same).
    """
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    nodes: dict[str, tuple[str, str, int]] = {}
    made = False
    for statement in tree.body:
        if not isinstance(statement, ast.Assign):
            continue
        for target in statement.targets:
            if isinstance(target, ast.Name) and target.id == "graph":
                if not (isinstance(statement.value, ast.Dict) and not statement.value.keys):
                    return None
                made = True
                nodes.clear()
            elif (
                isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and target.value.id == "graph"
            ):
                found = _node_of(target.slice, statement.value)
                if found is None:
                    return None
                nodes[found[0]] = found
    return list(nodes.values()) if made else None


def _node_of(key: ast.expr, value: ast.expr) -> tuple[str, str, int] | None:
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "node"):
        return None
    try:
        found = (ast.literal_eval(key), *map(ast.literal_eval, value.args[:2]))
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None
    match found:
        case (str() as node_id, str() as service, int() as version):
            return node_id, service, version
        case _:
            return None
