package reputation

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// sqlite is a store of one node, on its own disk.
type sqlite struct{ db *sql.DB }

const pragmas = "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)&_pragma=journal_size_limit(4194304)"

// openSQLite opens or makes the file. One that is damaged is an error: a node
// that forgot its bans would let in whom it keeps out.
func openSQLite(ctx context.Context, path string) (store, error) {
	made, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // sqlite would let others read
	if err == nil {
		err = made.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("open the ban list: %w", err)
	}
	u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: pragmas}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open the ban list %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := prepare(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ban list %s: %w; restore it from a backup, or move it away to begin with no bans", path, err), db.Close())
	}
	return &sqlite{db}, nil
}

func prepare(ctx context.Context, db *sql.DB) error {
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
		return fmt.Errorf("the file is damaged: %s", check)
	}
	_, err = p.Up(ctx)
	return err
}

func (s *sqlite) since(ctx context.Context, rev int64) (list []row, err error) {
	rows, err := s.db.QueryContext(ctx, sinceRev, rev)
	if err != nil {
		return nil, fmt.Errorf("read the ban list: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("read the ban list: %w", err)
		}
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the ban list: %w", err)
	}
	return list, nil
}

func (s *sqlite) write(ctx context.Context, ops []op) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err == nil {
		err = writeOps(ctx, sqlTx{tx, map[string]*sql.Stmt{}}, ops)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		if tx != nil {
			_ = tx.Rollback() // nothing to do after a commit
		}
		return fmt.Errorf("write the ban list: %w", err)
	}
	return nil
}

func (s *sqlite) purge(ctx context.Context, t time.Time) error {
	if _, err := s.db.ExecContext(ctx, purgeOver, t.UnixMilli()); err != nil {
		return fmt.Errorf("purge the ban list: %w", err)
	}
	return nil
}

// watch waits: nobody else writes.
func (s *sqlite) watch(ctx context.Context, _ func()) { <-ctx.Done() }

func (s *sqlite) close() error { return s.db.Close() }

// transaction is what writing needs of one, of either database.
type transaction interface {
	exec(ctx context.Context, query string, args ...any) (changed int64, err error)
	strings(ctx context.Context, query string, args ...any) ([]string, error)
	// nextRevs gives out n revisions, in order.
	nextRevs(ctx context.Context, n int) ([]int64, error)
}

func writeOps(ctx context.Context, tx transaction, ops []op) error {
	var revs []int64 // of the bans from here to the next lift: one by one they are most of an import
	for i, o := range ops {
		r := o.row
		if !o.lift {
			if len(revs) == 0 {
				n := slices.IndexFunc(ops[i:], func(o op) bool { return o.lift })
				if n < 0 {
					n = len(ops) - i
				}
				var err error
				if revs, err = tx.nextRevs(ctx, n); err != nil {
					return err
				}
			}
			rev := revs[0]
			revs = revs[1:]
			if _, err := tx.exec(ctx, upsert, r.target.String(), r.scope, r.target.Kind(), r.reason, r.note, r.origin, r.actor, r.offences,
				r.created.UnixMilli(), unixMilli(r.until), rev); err != nil {
				return err
			}
			continue
		}
		list, err := tx.strings(ctx, scopes, r.target.String(), r.scope, r.lifted.UnixMilli())
		if err != nil {
			return err
		}
		lifts, err := tx.nextRevs(ctx, len(list))
		if err != nil {
			return err
		}
		for i, scope := range list {
			if _, err := tx.exec(ctx, lift, r.target.String(), scope, r.lifted.UnixMilli(), lifts[i], r.actor); err != nil {
				return err
			}
		}
	}
	return nil
}

// sqlTx prepares each statement once: an import runs the same ones a thousand
// times. They end with the transaction.
type sqlTx struct {
	tx       *sql.Tx
	prepared map[string]*sql.Stmt
}

func (t sqlTx) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if st := t.prepared[query]; st != nil {
		return st, nil
	}
	st, err := t.tx.PrepareContext(ctx, query)
	if err == nil {
		t.prepared[query] = st
	}
	return st, err
}

func (t sqlTx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	st, err := t.prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t sqlTx) strings(ctx context.Context, query string, args ...any) (list []string, err error) {
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

func (t sqlTx) nextRevs(ctx context.Context, n int) ([]int64, error) {
	var last int64
	if err := t.tx.QueryRowContext(ctx, "UPDATE bans_revision SET rev = rev + $1 RETURNING rev", n).Scan(&last); err != nil {
		return nil, err
	}
	revs := make([]int64, n)
	for i := range revs {
		revs[i] = last - int64(n-1-i)
	}
	return revs, nil
}
