-- Times are nanoseconds since 1970 (UTC). Numbers that the program knows as u64 fit 63 bits.

CREATE TABLE transfers (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, because the ids of files hold it
    id           TEXT    NOT NULL UNIQUE,
    run          INTEGER NOT NULL,
    identity     TEXT    NOT NULL,
    source       TEXT    NOT NULL,
    destination  TEXT    NOT NULL,
    spec         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    error_class  TEXT,
    error_text   TEXT,
    files_total  INTEGER NOT NULL,
    bytes_total  INTEGER NOT NULL,
    listed       INTEGER NOT NULL,
    pid          INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    finished_at  INTEGER
) STRICT;
CREATE INDEX transfers_identity ON transfers (identity);

CREATE TABLE files (
    id           INTEGER PRIMARY KEY, -- transfers.seq * 2^32 + number: a manifest lies together, in its order
    transfer     INTEGER NOT NULL REFERENCES transfers (seq) ON DELETE CASCADE,
    key          TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    pin          TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    attempt      INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    checkpoint   TEXT,
    intent       TEXT,
    error_class  TEXT,
    error_text   TEXT,
    bytes_done   INTEGER NOT NULL,
    bytes_sent   INTEGER NOT NULL,
    receipt      TEXT,
    updated_at   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX files_path ON files (transfer, path);
CREATE UNIQUE INDEX files_key ON files (transfer, key);
-- Answers the counts and finds the files of a state in order, without reading the rows.
CREATE INDEX files_state ON files (transfer, state, id, size);

CREATE TABLE deliveries (
    destination  TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    source       TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    version      TEXT,
    etag         TEXT,
    size         INTEGER NOT NULL,
    modified     INTEGER,
    sha256       TEXT,
    crc64nvme    TEXT,
    published_at INTEGER NOT NULL,
    transfer     TEXT    NOT NULL, -- an id without a reference: history is pruned, deliveries are not
    collected    INTEGER NOT NULL,
    PRIMARY KEY (destination, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    resource      TEXT    NOT NULL PRIMARY KEY,
    holder        TEXT, -- NULL: free; the row stays, so that epochs never go back
    pid           INTEGER NOT NULL,
    process_start TEXT    NOT NULL,
    host          TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE destinations (
    key                TEXT    NOT NULL PRIMARY KEY,
    parked_credential  TEXT,
    parked_reason      TEXT,
    parked_at          INTEGER,
    breaker_failures   INTEGER NOT NULL DEFAULT 0,
    breaker_open_until INTEGER,
    profile            TEXT
) STRICT, WITHOUT ROWID;
