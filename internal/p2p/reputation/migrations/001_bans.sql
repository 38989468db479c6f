-- +goose Up
CREATE TABLE bans (
  target TEXT NOT NULL, scope TEXT NOT NULL, -- scope '' = every node; else the peer id of the node that banned by itself
  kind TEXT NOT NULL, reason TEXT NOT NULL, note TEXT NOT NULL,
  origin TEXT NOT NULL, actor TEXT NOT NULL, offences BIGINT NOT NULL,
  created BIGINT NOT NULL, until BIGINT, lifted BIGINT, -- unix ms; until NULL = for ever
  rev BIGINT NOT NULL,
  PRIMARY KEY (target, scope)
);
CREATE UNIQUE INDEX bans_rev ON bans (rev);
CREATE TABLE bans_revision (rev BIGINT NOT NULL); -- the last one given out, also of rows that are gone
INSERT INTO bans_revision VALUES (0);

-- +goose Down
DROP TABLE bans_revision;
DROP TABLE bans;
