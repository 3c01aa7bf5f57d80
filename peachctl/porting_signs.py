"""What shows that a source which Python 3 can read was written for Python 2, and what porting cannot decide.

All of it reads the syntax tree; nothing is run.
"""

import ast
from collections.abc import Iterator

# Modules that only Python 2 has, with names that nobody gives to a module of his own.
_MODULES = frozenset(
    {
        *("urllib2", "urlparse", "httplib", "cookielib", "xmlrpclib", "HTMLParser", "htmlentitydefs"),
        *("BaseHTTPServer", "SimpleHTTPServer", "CGIHTTPServer", "SocketServer", "ConfigParser", "Queue", "Tkinter"),
        *("StringIO", "cStringIO", "cPickle", "copy_reg", "__builtin__"),
    }
)
_NAMES = frozenset({"unicode", "basestring", "StandardError"})
_CALLS = frozenset({"xrange", "raw_input", "unichr", "long", "execfile", "reduce", "intern", "reload", "file", "apply"})
_DICT_ITERATORS = frozenset({"iteritems", "iterkeys", "itervalues", "viewitems", "viewkeys", "viewvalues"})
_LISTS_NO_MORE = frozenset({"map", "filter", "zip"})
_ATTRIBUTES = frozenset(
    {
        *(("urllib", name) for name in ("urlopen", "urlencode", "quote", "unquote", "quote_plus", "unquote_plus")),
        *(("urllib", name) for name in ("urlretrieve", "pathname2url", "url2pathname", "FancyURLopener")),
        *(("itertools", name) for name in ("imap", "izip", "ifilter", "ifilterfalse")),
        *(("sys", name) for name in ("maxint", "exc_type", "exc_value", "exc_traceback")),
        *(("types", name) for name in ("StringType", "UnicodeType", "StringTypes", "ListType", "DictType")),
        *(("types", name) for name in ("IntType", "LongType", "FloatType", "TupleType", "NoneType", "BooleanType")),
        *(("commands", name) for name in ("getoutput", "getstatusoutput")),
        ("os", "getcwdu"),
    }
    - {("types", "NoneType")}  # back since Python 3.10
)
# `string.f(text, ...)` is `text.f(...)` since Python 1.6, and only that in Python 3.
STRING_METHODS = frozenset(
    {
        *("lower", "upper", "swapcase", "capitalize", "strip", "lstrip", "rstrip", "split", "rsplit", "find", "rfind"),
        *("index", "rindex", "count", "replace", "zfill", "ljust", "rjust", "center", "expandtabs", "translate"),
    }
)
STRING_NAMES = {"letters": "ascii_letters", "lowercase": "ascii_lowercase", "uppercase": "ascii_uppercase"}
STRING_CALLS = {"atoi": "int", "atol": "int", "atof": "float", "maketrans": "str.maketrans"}

_GONE_MODULES = frozenset({"sets", "md5", "sha", "exceptions", "new", "popen2", "UserDict", "mimetools", "rfc822"})
_CODECS = frozenset({"hex", "base64", "zlib", "bz2", "rot13", "string_escape", "string-escape"})
_HASHES = frozenset({"md5", "sha1", "sha224", "sha256", "sha384", "sha512"})
_BYTES_CALLS = {"communicate": "communicate()", "check_output": "check_output()", "urlopen": "urlopen().read()"}


def signs_of(tree: ast.Module) -> list[tuple[int, str]]:
    """What only Python 2 understands: line and words, in order. What serves both (below `try`, or a look at the
    version, or with a name of the module's own) does not count."""
    bound, strings = bound_names(tree), imports_string(tree)
    return sorted(
        (line, text)
        for node in _decisive(tree)
        for line, text in (*_name_signs(node, bound, strings), *_print_signs(node), *_class_signs(node))
    )


def bound_names(tree: ast.Module) -> set[str]:
    """All names that the source gives a meaning of its own, in any scope."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return bound


def imports_string(tree: ast.Module) -> bool:
    """Whether `string` is the module of that name throughout, and never a variable."""
    nodes = list(ast.walk(tree))
    imported = any(
        alias.name == "string" and alias.asname is None
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    )
    variable = any(
        (isinstance(node, ast.Name) and node.id == "string" and not isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.arg) and node.arg == "string")
        for node in nodes
    )
    return imported and not variable


def _decisive(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only one of the two languages gets to."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If | ast.IfExp) and _asks_version(node.test):
            continue
        if isinstance(node, ast.Try) and any(_catches_missing(handler) for handler in node.handlers):
            for child in (*node.orelse, *node.finalbody):
                yield child
                yield from _decisive(child)
            continue
        yield node
        yield from _decisive(node)


def _asks_version(test: ast.expr) -> bool:
    words = {"version_info", "hexversion", "PY2", "PY3", "python_version", "version"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in words) or (isinstance(node, ast.Name) and node.id in words)
        for node in ast.walk(test)
    )


def _catches_missing(handler: ast.ExceptHandler) -> bool:
    names = {"ImportError", "ModuleNotFoundError", "NameError", "AttributeError"}
    return handler.type is not None and any(
        isinstance(node, ast.Name) and node.id in names for node in ast.walk(handler.type)
    )


def _name_signs(node: ast.AST, bound: set[str], strings: bool) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] in _MODULES:
                yield node.lineno, f"import {alias.name}"
    elif isinstance(node, ast.ImportFrom) and not node.level:
        module = node.module or ""
        for alias in node.names:
            if module in _MODULES or (module, alias.name) in _ATTRIBUTES:
                yield node.lineno, f"from {module} import {alias.name}"
    elif isinstance(node, ast.Name):
        if node.id in _NAMES and node.id not in bound:
            yield node.lineno, node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        pair = (node.value.id, node.attr)
        old_string = strings and pair[0] == "string" and _old_string_name(node.attr)
        if pair in _ATTRIBUTES or old_string:
            yield node.lineno, ".".join(pair)
    elif isinstance(node, ast.Call):
        yield from _call_signs(node, bound)
    elif isinstance(node, ast.Subscript) and _was_list(node.value, bound):
        yield node.lineno, "an index into what is no list any more"


def _old_string_name(name: str) -> bool:
    return name in STRING_METHODS or name in STRING_NAMES or name in STRING_CALLS or name in {"join", "joinfields"}


def _call_signs(node: ast.Call, bound: set[str]) -> Iterator[tuple[int, str]]:
    called = node.func
    if isinstance(called, ast.Name):
        if called.id in _CALLS and called.id not in bound:
            yield node.lineno, called.id
        if called.id == "len" and len(node.args) == 1 and _was_list(node.args[0], bound, methods=False):
            yield node.lineno, "the length of what is no list any more"
    elif isinstance(called, ast.Attribute):
        own = called.attr in bound
        if called.attr in _DICT_ITERATORS and not node.args and not own:
            yield node.lineno, f"{called.attr}()"
        elif called.attr == "has_key" and len(node.args) == 1 and not own:
            yield node.lineno, "has_key()"
        elif called.attr == "sort" and _was_list(called.value, bound):
            yield node.lineno, "sort() of what is no list any more"


def _was_list(node: ast.expr, bound: set[str], *, methods: bool = True) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in _LISTS_NO_MORE and node.func.id not in bound
    return (
        methods
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"keys", "values", "items"}
        and not (node.args or node.keywords)
        and node.func.attr not in bound
    )


def _is_print(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "print"


def _print_signs(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Print statements that Python 3 reads as something else."""
    if isinstance(node, ast.Expr) and _is_print(node.value):
        yield node.lineno, "print"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple):
        first = node.value.elts[0] if node.value.elts else None
        if isinstance(first, ast.Call) and _is_print(first.func):
            yield node.lineno, "print (...),"
    elif isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.RShift) and _is_print(node.left):
            yield node.lineno, "print >>"
        elif isinstance(node.left, ast.Call) and _is_print(node.left.func):
            yield node.lineno, "print (...) and more behind it"


def _class_signs(node: ast.AST) -> Iterator[tuple[int, str]]:
    if not isinstance(node, ast.ClassDef):
        return
    methods = {one.name: one.lineno for one in node.body if isinstance(one, ast.FunctionDef)}
    if "__nonzero__" in methods and "__bool__" not in methods:
        yield methods["__nonzero__"], "__nonzero__"
    if {"next", "__iter__"} <= methods.keys() and "__next__" not in methods:
        yield methods["next"], "def next"
    for one in node.body:
        if isinstance(one, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__metaclass__" for t in one.targets
        ):
            yield one.lineno, "__metaclass__"


def has_print_statement(tree: ast.Module) -> bool:
    """Whether a source that Python 3 can read prints as Python 2 does."""
    return any(True for node in _decisive(tree) for _ in _print_signs(node))


def warnings_of(tree: ast.Module, *, true_division: bool) -> list[tuple[int, str]]:
    """What a person has to look at in a source that was ported: line and sentence, in order.

    true_division: the source said `from __future__ import division`.
    """
    found: set[tuple[int, str]] = set()
    bound = bound_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            left = node.left if isinstance(node, ast.BinOp) else None
            right = node.right if isinstance(node, ast.BinOp) else node.value
            if not true_division and not _is_float(right) and not (left is not None and _is_float(left)):
                text = "'/' of two whole numbers was cut to a whole number in Python 2; '//' does that now"
                found.add((node.lineno, text))
        elif isinstance(node, ast.Call):
            found.update((node.lineno, text) for text in _call_warnings(node, bound))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            level = node.level if isinstance(node, ast.ImportFrom) else 0
            for name in names:
                if not level and name.partition(".")[0] in _GONE_MODULES:
                    found.add((node.lineno, f"the module {name} is gone, and nothing takes its place by itself"))
    return sorted(found)


def _is_float(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div) and (
            _is_float(node.left) or _is_float(node.right)
        )
    if isinstance(node, ast.UnaryOp):
        return _is_float(node.operand)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float"


def _call_warnings(node: ast.Call, bound: set[str]) -> Iterator[str]:
    called = node.func
    name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
    if isinstance(called, ast.Name) and name == "cmp" and "cmp" not in bound:
        yield "cmp() is gone: (a > b) - (a < b)"
    if name in {"sort", "sorted"} and any(one.arg == "cmp" for one in node.keywords):
        yield "cmp= is gone: key=functools.cmp_to_key(...)"
    elif isinstance(called, ast.Attribute) and name == "sort" and node.args:
        yield "sort() takes no comparison: key=functools.cmp_to_key(...)"
    if name in _BYTES_CALLS and not any(one.arg in {"text", "universal_newlines"} for one in node.keywords):
        yield f"{_BYTES_CALLS[name]} gives bytes, no text: .decode()"
    if isinstance(called, ast.Attribute):
        owner = called.value.id if isinstance(called.value, ast.Name) else ""
        first = node.args[0] if node.args else None
        if owner == "hashlib" and name in _HASHES and first is not None:
            yield f"hashlib.{name}() takes bytes, no text: .encode()"
        if name in {"encode", "decode"} and isinstance(first, ast.Constant) and first.value in _CODECS:
            yield f'.{name}("{first.value}") is gone: the modules binascii, base64, zlib do that on bytes'
        if owner == "os" and name in {"popen2", "popen3", "popen4"}:
            yield f"os.{name} is gone: the module subprocess does that"
