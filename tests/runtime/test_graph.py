"""Nodes run, once each and in order; what fails stops what depends on it and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from peachctl.runtime import literal, node, output
from peachctl.runtime.graph import GraphError, plan

from .conftest import Bench

UPPER = """
    def start(c, text=None, suffix=None):
        return [str(text).upper() + (suffix or "")]
"""
JOIN = """
    def start(c, a=None, b=None, sep=None):
        return [(sep or "").join([a, b])]
"""
SPLIT = """
    import os
    def start(c, text):
        with open("started", "a") as log:
            log.write(c[1] + "\\n")
        return [text[0], text[1]]
"""


def test_a_diamond_runs_and_its_shared_ancestor_once(bench: Bench, scheduler: str) -> None:
    for name, code in {"Upper": UPPER, "Join": JOIN, "Split": SPLIT}.items():
        bench.service(name, code)
    ran = bench.run(
        {
            "A": "node('Split', 1, [literal('xy')], [])",
            "B": "node('Upper', 1, [output('A', 0)], [])",
            "C": "node('Upper', 1, [output('A', 1)], ['!'])",
            "D": "node('Join', 1, [output('B', 0), output('C', 0)], ['-'])",
        },
        scheduler=scheduler,
    )
    assert ran.status == 0
    assert ran.outputs("D") == ["X-Y!"]
    assert (ran.folder.parent / "started").read_text() == "A\n"
    assert ran.events[0]["event"] == "graph"
    assert [one["id"] for one in ran.events[0]["nodes"]][0] == "A"
    assert ran.events[-1] == {"event": "end", "failed": 0}


@pytest.mark.fault("E5")
def test_literals_and_parameters_are_never_taken_for_nodes(bench: Bench, scheduler: str) -> None:
    bench.service("Upper", UPPER)
    ran = bench.run(
        {
            "A": "node('Upper', 1, [literal('B')], ['B'])",
            "B": "node('Upper', 1, [literal('A')], ['0'])",
            "0": "node('Upper', 1, [literal('0')], ['A'])",
        },
        scheduler=scheduler,
    )
    assert [ran.outputs(id) for id in "AB0"] == [["BB"], ["A0"], ["0A"]]


FAILING = {
    "raises": ("raise ValueError('bad value')", "bad value"),
    "exits": ("import sys; sys.exit('gone')", "the service called sys.exit(gone) instead of returning"),
    "interrupts": ("raise KeyboardInterrupt", "the service raised KeyboardInterrupt"),
    "generator_exit": ("raise GeneratorExit", "GeneratorExit"),
    "short": ("return []", "returned no values, but its output port 0 is connected"),
}


@pytest.mark.parametrize("how", FAILING)
def test_a_failing_node_stops_what_depends_on_it_and_nothing_else(bench: Bench, scheduler: str, how: str) -> None:
    code, sentence = FAILING[how]
    bench.service("Fail", f"def start(c, *given):\n    {code}\n")
    bench.service("Upper", UPPER)
    ran = bench.run(
        {
            "bad": "node('Fail', 1, [literal('x')], [])",
            "below": "node('Upper', 1, [output('bad', 0)], [])",
            "further": "node('Upper', 1, [output('below', 0)], [])",
            "other": "node('Upper', 1, [literal('x')], [])",
        },
        scheduler=scheduler,
    )
    assert ran.status == 3
    assert ran.states == {"bad": "error", "below": "skipped", "further": "skipped", "other": "success"}
    assert sentence in ran.message("bad")
    assert ran.last["further"]["error"] == {"type": "Skipped", "message": "node 'bad' failed", "traceback": ""}
    assert ran.events[-1] == {"event": "end", "failed": 3}


def test_a_traceback_begins_in_the_service_and_holds_nothing_of_ours(bench: Bench, scheduler: str) -> None:
    bench.service("Fail", "def inner():\n    return 1 / 0\ndef start(c):\n    inner()\n")
    ran = bench.run({"n": "node('Fail', 1, [], [])"}, scheduler=scheduler)
    lines = ran.last["n"]["error"]["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('Fail.py", line 4, in start')
    assert "peachctl" not in "".join(lines[2:]).replace(str(bench.place), "") and "dask" not in "".join(lines)
    assert lines[-1] == "ZeroDivisionError: division by zero"


DEATHS = {
    "segfault": ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV (invalid memory access)"),
    "os_exit": ("os._exit(3)", "ended with exit status 3 without returning"),
    "os_exit_0": ("os._exit(0)", "ended with exit status 0 without returning"),
    "sigkill": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    "sigterm": ("os.kill(os.getpid(), signal.SIGTERM)", "was killed by SIGTERM"),
    "abort": ("os.abort()", "was killed by SIGABRT"),
    "closes_all": ("os.closerange(3, 1000); time.sleep(60)", "lost its connection"),
    "writes_everywhere": ("everywhere(); time.sleep(60)", "had written into its connection"),
    "writes_everywhere_and_returns": ("everywhere()", "had written into its connection"),
    "kills_its_group": ("os.killpg(0, signal.SIGKILL)", "was killed by SIGKILL"),
    "leaves_a_child": ("os.fork() or time.sleep(1); os._exit(5)", "ended with exit status 5"),
}


# Every socket: in a test there are pipes of pytest's beside them.
EVERYWHERE = """
    import os, stat
    def everywhere():
        for fd in range(3, 256):
            try:
                stat.S_ISSOCK(os.fstat(fd).st_mode) and os.write(fd, b"garbage")
            except OSError:
                pass
"""


@pytest.mark.parametrize("how", DEATHS)
def test_a_node_that_dies_takes_only_itself_along(bench: Bench, how: str) -> None:
    code, sentence = DEATHS[how]
    bench.service("Die", f"{dedent(EVERYWHERE)}\nimport signal, time\ndef start(c, *given):\n    {code}\n")
    bench.service("Slow", "import time, os\ndef start(c, *given):\n    time.sleep(0.3)\n    return [os.getpid()]\n")
    ran = bench.run(
        {
            "slow": "node('Slow', 1, [], [])",
            "dies": "node('Die', 1, [], [])",
            "dies too": "node('Die', 1, [], [])",
            "below": "node('Slow', 1, [output('dies', 0)], [])",
            "after": "node('Slow', 1, [output('slow', 0)], [])",
        }
    )
    assert ran.status == 3
    states = {"slow": "success", "dies": "error", "dies too": "error", "below": "skipped", "after": "success"}
    assert ran.states == states
    assert ran.message("dies").startswith("the process of node 'dies' ")
    assert sentence in ran.message("dies")


def test_what_a_node_leaves_in_its_process_does_not_fail_the_next_one(bench: Bench) -> None:
    late = "\nimport threading, time\ndef start(c):\n    threading.Timer(0.2, everywhere).start()\n"
    bench.service("Late", dedent(EVERYWHERE) + late)
    bench.service("Slow", "import time\ndef start(c, *given):\n    time.sleep(0.5)\n    return [1]\n")
    ran = bench.run(
        {
            "late": "node('Late', 1, [], [])",
            "slow": "node('Slow', 1, [], [])",
            "next": "node('Slow', 1, [output('slow', 0)], [])",
            "beside": "node('Slow', 1, [output('slow', 0)], [])",
        },
        workers=2,
    )
    assert set(ran.states.values()) == {"success"}


def test_what_a_service_has_started_lives_until_the_last_node_of_another_process_has_ended(bench: Bench) -> None:
    bench.service(
        "Serve",
        """
        import socket, threading
        def start(c):
            listener = socket.create_server(("127.0.0.1", 0))
            def serve():
                while True:
                    client, _ = listener.accept()
                    client.sendall(b"hello")
                    client.close()
            threading.Thread(target=serve, daemon=True).start()
            return [listener.getsockname()[1]]
        """,
    )
    bench.service(
        "Ask",
        """
        import socket, time
        def start(c, port, wait):
            time.sleep(float(wait))
            with socket.create_connection(("127.0.0.1", port), 5) as server:
                return [server.recv(100).decode()]
        """,
    )
    asking = {name: f"node('Ask', 1, [output('serve', 0)], ['{wait}'])" for name, wait in (("late", 0.7), ("soon", 0))}
    ran = bench.run({"serve": "node('Serve', 1, [], [])", **asking}, workers=2)
    assert set(ran.states.values()) == {"success"}


def test_a_crash_says_where_the_service_was(bench: Bench) -> None:
    bench.service("Die", "import ctypes\ndef start(c):\n    ctypes.string_at(0)\n")
    ran = bench.run({"n": "node('Die', 1, [], [])"})
    assert 'Die.py", line 3 in start' in ran.last["n"]["error"]["traceback"]
    assert "pool.py" not in ran.last["n"]["error"]["traceback"]


def test_nodes_never_share_a_process_at_the_same_time_and_the_pool_is_no_wider_than_the_graph(bench: Bench) -> None:
    bench.service("Pid", "import os, time\ndef start(c, *given):\n    time.sleep(0.05)\n    return [os.getpid()]\n")
    wide = bench.run({f"n{i}": "node('Pid', 1, [], [])" for i in range(9)})
    assert len({wide.outputs(f"n{i}")[0] for i in range(9)}) == 3
    chain = {"n0": "node('Pid', 1, [], [])"} | {f"n{i}": f"node('Pid', 1, [output('n{i - 1}', 0)], [])" for i in (1, 2)}
    deep = bench.run(chain)
    assert len({deep.outputs(f"n{i}")[0] for i in range(3)}) == 1
    assert os.getpid() not in {wide.outputs("n0")[0], deep.outputs("n0")[0]}


def test_results_that_cannot_be_pickled_are_that_nodes_error(bench: Bench) -> None:
    bench.service("Lock", "import threading\ndef start(c):\n    return [threading.Lock(), 'fine']\n")
    bench.service("Upper", UPPER)
    ran = bench.run(
        {
            "bad": "node('Lock', 1, [], [])",
            "below": "node('Upper', 1, [output('bad', 0)], [])",
            "unread": "node('Lock', 1, [], [])",
            "fine": "node('Upper', 1, [output('unread', 1)], [])",
        }
    )
    assert ran.states == {"bad": "error", "below": "skipped", "unread": "success", "fine": "success"}
    assert "can't be pickled" in ran.message("bad") and "output port 0" in ran.message("bad")


def test_large_results_travel(bench: Bench) -> None:
    bench.service("Big", "def start(c, given=None):\n    return [given or b'x' * 30_000_000]\n")
    bench.service("Len", "def start(c, a, b):\n    return [len(a) + len(b)]\n")
    ran = bench.run(
        {
            "a": "node('Big', 1, [], [])",
            "b": "node('Big', 1, [output('a', 0)], [])",
            "n": "node('Len', 1, [output('a', 0), output('b', 0)], [])",
        }
    )
    assert ran.outputs("n") == [60_000_000]


def test_workers_die_with_the_workflows_process(bench: Bench) -> None:
    bench.service("Sleep", "import time\ndef start(c):\n    time.sleep(60)\n")
    running = 0

    def kill(event: dict[str, object], pid: int) -> None:
        nonlocal running
        running += event.get("status") == "running"
        if running == 2:
            running = 99
            os.kill(pid, signal.SIGKILL)

    begin = time.monotonic()
    ran = bench.run({"a": "node('Sleep', 1, [], [])", "b": "node('Sleep', 1, [], [])"}, on_event=kill)
    assert ran.status == -signal.SIGKILL  # the socket saw its end: no process holds it any more
    assert time.monotonic() - begin < 5


def test_a_service_that_forks_and_comes_back_twice_counts_once(bench: Bench) -> None:
    bench.service("Fork", "import os\ndef start(c):\n    os.fork()\n    return [1]\n")
    ran = bench.run({"a": "node('Fork', 1, [], [])", "b": "node('Fork', 1, [], [])"})
    assert ran.status == 0
    assert [event["id"] for event in ran.events if event.get("status") == "success"].count("a") == 1


def test_an_executor_that_is_gone_ends_the_run_quietly(bench: Bench, scheduler: str) -> None:
    import socket

    bench.service("Upper", UPPER)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    ran = bench.run({"a": "node('Upper', 1, [], [])"}, report_fd=theirs.fileno(), scheduler=scheduler)
    theirs.close()
    assert ran.status == 1
    assert "Traceback" not in ran.output


@pytest.mark.parametrize("shape", ["chain", "fan", "ladder", "layers"])
def test_the_cost_per_node_does_not_grow_with_their_number(bench: Bench, shape: str) -> None:
    """A coarse guard that noise can't trip: ten times the nodes in less than thirty times the time."""
    bench.service("Same", "def start(c, *given):\n    return [1]\n")

    def above(index: int) -> list[int]:
        if shape == "fan":
            return [0] if index else []
        if shape == "layers":
            return [index - 10, index - 9] if index >= 10 else []
        return [i for i in ((index - 1,) if shape == "chain" else (index - 1, index - 2)) if i >= 0]

    def seconds(count: int) -> float:
        def call(index: int) -> str:
            return "node('Same', 1, [" + ", ".join(f"output('n{j}', 0)" for j in above(index)) + "], [])"

        graph = {f"n{index}": call(index) for index in range(count)}
        script = bench.script(graph)
        begin = time.perf_counter()
        ran = bench.run(script, scheduler="sync")
        assert ran.status == 0 and ran.events[-1] == {"event": "end", "failed": 0}
        return time.perf_counter() - begin

    assert seconds(2000) < 30 * max(seconds(200), 0.05)


def test_graphs_that_cannot_run_are_refused_with_a_sentence() -> None:
    with pytest.raises(GraphError, match="circle: 'a', 'b'"):
        plan({"a": node("S", 1, [output("b", 0)], []), "b": node("S", 1, [output("a", 0)], [])})
    with pytest.raises(GraphError, match="reads node 'x', which is not there"):
        plan({"a": node("S", 1, [output("x", 0)], [])})
    with pytest.raises(GraphError, match="an input is literal"):
        plan({"a": node("S", 1, ["x"], [])})  # type: ignore[list-item]
    with pytest.raises(GraphError, match="a parameter is a text or None"):
        plan({"a": node("S", 1, [literal("x")], [3])})  # type: ignore[list-item]


def test_a_workflow_without_nodes_ends(bench: Bench, scheduler: str) -> None:
    ran = bench.run({}, scheduler=scheduler)
    assert ran.status == 0
    assert [event["event"] for event in ran.events] == ["graph", "end"]


def test_an_edited_script_that_is_broken_fails_with_its_traceback(bench: Bench) -> None:
    script = bench.place / "broken.py"
    script.write_text("x = 1\nraise RuntimeError('edited badly')\n")
    ran = bench.run(script)
    assert ran.status == 1
    assert "RuntimeError: edited badly" in ran.output and "entry.py" not in ran.output


def fresh(bench: Bench, command: list[str], cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    variables = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PEACHCTL")},
        "PEACHCTL_FOLDERS__DATA": str(bench.place / "data"),
        "PEACHCTL_FOLDERS__HUB": bench.job.hub,
        **environ,
    }
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_python_file_runs_by_hand_from_any_folder(bench: Bench) -> None:
    bench.service("Say", "import ServiceUtility as s\ndef start(c):\n    s.info(c, 'hello')\n    return ['x']\n")
    bench.service("Fail", "def start(c):\n    raise ValueError('oh')\n")
    elsewhere = bench.place / "elsewhere"
    elsewhere.mkdir()
    script = bench.script({"say": "node('Say', 1, [], [])", "fail": "node('Fail', 1, [], [])"})
    done = fresh(bench, [sys.executable, f"../{script.name}"], elsewhere)
    assert done.returncode == 3
    folder = bench.place / "data" / "workflow_temp" / "by_hand" / script.stem / "workflow_0"
    assert str(folder) in done.stderr and "error    fail (Fail 1): oh" in done.stderr
    assert (folder / "say.log").read_text() == '[say](info): "hello"\n'
    assert list(elsewhere.iterdir()) == []


def test_a_fresh_interpreter_runs_the_same_script(bench: Bench) -> None:
    bench.service("Upper", UPPER)
    script = bench.script({"a": "node('Upper', 1, [literal('x')], [])"})
    done = fresh(bench, [sys.executable, "-m", "peachctl.runtime", str(script)], bench.place)
    assert done.returncode == 0, done.stderr
    assert "all 1 nodes succeeded" in done.stderr


def test_ctrl_c_ends_a_run_by_hand(bench: Bench, scheduler: str) -> None:
    bench.service("Sleep", "import time\ndef start(c):\n    print('asleep', flush=True)\n    time.sleep(60)\n")
    script = bench.script({"a": "node('Sleep', 1, [], [])"})
    environ = {
        **os.environ,
        "PEACHCTL_FOLDERS__DATA": str(bench.place / "data"),
        "PEACHCTL_FOLDERS__HUB": bench.job.hub,
        "PEACHCTL_EXECUTE__SCHEDULER": scheduler,
    }
    with subprocess.Popen(
        [sys.executable, str(script)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"asleep\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 130


def test_pdb_stops_in_the_services_frame(bench: Bench) -> None:
    import pty

    bench.service("Fail", "def start(c):\n    treasure = 'found it'\n    raise ValueError('oh')\n")
    script = bench.script({"a": "node('Fail', 1, [], [])"})
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(
            PEACHCTL_PDB="1", PEACHCTL_FOLDERS__DATA=str(bench.place / "data"), PEACHCTL_FOLDERS__HUB=bench.job.hub
        )
        os.execv(sys.executable, [sys.executable, "-m", "peachctl.runtime", str(script)])
    said = b""
    os.write(terminal, b"p treasure\nq\n")
    while True:
        try:
            said += os.read(terminal, 4096)
        except OSError:
            break
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"'found it'" in said
