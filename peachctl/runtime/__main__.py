"""`python -m peachctl.runtime SCRIPT`: a fresh interpreter for one workflow."""

import sys

from peachctl.runtime.entry import run_script

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m peachctl.runtime SCRIPT")
    sys.exit(run_script(sys.argv[1]))
