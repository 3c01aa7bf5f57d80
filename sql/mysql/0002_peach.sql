-- What peachctl remembers beside the table. No foreign key on the queue: clients delete its rows with a plain DELETE.

-- Claims: the first rows by priority and id, with their users; and the first row of each user. A server that knows no
-- descending index makes an ascending one of the first.
CREATE INDEX peach_queue_claim ON {queue} (status, priority DESC, id, user);

CREATE INDEX peach_queue_claim_user ON {queue} (status, priority, user, id);

-- `queue list --user`, and what clients ask for.
CREATE INDEX peach_queue_user ON {queue} (user);

-- A row that peachctl filed or claimed. attempt: starts so far. vanished: of those since the last retry, the ones
-- whose executor vanished. from_start: the next attempt takes nothing over. unpacked: ended in error, no output yet.
CREATE TABLE IF NOT EXISTS peach_jobs (
    queue_id BIGINT NOT NULL PRIMARY KEY,
    name LONGTEXT,
    hub LONGTEXT,
    scheduler VARCHAR(16),
    attempt INT NOT NULL DEFAULT 0,
    vanished INT NOT NULL DEFAULT 0,
    from_start INT NOT NULL DEFAULT 0,
    unpacked INT NOT NULL DEFAULT 0,
    reason LONGTEXT,
    KEY peach_jobs_unpacked (unpacked, queue_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Where a message came from. outcome: filed, refused (a row that says why) or dead (a letter and no row).
-- topic: bytes of UTF-8, so that no two are the same by a collation.
CREATE TABLE IF NOT EXISTS peach_origins (
    topic VARBINARY(1020) NOT NULL,
    epoch INT NOT NULL DEFAULT 0,
    part INT NOT NULL,
    off BIGINT NOT NULL,
    sha256 CHAR(64),
    queue_id BIGINT,
    outcome VARCHAR(16) NOT NULL,
    PRIMARY KEY (topic, epoch, part, off)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Rows whose event has not been acknowledged.
CREATE TABLE IF NOT EXISTS peach_outbox (
    queue_id BIGINT NOT NULL PRIMARY KEY
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Attempts. Open (ended is null) is at most one of a row, and a row with an open one is not claimed. lease_until:
-- UTC, by the clock of this server. started, ended: unix seconds.
-- outcome: success, error, cancelled, vanished, given back or deleted.
CREATE TABLE IF NOT EXISTS peach_runs (
    queue_id BIGINT NOT NULL,
    attempt INT NOT NULL,
    executor VARCHAR(64) NOT NULL,
    token VARCHAR(64) NOT NULL,
    host VARCHAR(255) NOT NULL,
    lease_until DATETIME(6),
    beat BIGINT NOT NULL DEFAULT 0,
    started DOUBLE NOT NULL,
    ended DOUBLE,
    outcome VARCHAR(16),
    reason LONGTEXT,
    PRIMARY KEY (queue_id, attempt),
    KEY peach_runs_open (ended, executor)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The nodes of the latest attempt. started, finished: unix seconds. error, outputs: JSON. node_key: SHA-256 of the id,
-- which may be of any length.
CREATE TABLE IF NOT EXISTS peach_nodes (
    position BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    queue_id BIGINT NOT NULL,
    node_key BINARY(32) NOT NULL,
    node_id LONGTEXT NOT NULL,
    service LONGTEXT NOT NULL,
    version BIGINT NOT NULL,
    status VARCHAR(16) NOT NULL,
    started DOUBLE,
    finished DOUBLE,
    error LONGTEXT,
    outputs LONGTEXT,
    UNIQUE KEY peach_nodes_node (queue_id, node_key)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Dead letters: messages that were refused, with or without a row. received: unix seconds.
CREATE TABLE IF NOT EXISTS peach_letters (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    reason LONGTEXT NOT NULL,
    field LONGTEXT NOT NULL,
    byte_offset BIGINT,
    topic VARBINARY(1020),
    part INT,
    off BIGINT,
    file LONGTEXT,
    size BIGINT NOT NULL,
    body LONGBLOB NOT NULL,
    received DOUBLE NOT NULL,
    queue_id BIGINT,
    KEY peach_letters_origin (topic, part, off)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Executors that signed on and not off. number: the order in which they did. alive: JSON, how to tell whether one lives.
CREATE TABLE IF NOT EXISTS peach_executors (
    number BIGINT NOT NULL AUTO_INCREMENT UNIQUE,
    token VARCHAR(64) NOT NULL PRIMARY KEY,
    host VARCHAR(255) NOT NULL,
    alive LONGTEXT NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Rows that were unfinished when the table was adopted: not started by themselves.
CREATE TABLE IF NOT EXISTS peach_left (
    queue_id BIGINT NOT NULL PRIMARY KEY
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The last transaction of each session that wrote, so that one whose reply was lost is known to have happened or not.
CREATE TABLE IF NOT EXISTS peach_writers (
    token CHAR(32) NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    seen DATETIME NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO peach_left
SELECT id FROM {queue} WHERE status IN (0, 1) AND EXISTS (SELECT 1 FROM peach_meta WHERE name = 'adopted');

REPLACE INTO peach_meta (name, value) VALUES ('schema', '2');
