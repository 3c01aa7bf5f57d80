"""From a message sent to `success` in the database, over Kafka and MariaDB, and what a lost event costs.

    python benchmarks/road.py [--count N]

`consume ingest` and `consume execute` run as they do in an installation (two processes, one broker, one database that
waits for its disk); a workflow of one node is sent and its row looked at every two milliseconds, as a client might.
Floor: the parts that no backend can do without, one after the other in this process: the message through the broker,
a row inserted and committed, the event through the broker, a claim committed, a fork of a warm parent that runs a dask
graph of one function, an end committed.

Exits with 1 where the median with the event is above 50 ms, the goal on a machine that nothing else uses.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from execute import WORKFLOW, bare_forks, in_a_child, make_hub
from installation import Installation, installation, say_file_cost, until
from kafka import KafkaConsumer, TopicPartition  # noqa: TID253 the floor is made of it

from peachctl import wire

GOAL = 0.050


def floor(place: Installation, count: int) -> list[float]:
    """Seconds of all parts together, `count` times."""
    place.topics.create("floor")
    part = TopicPartition("floor", 0)
    consumer = KafkaConsumer(bootstrap_servers=place.topics.broker.address(), enable_auto_commit=False)
    consumer.assign([part])
    consumer.seek_to_end(part)
    consumer.position(part)
    connection = place.connect()
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE floor_queue LIKE queue")
    body = wire.encode_workflow(WORKFLOW)

    def through_the_broker() -> None:
        place.topics.send("floor", body)
        while not consumer.poll(timeout_ms=1000):
            pass

    def committed(sql: str, *values: object) -> None:
        cursor.execute(sql, values)
        connection.commit()

    def once(number: int) -> float:
        began = time.perf_counter()
        through_the_broker()
        committed("INSERT INTO floor_queue (user, execution_file, workflow_json) VALUES ('a', %s, '{}')", str(number))
        through_the_broker()
        committed("UPDATE floor_queue SET status = 1 WHERE execution_file = %s", str(number))
        database_and_broker = time.perf_counter() - began
        began = time.perf_counter()
        committed("UPDATE floor_queue SET status = 3 WHERE execution_file = %s", str(number))
        return database_and_broker + time.perf_counter() - began

    once(-1)
    took = [once(number) for number in range(count)]
    consumer.close()
    connection.close()
    forks = in_a_child(lambda: bare_forks(count, 1))
    return [one + fork for one, fork in zip(took, forks, strict=True)]


def latencies(place: Installation, count: int) -> list[float]:
    """Seconds from the send to `success`, one workflow after the other."""
    body = wire.encode_workflow(WORKFLOW)
    connection = place.connect()
    cursor = connection.cursor()

    def succeeded(many: int) -> Callable[[], bool]:
        def look() -> bool:
            cursor.execute("SELECT count(*) FROM queue WHERE status = 3")
            return int(cursor.fetchone()[0]) >= many

        return look

    cursor.execute("SELECT count(*) FROM queue")
    before = int(cursor.fetchone()[0])
    took = []
    for number in range(count + 3):
        began = time.perf_counter()
        place.topics.producer.send(place.topics.execute, body)
        until(succeeded(before + number + 1), 60, "a workflow did not succeed")
        if number >= 3:  # the first ones find everything cold
            took.append(time.perf_counter() - began)
        time.sleep(0.05)  # not in step with anything
    connection.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, installation(make_hub(Path(folder))) as place:
        say_file_cost(place)
        base = floor(place, given.count)
        place.start("consume", "ingest")
        execute = place.start("consume", "execute")
        with_event = latencies(place, given.count)
        place.end(execute)
        # An executor that listens elsewhere hears none of the events.
        place.topics.create("elsewhere")
        place.start("consume", "execute", PEACHCTL_KAFKA__TOPIC_PROCESSED="elsewhere")
        lost = latencies(place, max(10, given.count // 4))
    print(f"{'':34}{'median':>10}{'95 %':>10}{'x floor':>10}   ({os.cpu_count()} cores)")
    middle = statistics.median(base)
    for name, took in (("floor", base), ("sent to success", with_event), ("the event lost: the sweep", lost)):
        most = statistics.quantiles(took, n=20)[-1]
        median = statistics.median(took)
        print(f"{name:34}{median * 1e3:7.1f} ms{most * 1e3:7.1f} ms{median / middle:10.1f}")
    if statistics.median(with_event) > GOAL:
        sys.exit(f"the goal is {GOAL * 1e3:.0f} ms; the load of this machine is {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
