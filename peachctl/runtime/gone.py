"""Modules of 2017 that are gone on purpose: importing one says so, and what to use instead."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Never

_LIBRARY = "LDAPManager ServiceUtility config onStart serviceAgent storageHandler workflowQueueHandler xnatAgent"
_GONE = {"mysql_info", *(f"library.{name}" for name in _LIBRARY.split(" "))}


class Gone(ModuleNotFoundError):
    """Something of 2017 that peachctl does not have, on purpose."""


def refuse(name: str) -> Never:
    """Raises Gone for `name`."""
    if name == "mysql_info":
        raise Gone(
            "`mysql_info` of 2017 is gone on purpose: a workflow's process has no database; "
            "ServiceUtility.update_progress reports progress",
            name=name,
        )
    raise Gone(
        f"`{name}` of 2017 is gone on purpose: `import ServiceUtility` has what services need, `from_uri` of it "
        "fetches files",
        name=name,
    )


class _Finder(importlib.abc.MetaPathFinder):
    """Refuses modules of 2017. last: at the end of the search, where `library` itself was found nowhere."""

    def __init__(self, *, last: bool) -> None:
        self._last = last

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname in _GONE or (self._last and fullname.partition(".")[0] == "library"):
            refuse(fullname)
        return None


def install() -> None:
    """From now on an import of these modules fails with a sentence, even where an old copy stands on the path."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(last=False))
        sys.meta_path.append(_Finder(last=True))
