"""How a process runs a workflow script: alike in the warm fork, the fresh interpreter and `peachctl run-script`."""

import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from peachctl import processes
from peachctl.runtime.job import Job


def run_script(path: str) -> int:
    """Executes the script at `path` as `__main__` and returns the exit status of the process.

    0: all nodes succeeded (or were reused). 3: a node failed or was skipped. 1: the script itself is broken (its
    traceback is on stderr). What the script says by `sys.exit` is what is returned. The process is the workflow's
    own: `sys.argv`, `sys.modules["__main__"]` and signal handlers are left as the script leaves them.
    """
    script = Path(path).absolute()
    main = _main_of(script)
    try:
        code = compile(script.read_bytes(), str(script), "exec")
        exec(code, main.__dict__)  # noqa: S102 - running the script is what this process is for
    except SystemExit as end:
        return _status(end.code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BaseException as error:  # noqa: BLE001 - whatever the script raises is the run's failure
        _show(error)
        return 1
    return 0


def become(job: Job) -> None:
    """Makes this forked process one of that job's, before anything of it runs."""
    processes.set_name(f"peach:{job.queue_id}.{job.attempt}")
    os.environ["PEACHCTL_JOB"] = job.to_json()


def become_worker(job: Job) -> None:
    """As `become`, for a process that does not execute the script itself."""
    become(job)
    _main_of(Path(job.script))


def _main_of(script: Path) -> ModuleType:
    main = ModuleType("__main__")
    main.__file__ = str(script)
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    sys.argv = [str(script)]
    return main


def _status(code: object) -> int:
    """The exit status that `sys.exit(code)` asks for."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201
    return 1


def _show(error: BaseException) -> None:
    """Prints the traceback, without the frame of this module."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
