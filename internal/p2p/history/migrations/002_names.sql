-- +goose Up
ALTER TABLE connections ADD COLUMN name TEXT NOT NULL DEFAULT ''; -- as the peer calls itself, '' = it does not, or is not connected by this

-- +goose Down
ALTER TABLE connections DROP COLUMN name;
