"""Named points at which a test makes the process kill itself, to prove that any step may be its last.

`PEACHCTL_FAILPOINT=ingest:filed` kills at the first passing of that point; `ingest:filed@3` at the third.
Without the variable a passing costs one dictionary look-up.
"""

import os
import signal

_passed: dict[str, int] = {}


def fail_point(name: str) -> None:
    """Dies here by SIGKILL when the environment names this point; else does nothing."""
    wanted = os.environ.get("PEACHCTL_FAILPOINT")
    if not wanted:
        return
    point, _, count = wanted.partition("@")
    if point == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
