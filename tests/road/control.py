"""The order of 2017, as a control: offsets first, then the row, then the file, then the event. It must lose messages.

    python tests/road/control.py BROKER TOPIC EVENTS PORT DATABASE FOLDER

What fails is printed and gone.
"""

import json
import sys
import time
from pathlib import Path

import mysql.connector  # noqa: TID253 plain parts, as they were used then
from kafka import KafkaConsumer, KafkaProducer  # noqa: TID253

from peachctl import wire

TABLE = (
    "CREATE TABLE IF NOT EXISTS queue (id INT AUTO_INCREMENT PRIMARY KEY, execution_file VARCHAR(255),"
    " workflow_json TEXT, status INT DEFAULT 0)"
)


def main(broker: str, topic: str, events: str, port: str, database: str, folder: str) -> None:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=broker,
        group_id="control",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=1500,
        heartbeat_interval_ms=400,
    )
    producer = KafkaProducer(bootstrap_servers=broker, enable_idempotence=False)
    server = {"host": "127.0.0.1", "port": int(port), "user": "root", "ssl_disabled": True, "use_pure": True}
    while True:
        found = [record for batch in consumer.poll(timeout_ms=500).values() for record in batch]
        if not found:
            continue
        consumer.commit()
        for record in found:
            try:
                workflow = wire.decode_workflow(record.value)
                script = Path(folder) / f"{time.time_ns()}.py"
                connection = mysql.connector.connect(**server, database=database, connection_timeout=5)
                cursor = connection.cursor()
                sql = "INSERT INTO queue (execution_file, workflow_json) VALUES (%s, %s)"
                cursor.execute(sql, (script.name, json.dumps({"name": workflow.name})))
                connection.commit()
                script.write_text("graph\n")
                producer.send(events, str(cursor.lastrowid).encode()).get(5)
                connection.close()
            except Exception as error:  # noqa: BLE001 as it was
                print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
