-- The table that clients know: these 11 columns in this order, none more.
-- AUTOINCREMENT: the id of a deleted row is never given to another workflow.
CREATE TABLE {queue} (
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
