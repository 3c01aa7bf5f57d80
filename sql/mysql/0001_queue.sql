-- The table that clients know: these 11 columns in this order, none more. Ids that were given away stay given away.
CREATE TABLE {queue} (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    user VARCHAR(512) DEFAULT '',
    execution_file VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin UNIQUE,
    workflow_json LONGTEXT,
    status INT(1) DEFAULT 0,
    progress INT(3) DEFAULT 0,
    original_workflow_file VARCHAR(255) DEFAULT '',
    sending_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    finished_date DATETIME NOT NULL DEFAULT '1000-01-01 00:00:00',
    priority INT(1) DEFAULT 1,
    output_file VARCHAR(255) DEFAULT ''
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;
