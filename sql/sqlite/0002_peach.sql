-- What peachctl remembers beside the table. No foreign key on the queue: clients delete its rows with a plain DELETE.

-- Claims: the first rows by priority and id, with their users; and the first row of each user (SQLite ends every index
-- with the id).
CREATE INDEX peach_queue_claim ON {queue} (status, priority DESC, id, user);

CREATE INDEX peach_queue_claim_user ON {queue} (status, priority DESC, user);

-- `queue list --user`, and what clients ask for.
CREATE INDEX peach_queue_user ON {queue} (user);

-- schema: the number of the last file applied. queue_table. held: 1 while nothing may be claimed.
-- adopted: 1 where the queue was one of 2017. epoch:TOPIC: how often that topic was made anew.
CREATE TABLE peach_meta (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- A row that peachctl filed or claimed. attempt: starts so far. vanished: of those since the last retry, the ones
-- whose executor vanished. from_start: the next attempt takes nothing over. unpacked: ended in error, no output yet.
CREATE TABLE peach_jobs (
    queue_id INTEGER NOT NULL PRIMARY KEY,
    name TEXT,
    hub TEXT,
    scheduler VARCHAR(16),
    attempt INTEGER NOT NULL DEFAULT 0,
    vanished INTEGER NOT NULL DEFAULT 0,
    from_start INTEGER NOT NULL DEFAULT 0,
    unpacked INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);

CREATE INDEX peach_jobs_unpacked ON peach_jobs (queue_id) WHERE unpacked = 1;

-- Where a message came from. outcome: filed, refused (a row that says why) or dead (a letter and no row).
CREATE TABLE peach_origins (
    topic VARCHAR(255) NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,
    part INTEGER NOT NULL,
    off INTEGER NOT NULL,
    sha256 CHAR(64),
    queue_id INTEGER,
    outcome VARCHAR(16) NOT NULL,
    PRIMARY KEY (topic, epoch, part, off)
) WITHOUT ROWID;

-- Rows whose event has not been acknowledged.
CREATE TABLE peach_outbox (
    queue_id INTEGER NOT NULL PRIMARY KEY
);

-- Attempts. Open (ended is null) is at most one of a row, and a row with an open one is not claimed. lease_until:
-- seconds of CLOCK_BOOTTIME of the boot named in boot. started, ended: unix seconds.
-- outcome: success, error, cancelled, vanished, given back or deleted.
CREATE TABLE peach_runs (
    queue_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    executor VARCHAR(64) NOT NULL,
    token VARCHAR(64) NOT NULL,
    host VARCHAR(255) NOT NULL,
    boot VARCHAR(64),
    lease_until REAL,
    beat INTEGER NOT NULL DEFAULT 0,
    started REAL NOT NULL,
    ended REAL,
    outcome VARCHAR(16),
    reason TEXT,
    PRIMARY KEY (queue_id, attempt)
) WITHOUT ROWID;

CREATE INDEX peach_runs_open ON peach_runs (queue_id) WHERE ended IS NULL;

-- The nodes of the latest attempt. started, finished: unix seconds. error, outputs: JSON.
CREATE TABLE peach_nodes (
    position INTEGER PRIMARY KEY,
    queue_id INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    service TEXT NOT NULL,
    version INTEGER NOT NULL,
    status VARCHAR(16) NOT NULL,
    started REAL,
    finished REAL,
    error TEXT,
    outputs TEXT,
    UNIQUE (queue_id, node_id)
);

-- Dead letters: messages that were refused, with or without a row. received: unix seconds.
CREATE TABLE peach_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    reason TEXT NOT NULL,
    field TEXT NOT NULL,
    byte_offset INTEGER,
    topic VARCHAR(255),
    part INTEGER,
    off INTEGER,
    file TEXT,
    size INTEGER NOT NULL,
    body BLOB NOT NULL,
    received REAL NOT NULL,
    queue_id INTEGER
);

-- Executors that signed on and not off. alive: JSON, how to tell whether one lives.
CREATE TABLE peach_executors (
    token VARCHAR(64) NOT NULL PRIMARY KEY,
    host VARCHAR(255) NOT NULL,
    alive TEXT NOT NULL
);

-- Rows that were unfinished when the table was adopted: not started by themselves.
CREATE TABLE peach_left (
    queue_id INTEGER NOT NULL PRIMARY KEY
);

INSERT INTO peach_left SELECT id FROM {queue} WHERE status IN (0, 1);

INSERT INTO peach_meta (name, value) VALUES ('queue_table', '{queue_name}'), ('schema', '2');
