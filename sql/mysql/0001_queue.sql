-- schema: the number of the last file applied. queue_table. held: 1 while nothing may be claimed.
-- adopted: 1 where the queue was one of 2017. epoch:TOPIC: how often that topic was made anew.
CREATE TABLE IF NOT EXISTS peach_meta (
    name VARBINARY(1024) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Before the table: a queue that is there without this is one of somebody else's, or of 2017.
REPLACE INTO peach_meta (name, value) VALUES ('queue_table', '{queue_name}');

-- The table that clients know: these 11 columns in this order, none more.
-- general_ci: the one case-insensitive collation that every server knows.
CREATE TABLE IF NOT EXISTS {queue} (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    user VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT '',
    execution_file VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    workflow_json LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci,
    status INT DEFAULT 0,
    progress INT DEFAULT 0,
    original_workflow_file VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT '',
    sending_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    finished_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    priority INT DEFAULT 1,
    output_file VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT '',
    UNIQUE KEY execution_file (execution_file)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;

REPLACE INTO peach_meta (name, value) VALUES ('schema', '1');
