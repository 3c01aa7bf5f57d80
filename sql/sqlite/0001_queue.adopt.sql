-- A table of 2017 becomes the table that 0001_queue.sql makes; its rows are carried over unchanged.
CREATE TABLE peach_adopted (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user VARCHAR(512) COLLATE NOCASE DEFAULT '',
    execution_file VARCHAR(255) UNIQUE,
    workflow_json TEXT,
    status INTEGER DEFAULT 0,
    progress INTEGER DEFAULT 0,
    original_workflow_file VARCHAR(255) DEFAULT '',
    sending_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    finished_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    priority INTEGER DEFAULT 1,
    output_file VARCHAR(255) DEFAULT ''
);

INSERT INTO peach_adopted
SELECT id, user, execution_file, workflow_json, status, progress, original_workflow_file, sending_date, finished_date,
    priority, output_file
FROM {queue} ORDER BY id;

-- Ids that were given away and deleted stay given away.
INSERT INTO sqlite_sequence (name, seq)
SELECT 'peach_adopted', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'peach_adopted');

UPDATE sqlite_sequence
SET seq = max(seq, coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{queue_name}'), 0))
WHERE name = 'peach_adopted';

DROP TABLE {queue};

ALTER TABLE peach_adopted RENAME TO {queue};
