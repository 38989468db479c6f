-- +goose Up
CREATE TABLE connections (
    seq         INTEGER PRIMARY KEY, -- order of events, newest highest
    at          INTEGER NOT NULL,    -- unix milliseconds
    event       TEXT    NOT NULL,    -- connected | disconnected | refused
    peer        TEXT    NOT NULL,    -- '' = refused before it was known
    familiar    INTEGER NOT NULL,    -- its handshake ended well
    direction   TEXT    NOT NULL,
    addr        TEXT    NOT NULL,
    closed_by   TEXT    NOT NULL,    -- us | them
    reason      TEXT    NOT NULL,
    goodbye     INTEGER NOT NULL,    -- code, 0 = none came
    duration_ms INTEGER NOT NULL
);
CREATE INDEX connections_by_peer ON connections (peer, seq);

-- +goose Down
DROP TABLE connections;
