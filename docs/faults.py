"""Writes docs/faults.md: each fault that peachctl is made for, what meets it, and the tests that provoke it.

A test says which faults it holds by its mark, `@pytest.mark.fault("A1", "B2")`. `tests/test_docs.py` fails where a
fault has no test, where a mark names none of these, and while the page is stale.
"""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parent.parent
TARGET = TOP / "docs" / "faults.md"


class Fault(NamedTuple):
    """what: the fault. mechanism: what meets it. modules: where that is, below peachctl/."""

    what: str
    mechanism: str
    modules: str


HEAD = """\
# Faults and their tests

*Written by `make docs` from the marks of the tests; a test fails when it is stale, or when a fault has no test.*

What can go wrong on the road of a workflow, what peachctl does about it, and the tests that make it go wrong: with real
brokers and databases, which are killed, stopped, cut off or made to answer with errors (`tests/servers`).
"""

PARTS = {
    "F": "Traps in what we build on",
    "A": "Crashes along the way",
    "B": "Kafka",
    "C": "The database",
    "D": "Files, host, time, secrets",
    "E": "Hostile input",
}

FAULTS = {
    "F1": Fault(
        "after an exception out of `poll` the next one of kafka-python never returns",
        "no deserializers; any exception ends that consumer and another is made; a watch from outside ends the process",
        "bus/kafka.py, bus/kafka_events.py, stuck.py",
    ),
    "F2": Fault(
        "a producer of kafka-python is dead after an error that it does not try again",
        "it is thrown away after any failure",
        "bus/kafka_publish.py, bus/kafka_send.py",
    ),
    "F3": Fault(
        "`flush` of a producer reports no failure", "every future is asked", "bus/kafka_publish.py, bus/kafka_send.py"
    ),
    "F4": Fault(
        "the reply to a COMMIT is lost: it may have happened",
        "each transaction writes its number; whoever begins again looks for it, or, locked, for what it had in hand",
        "store/mysql_connection.py",
    ),
    "F5": Fault(
        "the C form of the MySQL driver raises errors that are none of the driver's",
        "always the pure one",
        "store/mysql_connection.py",
    ),
    "F6": Fault(
        "SKIP LOCKED without the right index locks the whole queue",
        "an index that a claim follows to its end; READ COMMITTED",
        "store/mysql_claim.py, sql/mysql",
    ),
    "F7": Fault(
        "who never ends a transaction never sees a cancel", "each verb is one transaction", "store/mysql_connection.py"
    ),
    "F8": Fault(
        "a small message becomes gigabytes of objects", "limits of bytes and nodes, held while decoding", "wire.py"
    ),
    "F9": Fault(
        "a lax decoder takes what the reference refuses",
        "a decoder of our own, with the reference as oracle",
        "wire.py",
    ),
    "F10": Fault(
        "code of services goes on when its executor is killed",
        "a supervisor with a namespace of its own ends all of a run",
        "runner/, runtime/parent.py",
    ),
    "A1": Fault(
        "killed after the poll, before the filing", "offsets are committed after the transaction, by name", "ingest.py"
    ),
    "A2": Fault("killed inside of a transaction", "the database rolls back", "store/"),
    "A3": Fault(
        "killed after the filing, before the script",
        "what is owed is looked for at the start; an executor renders what it does not find",
        "ingest.py, prepare.py",
    ),
    "A4": Fault("the reply to the filing's COMMIT is lost", "the origin is the key: again makes nothing new", "store/"),
    "A5": Fault(
        "killed before the event, or it is lost",
        "an outbox in the same transaction; executors look by themselves",
        "ingest.py, execute.py",
    ),
    "A6": Fault("the event is sent, and that is not remembered", "a second event finds the row claimed", "execute.py"),
    "A7": Fault("killed before the acknowledgement", "the message comes again, and its origin is known", "store/"),
    "A8": Fault(
        "an executor is killed after the claim",
        "leases by the database's time, proof of death on the same host; attempts are counted",
        "store/, takeover.py, runner/alive.py",
    ),
    "A9": Fault(
        "an executor is killed during a run",
        "its supervisor ends all of the run's processes",
        "runner/, runtime/parent.py",
    ),
    "A10": Fault(
        "killed between the packed output and the end of the row",
        "the next attempt publishes and packs again",
        "ends.py, files.py",
    ),
    "A11": Fault(
        "the power goes",
        "databases that wait for the disk; outputs are on the disk before they are named; a torn script is found and"
        " rendered again. A test cannot cut the power: held are the order of the calls, and what torn files lead to;"
        " that a server waits for its disk is its own setting",
        "files.py, script.py, script_files.py, store/sqlite_file.py",
    ),
    "B1": Fault("messages are delivered again", "origins are known", "store/, ingest.py"),
    "B2": Fault("a rebalance in mid batch", "only partitions that are still ours are committed", "bus/kafka.py"),
    "B3": Fault(
        "a rebalance in a long run",
        "an executor is no member of its group; the claim is in the database",
        "bus/kafka_events.py",
    ),
    "B4": Fault("a commit while the group changes", "tried again with the next poll", "bus/kafka.py"),
    "B5": Fault("a commit from a listener of rebalances", "listeners only note", "bus/kafka.py"),
    "B6": Fault("all slots are busy", "events are heard in a thread of their own", "bus/kafka_events.py"),
    "B7": Fault(
        "a loop stalls for longer than `max.poll.interval`",
        "the batch comes again, and its origins are known; runs hold up no poll",
        "bus/kafka.py, serve.py",
    ),
    "B8": Fault("a broker ends or is killed, and comes back", "consumers go on by themselves", "bus/"),
    "B9": Fault(
        "sending fails",
        "announcements are owed until they are acknowledged; the producer is thrown away",
        "bus/kafka_publish.py, ingest.py",
    ),
    "B10": Fault(
        "a `poll` hangs", "the process ends with its stacks, systemd starts another one", "stuck.py, notify.py"
    ),
    "B11": Fault(
        "messages beyond the limits", "only their beginning is kept; a letter says the size", "bus/kafka.py, ingest.py"
    ),
    "B12": Fault("packets vanish", "time-outs on everything", "bus/kafka_client.py, store/mysql_connection.py"),
    "B13": Fault("a consumer is killed and another takes over", "offsets and origins", "bus/kafka.py"),
    "B14": Fault(
        "a fork with a connected client",
        "the executor never forks: its supervisor is started by exec",
        "runner/supervised.py",
    ),
    "B15": Fault(
        "certificates, names or passwords that are wrong",
        "a greeting of our own says which, at once",
        "bus/kafka_greeting.py, bus/kafka_client.py",
    ),
    "B16": Fault(
        "an error that nobody foresaw, in the answer to any request",
        "another client is made, and it is tried again; what no waiting mends ends with its reason",
        "bus/kafka_client.py, bus/kafka.py, bus/kafka_events.py",
    ),
    "C1": Fault(
        "the server is killed or starts again", "whole transactions are begun again", "store/mysql_connection.py"
    ),
    "C2": Fault(
        "the connection is lost in a transaction", "never another connection inside of one", "store/mysql_connection.py"
    ),
    "C3": Fault(
        "a deadlock, or a lock that is not given up", "always a roll-back, then again", "store/mysql_connection.py"
    ),
    "C4": Fault("the server hangs", "time-outs on everything", "store/mysql_connection.py"),
    "C5": Fault(
        "two executors, one row", "SKIP LOCKED, or compare and set", "store/mysql_claim.py, store/sqlite_claim.py"
    ),
    "C6": Fault("an update is lost", "conditional updates only, by the claim's holder", "store/"),
    "C7": Fault(
        "a client deletes a row, or cancels it, while it runs", "each renewal says what is wanted", "execute.py, store/"
    ),
    "C8": Fault("an update that changes nothing counts no rows", "found rows are counted", "store/mysql_connection.py"),
    "C9": Fault(
        "a packet is too large",
        "statements are split by their bytes; a row beyond it is refused by name",
        "store/mysql_connection.py",
    ),
    "C10": Fault("a column is too small", "columns are widened, texts never cut in silence", "store/mysql_schema.py"),
    "C11": Fault("a collation that the server does not know", "always the same one", "store/mysql_connection.py"),
    "C12": Fault(
        "a session stands in the way of a change of the schema",
        "waited for some seconds, then named",
        "store/mysql_schema.py",
    ),
    "C13": Fault(
        "ids of a batch are not one after another", "they are read back by script name", "store/mysql_filing.py"
    ),
    "C14": Fault(
        "a pool of connections is exhausted", "there is none: one connection for each loop", "store/mysql_connection.py"
    ),
    "C15": Fault(
        "several processes on one SQLite file", "immediate transactions, WAL, waiting for locks", "store/sqlite_file.py"
    ),
    "D1": Fault(
        "a disk is full",
        "temporary names; ingest and executors pause, with nothing lost",
        "files.py, script_files.py, ingest.py, execute.py",
    ),
    "D2": Fault(
        "a script is half written", "a checksum in its header; it is rendered again", "script.py, script_files.py"
    ),
    "D3": Fault(
        "the clock is set", "leases by the database's time, durations by the monotonic clock", "store/, ingest.py"
    ),
    "D4": Fault(
        "an executor is frozen, and woken",
        "its supervisor ends its runs before anybody else may start them; tokens",
        "runtime/parent.py, store/",
    ),
    "D7": Fault("SIGTERM, and a second one", "what runs is drained; then at once", "serve.py, execute.py"),
    "D8": Fault(
        "a folder vanishes, the kernel's events are lost",
        "folders are listed again and again",
        "bus/folder.py, bus/watch.py",
    ),
    "D9": Fault(
        "a secret in what is said",
        "passwords are in no repr, error, log, command line or environment",
        "bus/kafka_client.py, masking.py",
    ),
    "D10": Fault("a file with a password that others can read", "it is refused", "config.py"),
    "E1": Fault(
        "what is no workflow: cut, empty, another format", "a letter, and the next message", "wire.py, ingest.py"
    ),
    "E2": Fault("bytes after the message", "refused", "wire.py"),
    "E3": Fault("a cycle", "a row in error that names it", "workflow.py, ingest.py"),
    "E4": Fault(
        "ids that dangle or are doubled, unknown services", "a row in error that names them", "workflow.py, ingest.py"
    ),
    "E5": Fault("a parameter that equals a node's id", "values are never keys of the graph", "runtime/graph.py"),
    "E6": Fault("ten thousand nodes", "no recursion, one statement a node", "workflow.py, script.py"),
    "E7": Fault("messages beyond the limits", "refused unread", "wire.py"),
    "E8": Fault(
        "quotes, new lines, paths, NUL in any text",
        "bound values in SQL, literals in scripts, names of our own",
        "script.py, names.py, store/",
    ),
    "E9": Fault("numbers that are not finite", "texts in JSON and scripts", "jsonform.py"),
    "E10": Fault("numbers beyond 32 bits", "refused", "wire.py"),
    "E12": Fault(
        "`from_uri` to inner addresses and files",
        "lists of what is allowed; each redirect is checked",
        "runtime/fetch.py",
    ),
    "E13": Fault(
        "a service reads secrets",
        "no password in its process: neither environment nor descriptors",
        "runner/supervised.py",
    ),
}


def marked() -> dict[str, list[tuple[str, str]]]:
    """(file below the top, test) of all that are marked with a fault, by fault, in the order of files and lines."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((TOP / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    for fault in mark.args:
                        where = (path.relative_to(TOP).as_posix(), node.name)
                        found.setdefault(str(ast.literal_eval(fault)), []).append(where)
    return found


def page() -> str:
    """The whole of docs/faults.md."""
    tests = marked()
    lines = [HEAD]
    for letter, title in PARTS.items():
        lines += [f"## {title}", "", "| | fault | what meets it | where | tests |", "|---|---|---|---|---|"]
        for id, fault in FAULTS.items():
            if id[0] == letter:
                held = "<br>".join(f"[{words(name)}](../{file})" for file, name in tests.get(id, ()))
                modules = ", ".join(f"`{one}`" for one in fault.modules.split(", "))
                lines.append(f"| {id} | {fault.what} | {fault.mechanism} | {modules} | {held} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text(encoding="utf-8") != page())
    TARGET.write_text(page(), encoding="utf-8")
