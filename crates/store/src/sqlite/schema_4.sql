-- The audit: chains of lines, how far each has come, and the seals over that. Nothing here refers to other tables: the audit
-- outlives what it speaks of. Then what is remembered of users.

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

CREATE TABLE user_contexts (
    user         TEXT    NOT NULL,
    exchange     INTEGER NOT NULL, -- 0 has the preferences
    body         TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (user, exchange)
) STRICT, WITHOUT ROWID;
CREATE INDEX user_contexts_expiry ON user_contexts (expires_at);
