"""Runs the benchmarks of this folder, each in a process of its own, and ends with 1 when one failed."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(
    path.stem
    for path in HERE.glob("*.py")
    if path.stem not in ("run", "installation") and not path.stem.startswith("fuzz")
)


def main(chosen: list[str]) -> int:
    unknown = set(chosen) - set(NAMES)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there is: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    failed = []
    for name in chosen or NAMES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
