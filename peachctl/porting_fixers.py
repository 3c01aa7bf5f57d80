"""fissix at work: its fixers, a few of our own, and what it leaves undone. Imported only where something is ported."""

import ast
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from peachctl.porting_signs import (
    STRING_CALLS,
    STRING_METHODS,
    STRING_NAMES,
    bound_names,
    has_print_statement,
    imports_string,
)

# What fissix does, and the words for it. Left out: what is a matter of taste (idioms, set_literal, ws_comma,
# isinstance), and what it cannot tell from the text (operator, buffer).
_FIXERS = {
    "apply": "apply() is gone",
    "basestring": "basestring is str",
    "dict": "keys(), items(), values() of a dict are no lists",
    "except": "except E as name",
    "exec": "exec is a function",
    "execfile": "execfile() is gone",
    "exitfunc": "sys.exitfunc is gone",
    "filter": "filter() gives no list",
    "funcattrs": "func_name is __name__, and its kin",
    "future": "imports from __future__ that do nothing now",
    "getcwdu": "os.getcwdu() is os.getcwd()",
    "has_key": "has_key() is `in`",
    "imports": "a module that was renamed",
    "input": "input() evaluated what it read",
    "intern": "intern() is sys.intern()",
    "itertools": "itertools.imap and its kin are built in",
    "itertools_imports": "itertools.imap and its kin are built in",
    "long": "long is int",
    "map": "map() gives no list",
    "metaclass": "__metaclass__ is an argument",
    "methodattrs": "im_func is __func__, and its kin",
    "ne": "<> is !=",
    "next": "next() is a function",
    "nonzero": "__nonzero__ is __bool__",
    "numliterals": "octal and long numbers",
    "paren": "parentheses in a comprehension",
    "print": "print is a function",
    "raise": "raise E(text)",
    "raw_input": "raw_input() is input()",
    "reduce": "reduce() is in functools",
    "reload": "reload() is in importlib",
    "renames": "a name that was changed",
    "repr": "backticks are repr()",
    "standarderror": "StandardError is Exception",
    "sys_exc": "sys.exc_type and its kin are gone",
    "throw": "throw(E(text))",
    "tuple_params": "a tuple as parameter",
    "unicode": "every text is Unicode",
    "urllib": "urllib, urllib2 and urlparse are urllib.*",
    "xrange": "xrange() is range(), and range() gives no list",
    "xreadlines": "xreadlines() is gone",
    "zip": "zip() gives no list",
}
_OURS = {"import": "a module beside this one", "types": "types.StringType and its kin are the types themselves"}
_MOST_ROUNDS = 1000


class UnreadableError(Exception):
    """The source is no Python 2. The text says where."""


def refactor(text: str, tree: ast.Module | None, filename: str) -> tuple[str, list[tuple[int, str]]]:
    """A Python 2 source as Python 3, and a line and words for each change.

    tree: what Python 3 read, None where it could not. filename: '' where nothing is to be looked for beside it.
    Raises UnreadableError.
    """
    prints = tree is None or has_print_statement(tree)
    new, changes = _fissix(text, filename, certain=tree is None, prints=prints)
    try:
        ast.parse(new)
    except TabError as error:
        new = _expand_tabs(new)
        changes.append((error.lineno or 1, "tabs and spaces mixed: read as Python 2 did, a tab to each 8th column"))
    except (SyntaxError, ValueError):
        return new, changes  # the caller says so
    new, more = _finish(new)
    return new, changes + more


def _fissix(text: str, filename: str, *, certain: bool, prints: bool) -> tuple[str, list[tuple[int, str]]]:
    tool = _tool(certain, prints)
    padded = text if text.endswith("\n") else text + "\n"
    problems = []
    # Half-ported sources print as a function without saying so.
    for grammar in ("statement", "function") if prints else ("function",):
        tool.print_is_function = grammar == "function"
        tool.changes.clear()
        try:
            tree = tool.refactor_string(padded, filename)
        except _unreadable() as error:
            problems.append(_sentence(error))
            continue
        result = str(tree)
        return result if text.endswith("\n") else result.removesuffix("\n"), list(tool.changes)
    raise UnreadableError(problems[0])


def _sentence(error: Exception) -> str:
    context = getattr(error, "context", None)
    if context:  # fissix's ParseError: (prefix, (line, column))
        value = str(getattr(error, "value", "") or "").strip()
        return (
            f"line {context[1][0]}: no Python 2 either, at {value[:40]!r}"
            if value
            else f"line {context[1][0]}: ends early"
        )
    arguments = error.args
    if len(arguments) > 1 and isinstance(arguments[1], tuple) and len(arguments[1]) > 1:
        line = arguments[1][0] if isinstance(arguments[1][0], int) else arguments[1][1]
        return f"line {line}: {arguments[0]}"
    return str(error) or type(error).__name__


def _load() -> Any:
    """fissix, which writes its grammar tables into the user's cache folder when it is imported: or into another."""
    import fissix

    try:
        import fissix.refactor
    except OSError:
        with tempfile.TemporaryDirectory(prefix="peachctl-") as folder:
            fissix.CACHE_DIR = Path(folder)
            import fissix.refactor
    return fissix


def is_python_2(text: str) -> bool:
    """Whether Python 2 could read a source (also one that prints as a function does)."""
    if "\0" in text:  # fissix would let it pass
        return False
    _load()
    from fissix import pygram, pytree
    from fissix.pgen2 import driver

    for grammar in (pygram.python_grammar, pygram.python_grammar_no_print_statement):
        try:
            driver.Driver(grammar, convert=pytree.convert).parse_string(text if text.endswith("\n") else text + "\n")
        except _unreadable():
            continue
        return True
    return False


def _unreadable() -> tuple[type[Exception], ...]:
    from fissix.pgen2 import parse, tokenize

    return (parse.ParseError, tokenize.TokenError, SyntaxError, RecursionError)


@cache  # compiling the fixers' patterns takes longer than most sources
def _tool(certain: bool, prints: bool) -> Any:
    """A refactoring tool that remembers what it changed.

    certain: Python 3 cannot read the source. Where it can, the source may have been ported before, so what would
    change it a second time (`input()`, "\\u00e9") stays as it is.
    """
    fissix = _load()
    from fissix import fixer_util, pygram
    from fissix.fixes import fix_import, fix_types

    class BesideFixer(fix_import.FixImport):  # type: ignore[misc]
        def probably_a_local_import(self, imp_name: str) -> bool:
            # ServiceUtility is the runtime's, even where an old copy lies beside the service (contract).
            if not self.filename or "." in imp_name or imp_name == "ServiceUtility":
                return False
            return bool(super().probably_a_local_import(imp_name))

    class TypesFixer(fix_types.FixTypes):  # type: ignore[misc]
        def transform(self, node: Any, results: dict[str, Any]) -> Any:
            if results["name"].value == "StringType":  # fissix says bytes; parameters of services are texts
                return fixer_util.Name("str", prefix=node.prefix)
            return super().transform(node, results)

    class Tool(fissix.refactor.RefactoringTool):  # type: ignore[misc, name-defined]
        print_is_function = False

        def __init__(self, names: list[str]) -> None:
            self.changes: list[tuple[int, str]] = []
            super().__init__([f"fissix.fixes.fix_{name}" for name in names])

        def get_fixers(self) -> tuple[list[Any], list[Any]]:
            pre, post = super().get_fixers()
            for ours, words in ((BesideFixer, _OURS["import"]), (TypesFixer, _OURS["types"])):
                fixer = ours(self.options, self.fixer_log)
                fixer.words = words
                (pre if fixer.order == "pre" else post).append(fixer)
            for fixer in (*pre, *post):
                self._watch(fixer)
            return pre, post

        def _watch(self, fixer: Any) -> None:
            transform = fixer.transform
            words = getattr(fixer, "words", None) or _FIXERS[type(fixer).__module__.rpartition("fix_")[2]]

            def watched(node: Any, results: Any) -> Any:
                line, before = node.get_lineno(), str(node)
                new = transform(node, results)
                if new is not None or str(node) != before:
                    self.changes.append((line, words))
                return new

            fixer.transform = watched

        def refactor_string(self, data: str, name: str) -> Any:
            features = fissix.refactor._detect_future_features(data)
            as_function = self.print_is_function or "print_function" in features
            self.driver.grammar = pygram.python_grammar_no_print_statement if as_function else self.grammar
            try:
                tree = self.driver.parse_string(data)
            finally:
                self.driver.grammar = self.grammar
            tree.future_features = features | (frozenset() if certain else frozenset({"unicode_literals"}))
            self.refactor_tree(tree, name)
            return tree

    left_out = {*(() if prints else ("print",)), *(() if certain else ("input",))}
    return Tool([name for name in _FIXERS if name not in left_out])


def _expand_tabs(text: str) -> str:
    """Indentation without tabs, each to the next 8th column, as Python 2 read it; not inside of texts."""
    from fissix.pgen2 import tokenize

    inside: set[int] = set()
    lines = text.splitlines(keepends=True)
    for kind, _, start, end, _ in tokenize.generate_tokens(iter([*lines, ""]).__next__):
        if kind == tokenize.STRING:
            inside.update(range(start[0] + 1, end[0] + 1))
    for index, line in enumerate(lines):
        body = line.lstrip(" \t")
        if index + 1 not in inside and "\t" in line[: len(line) - len(body)]:
            lines[index] = line[: len(line) - len(body)].expandtabs(8) + body
    return "".join(lines)


def _finish(text: str) -> tuple[str, list[tuple[int, str]]]:
    """What fissix leaves undone: functions of `string`, and `file()`. One change a round, the innermost first."""
    changes: list[tuple[int, str]] = []
    for _ in range(_MOST_ROUNDS):
        tree = ast.parse(text)
        bound, strings = bound_names(tree), imports_string(tree)
        nodes = list(ast.walk(tree))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        edits = [
            edit
            for node in nodes
            if (edit := _edit(node, bound, strings, text) or _edit_value(node, called, strings, text)) is not None
        ]
        if not edits:
            break
        start, end, new, line, words = min(edits, key=lambda edit: edit[1] - edit[0])
        text = text[:start] + new + text[end:]
        changes.append((line, words))
    return text, changes


def _edit(node: ast.AST, bound: set[str], strings: bool, text: str) -> tuple[int, int, str, int, str] | None:
    """Where a node stands in the text, what takes its place, its line, and the words for it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "file" and "file" not in bound:
            return (*_span(node.func, text), "open", node.lineno, "file() is open()")
        return None
    if not strings:
        return None
    if isinstance(node, ast.Attribute) and _of_string(node) and node.attr in STRING_NAMES:
        new = f"string.{STRING_NAMES[node.attr]}"
        return (*_span(node, text), new, node.lineno, f"string.{node.attr} is {new}")
    if not isinstance(node, ast.Call) or not _of_string(node.func) or node.keywords or not node.args:
        return None
    assert isinstance(node.func, ast.Attribute)
    name = node.func.attr
    if any(isinstance(one, ast.Starred) for one in node.args):
        return None
    given = [text[slice(*_span(one, text))] for one in node.args]
    words = f"string.{name}() is a method of texts"
    if name in {"join", "joinfields"}:
        new = f"{_owner(node.args[1], given[1]) if len(given) > 1 else repr(' ')}.join({given[0]})"
    elif name in STRING_METHODS:
        new = f"{_owner(node.args[0], given[0])}.{name}({', '.join(given[1:])})"
    elif name in STRING_CALLS:
        new = f"{STRING_CALLS[name]}({', '.join(given)})"
        words = f"string.{name}() is {STRING_CALLS[name]}()"
    else:
        return None
    return (*_span(node, text), new, node.lineno, words)


def _edit_value(node: ast.AST, called: set[int], strings: bool, text: str) -> tuple[int, int, str, int, str] | None:
    """The same for a function of `string` that is not called but handed on (`map(string.strip, lines)`)."""
    if not strings or not isinstance(node, ast.Attribute) or not _of_string(node) or id(node) in called:
        return None
    new = f"str.{node.attr}" if node.attr in STRING_METHODS else STRING_CALLS.get(node.attr)
    return None if new is None else (*_span(node, text), new, node.lineno, f"string.{node.attr} is {new}")


def _of_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "string"


def _owner(node: ast.expr, text: str) -> str:
    plain = ast.Name | ast.Attribute | ast.Call | ast.Subscript
    if isinstance(node, plain) or (isinstance(node, ast.Constant) and "\n" not in text and text[0] in "'\""):
        return text
    return f"({text})"


def _span(node: ast.expr, text: str) -> tuple[int, int]:
    """Start and end of a node as indexes into the text (the tree counts UTF-8 bytes of a line)."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    return _index(text, node.lineno, node.col_offset), _index(text, node.end_lineno, node.end_col_offset)


def _index(text: str, line: int, column: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    end = text.find("\n", start)
    head = text[start : end if end >= 0 else len(text)].encode()[:column]
    return start + len(head.decode())
