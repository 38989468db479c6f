package history

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// file is a store on disk. A transaction that ended survives the process; a
// power cut may take the last ones, whole.
type file struct{ db *sql.DB }

const (
	pragmas   = "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(NORMAL)&_pragma=journal_size_limit(4194304)"
	fileConns = 2 // one writes, one reads
)

// openFile opens or makes the file, pruned, and finds its highest Seq. A broken
// one is set aside, in place of the one before, and a new one is made.
func openFile(ctx context.Context, path string, oldest time.Time, log *slog.Logger) (s store, last uint64, err error) {
	s, last, err = tryFile(ctx, path, oldest)
	if !isBroken(err) {
		return s, last, err
	}
	aside := path + ".broken"
	if err := os.Rename(path, aside); err != nil {
		return nil, 0, fmt.Errorf("set the broken history aside: %w", err)
	}
	for _, end := range []string{"-wal", "-shm"} { // they are of the file that was broken
		if err := os.Remove(path + end); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, fmt.Errorf("remove what is left of the broken history: %w", err)
		}
	}
	log.Warn("history is broken: set aside, and begun anew", "file", path, "aside", aside, "err", err)
	return tryFile(ctx, path, oldest)
}

func tryFile(ctx context.Context, path string, oldest time.Time) (s store, last uint64, err error) {
	if s, err = openSQLite(ctx, path); err != nil {
		return nil, 0, err
	}
	if err = s.prune(ctx, oldest); err == nil {
		last, err = s.last(ctx)
	}
	if err != nil {
		return nil, 0, errors.Join(err, s.close())
	}
	return s, last, nil
}

func openSQLite(ctx context.Context, path string) (store, error) {
	made, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // sqlite would let others read
	if err == nil {
		err = made.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	db, err := sql.Open("sqlite", dataSource(path, pragmas))
	if err != nil {
		return nil, fmt.Errorf("open history %s: %w", path, err)
	}
	db.SetMaxOpenConns(fileConns)
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("open history %s: %w", path, err), db.Close())
	}
	return &file{db}, nil
}

// dataSource names a file to the library, whatever is in its path.
func dataSource(path, query string) string {
	u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query}
	return u.String()
}

// Copy writes the history in the file from, which may be in use, to a new file.
func Copy(ctx context.Context, from, to string) (err error) {
	db, err := sql.Open("sqlite", dataSource(from, "mode=ro&_pragma=busy_timeout(5000)"))
	if err != nil {
		return fmt.Errorf("copy history: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	made, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // sqlite takes an empty file
	if err == nil {
		err = made.Close()
	}
	if err != nil {
		return fmt.Errorf("copy history: %w", err)
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return fmt.Errorf("copy history: %w", err)
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, steps)
	if err != nil {
		return err
	}
	var check string // goose finds out nothing of pages that it does not read
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&check); err != nil {
		return err
	}
	if check != "ok" {
		return fmt.Errorf("%w: %s", errBroken, check)
	}
	_, err = p.Up(ctx)
	return err
}

var errBroken = errors.New("the file is damaged")

// isBroken tells a damaged file from a disk that is full or away.
func isBroken(err error) bool {
	if errors.Is(err, errBroken) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff // without the extension
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

func (f *file) last(ctx context.Context) (seq uint64, err error) {
	err = f.db.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM connections").Scan(&seq)
	return seq, err
}

func (f *file) add(ctx context.Context, entries []Entry) error {
	tx, err := f.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing to do after a commit
	insert, err := tx.PrepareContext(ctx, `INSERT INTO connections
		(seq, at, event, peer, familiar, direction, addr, closed_by, reason, goodbye, duration_ms, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	defer insert.Close()
	for _, e := range entries {
		_, err := insert.ExecContext(ctx, int64(e.Seq), e.At.UnixMilli(), e.Event, e.Peer.String(), e.familiar, e.Direction, e.Addr, e.By,
			e.Reason, int64(e.Goodbye), e.Duration.Milliseconds(), e.Name) // goodbye keeps its bits
		if err != nil {
			return fmt.Errorf("write history: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

func (f *file) page(ctx context.Context, p peer.ID, before uint64, limit int) ([]Entry, error) {
	rows, err := f.db.QueryContext(ctx, `SELECT seq, at, event, peer, familiar, direction, addr, closed_by, reason, goodbye, duration_ms, name
		FROM connections WHERE seq < ?1 AND (?2 = '' OR peer = ?2) ORDER BY seq DESC LIMIT ?3`, int64(before), p.String(), limit)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var seq, at, goodbye, ms int64
		var id string
		if err := rows.Scan(&seq, &at, &e.Event, &id, &e.familiar, &e.Direction, &e.Addr, &e.By, &e.Reason, &goodbye, &ms, &e.Name); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		if id != "" {
			if e.Peer, err = peer.Decode(id); err != nil {
				continue // what nobody can have written
			}
		}
		e.Seq, e.At, e.Goodbye, e.Duration = uint64(seq), time.UnixMilli(at).UTC(), uint64(goodbye), time.Duration(ms)*time.Millisecond
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return list, nil
}

func (f *file) names(ctx context.Context, limit int) ([]Entry, error) {
	rows, err := f.db.QueryContext(ctx, // name is that of the row with the highest seq: a promise of sqlite
		"SELECT peer, name, at, max(seq) AS last FROM connections WHERE name <> '' AND peer <> '' GROUP BY peer ORDER BY last DESC LIMIT ?", limit)
	if err != nil {
		return nil, fmt.Errorf("read names of peers: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var id string
		var at, seq int64
		if err := rows.Scan(&id, &e.Name, &at, &seq); err != nil {
			return nil, fmt.Errorf("read names of peers: %w", err)
		}
		if e.Peer, err = peer.Decode(id); err != nil {
			continue // what nobody can have written
		}
		e.Seq, e.At = uint64(seq), time.UnixMilli(at).UTC()
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read names of peers: %w", err)
	}
	return list, nil
}

func (f *file) endingIn(ctx context.Context, tail string, limit int) ([]peer.ID, error) {
	rows, err := f.db.QueryContext(ctx, "SELECT DISTINCT peer FROM connections WHERE substr(peer, -?1) = ?2 LIMIT ?3", len(tail), tail, limit)
	if err != nil {
		return nil, fmt.Errorf("look for %s in history: %w", tail, err)
	}
	defer rows.Close()
	var list []peer.ID
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("look for %s in history: %w", tail, err)
		}
		if id, err := peer.Decode(text); err == nil {
			list = append(list, id)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look for %s in history: %w", tail, err)
	}
	return list, nil
}

func (f *file) prune(ctx context.Context, oldest time.Time) error {
	for _, step := range []struct {
		query string
		arg   int64
	}{
		{"DELETE FROM connections WHERE at < ?", oldest.UnixMilli()},
		{"DELETE FROM connections WHERE seq IN (SELECT seq FROM connections WHERE NOT familiar ORDER BY seq DESC LIMIT -1 OFFSET ?)", maxStrangers},
		{`DELETE FROM connections WHERE seq IN (SELECT seq FROM
			(SELECT seq, row_number() OVER (PARTITION BY peer ORDER BY seq DESC) AS n FROM connections WHERE peer <> '') WHERE n > ?)`, maxPerPeer},
		{"DELETE FROM connections WHERE seq IN (SELECT seq FROM connections ORDER BY seq DESC LIMIT -1 OFFSET ?)", maxRows},
	} {
		if _, err := f.db.ExecContext(ctx, step.query, step.arg); err != nil {
			return fmt.Errorf("prune history: %w", err)
		}
	}
	return nil
}

func (f *file) close() error { return f.db.Close() }
