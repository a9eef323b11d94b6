-- The governed transfer: requests, executions, sessions, messages, tickets, settings, learning.

CREATE TABLE requests (
    transfer     INTEGER PRIMARY KEY REFERENCES transfers (seq) ON DELETE CASCADE,
    state        TEXT    NOT NULL, -- the transfer's, so that queues need no join
    open         INTEGER NOT NULL, -- 1 until the transfer has ended
    user         TEXT    NOT NULL,
    connector    TEXT    NOT NULL,
    source       TEXT    NOT NULL,
    priority     INTEGER NOT NULL,
    spec_hash    TEXT    NOT NULL,
    policy       TEXT    NOT NULL,
    approved_by  TEXT,
    approved_at  INTEGER,
    user_ticket  TEXT,
    audit_ticket TEXT,
    wish         TEXT    NOT NULL,
    waiting      TEXT,
    waiting_class TEXT,
    execution    TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_user ON requests (user); -- within a user by the key, which is the order of creation
CREATE INDEX requests_queue ON requests (connector, state, priority DESC, created_at) WHERE open = 1;
CREATE INDEX requests_expiry ON requests (expires_at) WHERE open = 0;

CREATE TABLE idempotency (
    key          TEXT    NOT NULL PRIMARY KEY,
    request_hash TEXT    NOT NULL,
    transfer     TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE definitions (
    hash         TEXT    NOT NULL PRIMARY KEY,
    text         TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE executions (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT, -- frames and history hold it
    name         TEXT    NOT NULL UNIQUE,
    transfer     TEXT,
    definition   TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    head         TEXT    NOT NULL,
    wakes        INTEGER,
    last_event   INTEGER NOT NULL,
    started_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    finished_at  INTEGER
) STRICT;
-- Only those that have not ended are ever looked for as a whole; however many have ended, they cost this index nothing.
CREATE INDEX executions_open ON executions (seq) WHERE finished_at IS NULL;
CREATE INDEX executions_transfer ON executions (transfer) WHERE transfer IS NOT NULL;

-- No references: a check of the parent for every row is what the hot path can spare. Both go with their execution.
CREATE TABLE frames (
    execution    INTEGER NOT NULL,
    id           INTEGER NOT NULL,
    body         TEXT    NOT NULL,
    PRIMARY KEY (execution, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE history (
    execution    INTEGER NOT NULL,
    id           INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    body         TEXT    NOT NULL,
    PRIMARY KEY (execution, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    token_hash   TEXT    NOT NULL PRIMARY KEY,
    transfer     TEXT    NOT NULL,
    run          INTEGER NOT NULL,
    user         TEXT    NOT NULL,
    spec_hash    TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    consumed_by  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE grants (
    transfer     TEXT    NOT NULL PRIMARY KEY,
    user         TEXT    NOT NULL,
    spec_hash    TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    execution    TEXT    NOT NULL,
    at           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE slots (
    connector    TEXT    NOT NULL,
    holder       TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (connector, holder)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of their making
    transfer     TEXT    NOT NULL,
    run          INTEGER NOT NULL,
    step         TEXT    NOT NULL,
    purpose      TEXT    NOT NULL,
    target       TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    body         TEXT    NOT NULL,
    delivering   TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    holds        INTEGER NOT NULL, -- 1 while it keeps later ones of its subject back: waiting, claimed, refused
    attempts     INTEGER NOT NULL,
    next_at      INTEGER NOT NULL,
    claimed_by   TEXT,
    claimed_until INTEGER,
    error        TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    UNIQUE (transfer, run, step, purpose)
) STRICT;
CREATE INDEX outbox_order ON outbox (target, subject, seq) WHERE holds = 1;
CREATE INDEX outbox_due ON outbox (next_at) WHERE state = 'waiting';
CREATE INDEX outbox_claimed ON outbox (claimed_until) WHERE state = 'claimed';
CREATE INDEX outbox_expiry ON outbox (expires_at) WHERE holds = 0;

CREATE TABLE tickets (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    correlation_id TEXT  NOT NULL UNIQUE,
    kind         TEXT    NOT NULL,
    transfer     TEXT    NOT NULL,
    spec_hash    TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    urgency      INTEGER NOT NULL,
    assigned     TEXT    NOT NULL, -- the group
    opened_by    TEXT    NOT NULL,
    title        TEXT    NOT NULL,
    opened_at    INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX tickets_transfer ON tickets (transfer);
CREATE TABLE notes (
    seq          INTEGER PRIMARY KEY,
    ticket       INTEGER NOT NULL REFERENCES tickets (number) ON DELETE CASCADE,
    key          TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    author       TEXT    NOT NULL,
    text         TEXT    NOT NULL,
    UNIQUE (ticket, key)
) STRICT;

CREATE TABLE connectors (
    name         TEXT    NOT NULL PRIMARY KEY,
    version      INTEGER NOT NULL,
    body         TEXT    NOT NULL,
    updated_by   TEXT    NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sources (
    name         TEXT    NOT NULL PRIMARY KEY,
    version      INTEGER NOT NULL,
    body         TEXT    NOT NULL,
    updated_by   TEXT    NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE secrets (
    name         TEXT    NOT NULL PRIMARY KEY,
    version      INTEGER NOT NULL,
    body         BLOB    NOT NULL, -- sealed
    updated_by   TEXT    NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE learning (
    transfer_type TEXT   NOT NULL,
    size_category TEXT   NOT NULL,
    outcome      TEXT    NOT NULL,
    transfers    INTEGER NOT NULL,
    milliseconds INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    retries      INTEGER NOT NULL,
    PRIMARY KEY (transfer_type, size_category, outcome)
) STRICT, WITHOUT ROWID;

CREATE TABLE cached_objects (
    key          TEXT    NOT NULL PRIMARY KEY,
    body         TEXT    NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX cached_objects_expiry ON cached_objects (expires_at);
