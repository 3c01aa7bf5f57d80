"""Messages a second of `consume ingest` on Kafka and MariaDB, beside a bare loop of the same parts in the same run.

    python benchmarks/ingest.py [--count N] [--rounds N]

Both read a topic that is filled before they begin, each in a process of its own, one after the other, in turns: what
else the machine does meets both. Counted is from the end of a first part to the end of the last batch. The database
waits for its disk (innodb_flush_log_at_trx_commit = 1). Messages have five nodes.

Floor: poll up to 500, decode with our decoder, one INSERT of all rows and its commit, the text of a script written to a
temporary name and renamed for each, an event sent for each and every future looked at, the offsets committed. It knows
the texts of the rows and scripts beforehand, checks nothing, and files twice what comes twice.

Exits with 1 where the median of the ratios is below 0.6.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from execute import make_hub
from installation import Installation, databases, installation, say_file_cost
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: TID253 the floor is made of it

from peachctl import app, script, wire
from peachctl.config import load
from peachctl.serve import Stop
from peachctl.workflow import Connection, Node, ServiceRef, Workflow

FIRST = 500  # messages that are not counted: imports, connections, plans
MOST = 500  # as ours takes
WANTED = 0.6


def workflow(number: int) -> Workflow:
    """A diamond with a tail."""

    given = ("/data/scan.nii", "0.5", None)

    def node(id: str, *above: str) -> Node:
        return Node(id, ServiceRef("Same", 1), given, tuple(Connection(0, one) for one in above))

    nodes = (
        node("load"),
        node("left", "load"),
        node("right", "load"),
        node("join", "left", "right"),
        node("out", "join"),
    )
    return Workflow(f"study {number}", "ada@hospital", nodes)


class Watch:
    """Times of what is counted: from the first batch that ends behind FIRST to the last."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.done = 0
        self._from: tuple[int, float, float] | None = None

    def handled(self, many: int) -> None:
        self.done += many
        if self._from is None and self.done >= FIRST:
            self._from = self.done, time.perf_counter(), time.process_time()

    @property
    def over(self) -> bool:
        return self.done >= self._count

    def tell(self) -> None:
        assert self._from is not None
        done, wall, cpu = self._from
        many = self.done - done
        print(json.dumps([many / (time.perf_counter() - wall), (time.process_time() - cpu) / many]))


def ours(count: int) -> None:
    """The loop of `consume ingest`."""
    watch = Watch(count)
    with app.serving_ingest(load(), Stop(), once=False) as (ingest, _):
        ingest.repair()
        while not watch.over:
            watch.handled(ingest.step(0.5))
    watch.tell()


def floor(count: int) -> None:
    """The bare loop."""
    watch = Watch(count)
    topic, part = os.environ["PEACHCTL_KAFKA__TOPIC_PROCESSED"], TopicPartition(os.environ["FLOOR_TOPIC"], 0)
    broker = os.environ["FLOOR_BROKER"]
    consumer = KafkaConsumer(bootstrap_servers=broker, group_id=part.topic, enable_auto_commit=False)
    consumer.assign([part])
    consumer.seek_to_beginning(part)
    producer = KafkaProducer(bootstrap_servers=broker, acks="all")
    connection = databases.connect(json.loads(os.environ["FLOOR_SERVER"]), os.environ["FLOOR_DATABASE"])
    connection.autocommit = False
    cursor = connection.cursor()
    folder = Path(os.environ["FLOOR_FOLDER"])
    known = workflow(0)
    text, row = script.render(known, "0" * 32).encode(), wire.workflow_json_text(known)
    while not watch.over:
        bodies = [record.value for found in consumer.poll(500, max_records=MOST).values() for record in found]
        decoded = [wire.decode_workflow(body) for body in bodies]
        if not decoded:
            continue
        names = [f"{one.user}_{'0' * 32}_{time.time_ns()}_{watch.done + index}.py" for index, one in enumerate(decoded)]
        cursor.execute(
            "INSERT INTO floor_queue (user, execution_file, workflow_json, original_workflow_file) VALUES "
            + ", ".join(["(%s, %s, %s, %s)"] * len(decoded)),
            [value for one, name in zip(decoded, names, strict=True) for value in (one.user, name, row, one.name)],
        )
        first = cursor.lastrowid
        connection.commit()
        for name in names:
            temporary = f"{folder}/.{name}.tmp"
            with open(temporary, "wb") as stream:
                stream.write(text)
            os.rename(temporary, f"{folder}/{name}")  # noqa: PTH104 the floor makes no path objects
        sent = [producer.send(topic, b"%d" % (first + index)) for index in range(len(decoded))]
        for future in sent:
            future.get(30)
        consumer.commit()
        watch.handled(len(decoded))
    watch.tell()


def measured(place: Installation, which: str, count: int, number: int) -> tuple[float, float]:
    """Messages a second, and seconds of the processor for each, of a process that reads a topic of its own."""
    topic = f"{place.topics.prefix}-{which}-{number}"
    place.topics.create(topic)
    sent = [place.topics.producer.send(topic, wire.encode_workflow(workflow(index))) for index in range(count)]
    for future in sent:
        future.get(60)
    scripts = place.home / f"{which}-{number}"
    scripts.mkdir()
    environment = place.environment(
        PEACHCTL_KAFKA__TOPIC_EXECUTE=topic,
        PEACHCTL_KAFKA__GROUP_INGEST=topic,
        PEACHCTL_FOLDERS__QUEUE=str(scripts),
        FLOOR_TOPIC=topic,
        FLOOR_BROKER=place.topics.broker.address(),
        FLOOR_SERVER=json.dumps(place.server),
        FLOOR_DATABASE=place.database,
        FLOOR_FOLDER=str(scripts),
    )
    command = [sys.executable, __file__, "--count", str(count), "--loop", which]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    written = sum(one.suffix == ".py" for one in scripts.iterdir())
    assert written == count, f"{written} scripts of {count} messages"
    rate, cpu = json.loads(told)
    return rate, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", choices=("ours", "floor"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop is not None:
        (ours if given.loop == "ours" else floor)(given.count)
        return
    rates, costs = [], []
    with tempfile.TemporaryDirectory() as folder, installation(make_hub(Path(folder), inputs=2, parameters=3)) as place:
        say_file_cost(place)
        with place.connect() as connection:
            connection.cursor().execute("CREATE TABLE floor_queue LIKE queue")
        print(f"{'round':>5}{'floor':>12}{'ours':>12}{'ratio':>8}{'processor: floor':>20}{'ours':>10}{'ratio':>8}")
        for number in range(given.rounds):
            # Whoever goes first finds another machine than who goes second.
            order = ("floor", "ours") if number % 2 else ("ours", "floor")
            took = {which: measured(place, which, given.count, number) for which in order}
            (bare, bare_cpu), (rate, cpu) = took["floor"], took["ours"]
            rates.append(rate / bare)
            costs.append(bare_cpu / cpu)
            print(
                f"{number:5}{bare:10.0f}/s{rate:10.0f}/s{rates[-1]:8.2f}"
                f"{bare_cpu * 1e6:17.0f} us{cpu * 1e6:7.0f} us{costs[-1]:8.2f}",
                flush=True,
            )
    ratio = statistics.median(rates)
    print(f"median of the ratios: {ratio:.2f} (wanted: {WANTED}), by processor time {statistics.median(costs):.2f}")
    sys.exit(ratio < WANTED)


if __name__ == "__main__":
    main()
