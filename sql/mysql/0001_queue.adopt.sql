-- schema: the number of the last file applied. queue_table. held: 1 while nothing may be claimed.
-- adopted: 1 where the queue was one of 2017. epoch:TOPIC: how often that topic was made anew.
CREATE TABLE IF NOT EXISTS peach_meta (
    name VARBINARY(1024) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Before the table is touched: from here on it is known to be one of 2017, whatever interrupts this.
REPLACE INTO peach_meta (name, value) VALUES ('adopted', '1'), ('queue_table', '{queue_name}');

-- A table of 2017 becomes the table that 0001_queue.sql makes, whole or not at all: its rows are carried over unchanged,
-- its next id is kept. ROW_FORMAT: the older ones have no room for an index over 255 characters of utf8mb4.
ALTER TABLE {queue}
    MODIFY id INT NOT NULL AUTO_INCREMENT,
    MODIFY user VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT '',
    MODIFY execution_file VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    MODIFY workflow_json LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci,
    MODIFY status INT DEFAULT 0,
    MODIFY progress INT DEFAULT 0,
    MODIFY original_workflow_file VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT '',
    MODIFY sending_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    MODIFY finished_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    MODIFY priority INT DEFAULT 1,
    MODIFY output_file VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT '',
    ENGINE=InnoDB, ROW_FORMAT=DYNAMIC, KEY_BLOCK_SIZE=0,
    DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;

CREATE UNIQUE INDEX execution_file ON {queue} (execution_file);

REPLACE INTO peach_meta (name, value) VALUES ('schema', '1');
