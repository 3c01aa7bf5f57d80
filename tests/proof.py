"""The long campaigns, all of them or the one that is named. Figures go to docs/proof.md, with seed and date.

    make proof
    make proof ARGS="kills --count 200 --seed 7"
    make proof ARGS="campaign --kills 1000 --messages 20000 --seed 7"
    make proof ARGS="fuzz --count 5000000"

kills: workflows are submitted, and SIGKILL hits an executor or its warm parent at random moments until all have
ended; then nothing may be lost, run twice at once, or left alive. campaign: the same over Kafka and MariaDB, which are
killed as well, with a ledger outside and the order of 2017 as a control that must fail. drain: SIGTERM to executors
while messages flow. memory: what both consumers hold after so many messages. servers: the suites of the store and of
its schema on each of the older databases. codes: every error code of Kafka in the answers to each request that we
send. fuzz: mutated messages against the Avro reference.
"""

import argparse
import contextlib
import logging
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Peach

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP))
FIGURES = TOP / "docs" / "proof.md"
HEAD = """# Proof

What `make proof` has found, the latest of each campaign. Written by `tests/proof.py`. Times are those of the clock,
whatever else the machine had to do.

How the campaign judges: in the first fifth of the strikes no executor is there, who would write scripts that are
missing and find rows that nobody announced. All that was filed until then must have its script and its event, read from
the topic, before the first executor starts. After that a row may lack its event if it was begun: who filed it was
struck, and an executor that looked into the queue was faster than the next ingest. The figures say how many. The
control is struck at random as the others are; where it lost nothing, the campaign has failed.

| which | figures | seed | date | machine |
|---|---|---|---|---|
"""


def note(campaign: str, figures: str, seed: int) -> None:
    """Puts the campaign's line into docs/proof.md, in place of its last one."""
    text = FIGURES.read_text(encoding="utf-8") if FIGURES.is_file() else HEAD
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    line = f"| {campaign} | {figures} | {seed} | {datetime.now(UTC):%Y-%m-%d} | {machine} |\n"
    kept = re.sub(rf"^\| {campaign} \|.*\n", "", text, flags=re.MULTILINE)
    FIGURES.write_text(kept + line, encoding="utf-8")
    print(line, end="")


def kills(arguments: argparse.Namespace) -> int:
    """Random SIGKILLs until `count` have hit; each round ends with an executor left in peace, and a verdict."""
    from tests.conftest import Peach, make_hub, node, workflow
    from tests.road.judge import judge

    chance = random.Random(arguments.seed)
    hits = rounds = workflows = restarted = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hub = make_hub(Path(folder) / "hub")
        while hits < arguments.count:
            rounds += 1
            home = Path(folder) / f"round{rounds}"
            home.mkdir()
            peach = Peach(home, hub, {"PEACHCTL_EXECUTE__MAX_ATTEMPTS": "1000"})
            ledger = home / "ledger"
            size = chance.randint(1, 4)
            plan = [
                workflow(
                    node("a", "Text", [f"w{number}"]),
                    *(node(f"s{at}", "Sleep", [str(chance.random() * 0.4)], "a") for at in range(3)),
                    node("c", "Count", [str(ledger)], "s0"),
                    node("j", "Join", ["-"], "s1", "s2"),
                    name=f"w{number}",
                )
                for number in range(size)
            ]
            peach("submit", *(peach.file(one, f"w{number}.json") for number, one in enumerate(plan)))
            for _ in range(chance.randint(1, 5)):
                hits += hit(peach, chance)
            peach("consume", "execute", "--once", timeout=300)
            found = judge(peach, rows=size)
            counted = ledger.read_text().split()
            assert len(counted) >= size, f"{size} workflows, and the ledger has {len(counted)} lines"
            workflows += size
            restarted += sum(row["attempt"] > 1 for row in found)
            print(f"round {rounds}: {size} workflows, {hits} kills so far", flush=True)
    seconds = time.monotonic() - begun
    figures = (
        f"{hits} SIGKILLs, {workflows} workflows, {restarted} taken up again, 0 lost, 0 left alive, {seconds:.0f} s"
    )
    note("kills", figures, arguments.seed)
    return 0


def attempts(peach: "Peach") -> int:
    return sum(row["attempt"] for row in peach.rows())


def hit(peach: "Peach", chance: random.Random) -> int:
    """Starts an executor and kills it, or its warm parent, at a random moment: of its start, or from its next claim on.
    1 when something was hit."""
    before = attempts(peach)
    process = peach.start("consume", "execute", "--once")
    if chance.random() < 0.7:  # a busy machine would start for longer than the wait, and nothing of a run would be hit
        peach.until(lambda: process.poll() is not None or attempts(peach) > before, 60)
        time.sleep(chance.uniform(0, 0.8))
    else:
        time.sleep(chance.uniform(0.05, 2.5))
    struck = False
    with contextlib.suppress(OSError):  # it has ended meanwhile
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victim = chance.choice([process.pid, *map(int, children)])
        struck = process.poll() is None
        os.kill(victim, signal.SIGKILL)
        if victim != process.pid:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.5, 3))
            process.kill()
    process.wait(60)
    if process.stdout:
        process.stdout.close()
    return int(struck)


@contextlib.contextmanager
def _peach() -> "Iterator[Peach]":
    """`peachctl` with the hub of the tests, in folders that are gone afterwards, and a session of servers."""
    from tests import servers
    from tests.conftest import Peach, make_hub

    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # of ours; it tells each refused connection
    with servers.session(), tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        peach = Peach(home, make_hub(Path(folder) / "hub"))
        try:
            yield peach
        finally:
            for process in peach.running:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def campaign(arguments: argparse.Namespace) -> int:
    """Kills all that an installation on Kafka and MariaDB is made of, and judges it beside a control."""
    from tests.road.campaign import Campaign
    from tests.servers import install

    install.install(arguments.database)
    with _peach() as peach:
        outcome = Campaign(
            peach,
            kills=arguments.kills,
            messages=arguments.messages,
            seed=arguments.seed,
            kind=arguments.database,
            patience=600,
            say=lambda text: print(text, flush=True),
        ).run()
    print(outcome)
    mistakes = outcome.verdict.mistakes()
    if not outcome.control.lost:
        mistakes["the control passed"] = [str(outcome.control.mistakes())]
    for name, what in mistakes.items():
        print(f"{name}: {what}", file=sys.stderr)
    if not mistakes:
        note(
            "campaign" if arguments.database == "mariadb" else f"campaign, {arguments.database}",
            str(outcome),
            arguments.seed,
        )
    return int(bool(mistakes))


def drain(arguments: argparse.Namespace) -> int:
    """SIGTERM to executors at random moments: each must exit 0 in time, and nothing be lost or run twice."""
    from tests.road.campaign import DRAIN, Drains, installation
    from tests.servers import databases, kafka

    with _peach() as peach, databases.database("mariadb") as name:
        begun = time.monotonic()
        with installation(peach, kafka.shared(), databases.server("mariadb"), name) as place:
            drains = Drains(place, random.Random(arguments.seed))
            sent = drains.run(ends=arguments.count, messages=5 * arguments.count, patience=600)
            verdict = drains.judge(sent)
            rows = len(place.rows())
    for what, found in verdict.mistakes().items():
        print(f"{what}: {found}", file=sys.stderr)
    if not verdict.mistakes():
        figures = (
            f"{arguments.count} SIGTERMs of executors (drain {DRAIN:g} s), {rows} rows: all exit 0, the slowest after"
            f" {drains.leaving.longest:.1f} s, 0 lost, 0 doubled, {time.monotonic() - begun:.0f} s"
        )
        note("drain", figures, arguments.seed)
    return int(bool(verdict.mistakes()))


def memory(arguments: argparse.Namespace) -> int:
    """PSS of both consumers against the messages that they have handled."""
    from tests.road import memory

    with _peach() as peach:
        found = memory.measure(
            peach, arguments.messages, arguments.runs or arguments.messages, lambda text: print(text, flush=True)
        )
    for what in found.mistakes():
        print(what, file=sys.stderr)
    if not found.mistakes():
        note("memory", str(found), arguments.seed)
    return int(bool(found.mistakes()))


def servers(arguments: argparse.Namespace) -> int:
    """The suites of the store and its schema, and a workflow on its whole road, on each of the older databases."""
    from tests.servers import install

    failed, versions = [], []
    begun = time.monotonic()
    for name in arguments.only or install.OLDER:
        version = install.install(name).name.removeprefix(f"{name}-")
        # Not SQLite, not TLS of today, not test_older, which is about one server whatever is named here.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            str(os.cpu_count()),
            "tests/store",
            "tests/cli/test_system.py",
        ]
        command += ["-k", "not sqlite and not tls_is_verified and not test_older"]
        print(f"{name} {version}", flush=True)
        if subprocess.run(command, cwd=TOP, env={**os.environ, "DATABASES_OF_THE_TESTS": name}, check=False).returncode:
            failed.append(name)
        versions.append(f"{name.rstrip('0123456789')} {version}")
    if not failed and not arguments.only:
        seconds = time.monotonic() - begun
        figures = f"{', '.join(versions)}: the suites of the store and the schema, 0 failures, {seconds:.0f} s"
        note("servers", figures.replace("mysql", "MySQL").replace("mariadb", "MariaDB"), arguments.seed)
    return int(bool(failed))


def codes(arguments: argparse.Namespace) -> int:
    """Each error code of Kafka (`count` at random, where that is less) in the answers to each request: no message may
    be lost, and nothing stop in silence."""
    from tests.bus import codes as campaign
    from tests.servers import kafka

    begun = time.monotonic()
    chosen = sorted(random.Random(arguments.seed).sample(campaign.CODES, min(arguments.count, len(campaign.CODES))))
    lasts = sorted(set(chosen) & set(campaign.LASTS))
    with _peach() as peach:
        outcome = campaign.run(
            kafka.shared(),
            peach.home,
            peach.hub,
            codes=chosen,
            lasts=lasts,
            say=lambda text: print(text, flush=True),
        )
    if not outcome.mistakes:
        note("codes", f"{len(chosen)} codes: {outcome}; {time.monotonic() - begun:.0f} s", arguments.seed)
    return int(bool(outcome.mistakes))


def fuzz(arguments: argparse.Namespace) -> int:
    """The program of benchmarks/ does it; here its figures are kept."""
    program = TOP / "benchmarks" / "fuzz_wire.py"
    command = [sys.executable, str(program), "--count", str(arguments.count), "--seed", str(arguments.seed)]
    begun = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        seconds = time.monotonic() - begun
        note("fuzz", f"{arguments.count:,} messages, 0 disagreements, {seconds:.0f} s", arguments.seed)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='make proof ARGS="..."', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    from tests.servers import install

    known = {
        "kills": kills,
        "campaign": campaign,
        "drain": drain,
        "memory": memory,
        "servers": servers,
        "codes": codes,
        "fuzz": fuzz,
    }
    counts = {"kills": 100, "drain": 200, "codes": 1000, "fuzz": 5_000_000}
    campaigns = parser.add_subparsers(metavar="|".join(known))
    for name, work in known.items():
        one = campaigns.add_parser(name, help=work.__doc__)
        if name in counts:
            one.add_argument("--count", type=int, default=counts[name], help=f"how many (default {counts[name]})")
        if name == "campaign":
            one.add_argument("--kills", type=int, default=1000, help="SIGKILLs (default 1000)")
            one.add_argument("--messages", type=int, default=20_000, help="in all (default 20000)")
            one.add_argument("--database", choices=("mariadb", "mysql", *install.OLDER), default="mariadb")
        if name == "memory":
            one.add_argument("--messages", type=int, default=50_000, help="that ingest takes (default 50000)")
            one.add_argument("--runs", type=int, default=0, help="of them that execute runs (default: all)")
        if name == "servers":
            one.add_argument(
                "only", nargs="*", metavar="NAME", help="of a server (tests/servers/install.py; default: all)"
            )
        one.add_argument("--seed", type=int, default=int(time.time()), help="of the random numbers (default: the time)")
        one.set_defaults(work=work)
    arguments = parser.parse_args()
    # What was started ends with us, also in the background, where Ctrl-C is ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(arguments, "work"):
        return int(arguments.work(arguments))
    return max(work(parser.parse_args([name])) for name, work in known.items())


if __name__ == "__main__":
    sys.exit(main())
