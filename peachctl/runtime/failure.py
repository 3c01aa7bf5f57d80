"""What becomes of an exception, or of a dead process: the type, the sentence and the traceback that people read."""

import os
import re
import signal
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import TypedDict

from peachctl.errors import PeachError
from peachctl.masking import mask

MESSAGE_BYTES = 4096
TRACEBACK_BYTES = 16384

_OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_DASK = os.sep + "dask" + os.sep
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep

_SIGNALS = {
    signal.SIGSEGV: "invalid memory access",
    signal.SIGBUS: "bad memory address, or a file that shrank under it",
    signal.SIGABRT: "the program aborted itself",
    signal.SIGFPE: "arithmetic error in native code",
    signal.SIGILL: "illegal instruction",
    signal.SIGKILL: "by the system when memory ran out, or by something in it",
    signal.SIGXCPU: "CPU time limit",
    signal.SIGXFSZ: "file size limit",
}

# Modules and names that Python 2 had and Python 3 has not, as far as services are likely to use them.
_MODULES_OF_2 = re.compile(
    "(__builtin__|BaseHTTPServer|ConfigParser|HTMLParser|Queue|SocketServer|StringIO|Tkinter|cPickle|cStringIO|commands|"
    r"cookielib|copy_reg|exceptions|httplib|md5|sets|sha|thread|urllib2|urlparse|xmlrpclib)(\.|\Z)"
)
_NAMES_OF_2 = re.compile("basestring|cmp|execfile|file|long|raw_input|reduce|reload|unichr|unicode|xrange")
_ATTRIBUTES_OF_2 = re.compile("has_key|iteritems|iterkeys|itervalues|im_func|func_name")


class Failure(TypedDict):
    """A node's failure as it is reported: exception type, one sentence, traceback text ('' if there is none)."""

    type: str
    message: str
    traceback: str


class ServiceError(PeachError):
    """A service that cannot be found, imported or called as the workflow wants it."""


def failure(kind: str, message: str, trace: str = "") -> Failure:
    """A Failure with passwords masked and texts cut to what a report holds."""
    return {"type": kind, "message": cut(mask(message), MESSAGE_BYTES), "traceback": cut(mask(trace), TRACEBACK_BYTES)}


def skipped(cause: str) -> Failure:
    """Why a node did not run: node `cause`, above it, failed."""
    return failure("Skipped", f"node {cause!r} failed")


def of_exception(error: BaseException, service: str, *, importing: bool = False) -> Failure:
    """The failure of a node whose service (its id) raised `error`, in `start` or while it was imported."""
    sentence = _sentence(error, service)
    if importing and not isinstance(error, ServiceError):
        sentence = f"service {service!r} can't be imported: {sentence}"
    return failure(type(error).__name__, sentence, trace_text(error))


def _sentence(error: BaseException, service: str) -> str:
    if isinstance(error, SystemExit):
        said = "" if error.code is None else _safely(error.code)
        return f"the service called sys.exit({said}) instead of returning"
    if isinstance(error, KeyboardInterrupt):
        return "the service raised KeyboardInterrupt"
    if isinstance(error, PeachError):
        return error.message + (f" ({error.hint})" if error.hint else "")
    if isinstance(error, MemoryError):
        return "the service ran out of memory" + (f": {_safely(error)}" if error.args else "")
    text = _safely(error) or type(error).__name__
    if isinstance(error, SyntaxError):
        text = f"{error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    hint = python_2_hint(error, service)
    return f"{text}; {hint}" if hint else text


def python_2_hint(error: BaseException, service: str) -> str:
    """What to type when the error looks as if the service was Python 2, else ''."""
    command = f"`peachctl services port {service}` brings it to Python 3"
    if isinstance(error, SyntaxError):
        return f"if this is Python 2, {command}"
    named = str(getattr(error, "name", None))
    if (
        (isinstance(error, ImportError) and _MODULES_OF_2.match(named))
        or (isinstance(error, NameError) and _NAMES_OF_2.fullmatch(named))
        or (isinstance(error, AttributeError) and _ATTRIBUTES_OF_2.fullmatch(named))
    ):
        return f"that is Python 2, {command}"
    return ""


def of_death(node: str, status: int, trace: str = "") -> Failure:
    """The failure of a node whose process ended under it. status: as `os.waitpid` gives it; trace: what the process
    could still say about where it was."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        why = _SIGNALS.get(signal.Signals(number)) if number in set(signal.Signals) else None
        return failure(
            "ProcessDied", f"the process of node {node!r} was killed by {name}" + (f" ({why})" if why else ""), trace
        )
    return failure(
        "ProcessDied",
        f"the process of node {node!r} ended with exit status {os.WEXITSTATUS(status)} without returning: "
        "something in it called os._exit, or ended it in another way",
        trace,
    )


def trace_text(error: BaseException) -> str:
    """The traceback of `error` with the service's frames only: those of peachctl, dask and the import system are
    left out. '' for an error for people without any frame of the service."""
    try:
        whole = traceback.TracebackException.from_exception(error)
        theirs = _drop_ours(whole)
        if not theirs:
            if isinstance(error, PeachError):
                return ""
            if not isinstance(error, SyntaxError | ImportError):
                whole = traceback.TracebackException.from_exception(error)  # a bug of ours: all that is known of it
        return "".join(whole.format())
    except Exception as broken:  # noqa: BLE001 - an exception of a service may break whoever formats it
        return f"{type(error).__name__} (its traceback can't be shown: {type(broken).__name__})\n"


def _drop_ours(whole: traceback.TracebackException) -> bool:
    """Drops frames of ours, also from causes; whether any frame was left."""
    left, todo, seen = False, [whole], set[int]()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        part.stack[:] = [frame for frame in part.stack if not is_ours(frame.filename)]
        left = left or bool(part.stack)
        inner = (part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ()))
        todo += [one for one in inner if one is not None]
    return left


def is_ours(filename: str) -> bool:
    """Whether a frame of this file says nothing to who wrote the service."""
    return (
        filename.startswith((_OURS, "<frozen "))
        or (_DASK in filename and "site-packages" in filename)
        or filename.startswith((_STDLIB + "concurrent", _STDLIB + "importlib"))
        or filename == getattr(sys.modules.get("__main__"), "__file__", None)  # the workflow's script
    )


def service_traceback(error: BaseException) -> TracebackType | None:
    """The traceback from the service's first frame on (for a debugger), or all of it."""
    trace = error.__traceback__
    while trace is not None and is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace or error.__traceback__


def fatal_trace(text: str) -> str:
    """What `faulthandler` wrote when the process died, without frames of ours."""
    text = text.partition("\nExtension modules:")[0]
    lines = [line for line in text.splitlines() if line and not _is_our_line(line)]
    return "\n".join(lines).strip()


def _is_our_line(line: str) -> bool:
    start = line.find('File "')
    return start >= 0 and is_ours(line[start + 6 :].partition('"')[0])


def cut(text: str, size: int) -> str:
    """At most `size` bytes of UTF-8: of a longer text the beginning and the end."""
    if len(text) * 4 <= size:
        return text
    raw = text.encode(errors="backslashreplace")
    if len(raw) <= size:
        return text
    half = (size - 8) // 2
    return raw[:half].decode(errors="ignore") + " [...] " + raw[-half:].decode(errors="ignore")


def _safely(value: object) -> str:
    """str(value), whatever the value's class makes of that."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001
        return f"<{type(value).__name__} that can't be shown>"
