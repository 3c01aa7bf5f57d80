"""`python -m peachctl.runtime SCRIPT`: a fresh interpreter for one workflow."""

import os
import signal
import sys

from peachctl import processes
from peachctl.runtime.entry import run_script
from peachctl.runtime.job import job_of_environment

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m peachctl.runtime SCRIPT")
    job = job_of_environment()
    if job is not None and job.parent is not None:
        processes.die_with_parent(signal.SIGKILL)
        if os.getppid() != job.parent:
            sys.exit(1)
    sys.exit(run_script(sys.argv[1]))
