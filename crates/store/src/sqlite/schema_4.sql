-- The audit: chains of lines, how far each has come, and the seals over that. Nothing here refers to other tables: the audit
-- outlives what it speaks of. Then the history of executions in another form, and what is remembered of users.

CREATE TABLE audit (
    chain        TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    line         TEXT    NOT NULL,
    PRIMARY KEY (chain, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_heads (
    chain        TEXT    NOT NULL PRIMARY KEY,
    seq          INTEGER NOT NULL,
    hash         TEXT    NOT NULL, -- of that line
    sealed       INTEGER NOT NULL  -- the last number that a seal covers
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_unsealed ON audit_heads (chain) WHERE seq > sealed;

CREATE TABLE seals (
    number       INTEGER PRIMARY KEY,
    line         TEXT    NOT NULL
) STRICT;

-- The history from here on: the events of one step in one row. Not without a row number, because a row of more than a quarter of
-- a page would then lie on pages of its own.
CREATE TABLE steps (
    place        INTEGER PRIMARY KEY, -- number of the execution, and of the step's last event
    events       TEXT    NOT NULL
) STRICT;

CREATE TABLE user_contexts (
    user         TEXT    NOT NULL,
    exchange     INTEGER NOT NULL, -- 0 has the preferences
    body         TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (user, exchange)
) STRICT, WITHOUT ROWID;
CREATE INDEX user_contexts_expiry ON user_contexts (expires_at);
