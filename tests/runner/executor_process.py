"""A process that plays the executor, to be killed or stopped: `executor_process.py WAY FOLDER ORDERS_AFTER SCRIPT...`.

Starts each script as a run and prints one JSON line per thing that happens; beats all the time.
"""

import json
import os
import select
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from peachctl.runner import SupervisorLost
from tests.runner.rig import make_job, opened


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    way, folder, orders_after, *scripts = sys.argv[1:]
    with opened(way, Path(folder), float(orders_after)) as rig:
        say(proof=rig.held.proof, token=rig.held.token, pid=os.getpid(), supervisor=rig.runner.pid)
        runs = [
            rig.runner.start(f"k{number}", make_job(Path(script)), Path(folder) / f"k{number}.log")
            for number, script in enumerate(scripts)
        ]
        while True:
            rig.runner.beat()
            select.select([rig.runner.fileno(), *(run.fileno() for run in runs)], [], [], 0.1)
            for run in runs:
                for event in run.events():
                    say(key=run.key, **event)
            try:
                for ended in rig.runner.ended():
                    say(ended=ended.key, code=ended.code, silent=ended.silent, namespace=rig.runner.namespace)
            except SupervisorLost:
                say(lost=True)
                return


if __name__ == "__main__":
    main()
