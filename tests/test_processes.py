"""Few words of Linux."""

import subprocess
import sys

HELD = """
from peachctl import processes

def held():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous"))

{first}
large = b"x" * (1 << 20)
del large
before = held()
large = b"y" * 900_000
del large
print(held() - before)
"""


def test_what_a_large_buffer_took_goes_back_to_the_system() -> None:
    kept = {
        first: int(subprocess.check_output([sys.executable, "-c", HELD.format(first=first)]))
        for first in ("", "processes.give_memory_back()")
    }
    assert kept[""] > 500, "the control: glibc keeps it"
    assert kept["processes.give_memory_back()"] < 100
