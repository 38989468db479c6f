package reputation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	pgChannel  = "parley_bans"
	pgLock     = 0x7061726c6579 // of writers: else a later rev could be seen before an earlier one, which is then missed
	pgTimeout  = 5 * time.Second
	pgPoll     = 30 * time.Second // a notification that is lost costs no more
	pgAgain    = time.Second      // after the connection was lost; it doubles
	pgAgainMax = 30 * time.Second
)

// pgTables makes what is not there yet. All nodes of a fleet may do so at once.
const pgTables = `CREATE TABLE IF NOT EXISTS bans (
		target TEXT NOT NULL, scope TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, note TEXT NOT NULL,
		origin TEXT NOT NULL, actor TEXT NOT NULL, offences BIGINT NOT NULL,
		created BIGINT NOT NULL, until BIGINT, lifted BIGINT, rev BIGINT NOT NULL, PRIMARY KEY (target, scope));
	CREATE UNIQUE INDEX IF NOT EXISTS bans_rev ON bans (rev);
	CREATE SEQUENCE IF NOT EXISTS bans_revision`

// postgres is a store that a fleet shares.
type postgres struct {
	cfg *pgx.ConnConfig
	log *slog.Logger

	mu   sync.Mutex
	conn *pgx.Conn // nil = not connected
}

// openPostgres makes the tables where they are not there. The connection string
// is that of PostgreSQL; a password is best kept in ~/.pgpass.
func openPostgres(ctx context.Context, url string, log *slog.Logger) (store, error) {
	cfg, err := pgx.ParseConfig(url) // its errors keep the password back
	if err != nil {
		return nil, fmt.Errorf("the connection string of the ban list: %w", err)
	}
	p := &postgres{cfg: cfg, log: log}
	err = p.with(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, pgTables)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the ban list in PostgreSQL at %s: %w; a node does not start without its bans", cfg.Host, err)
	}
	return p, nil
}

// unreached is an error of the driver in fewer words.
type unreached struct {
	error
	text string
}

func (u *unreached) Error() string { return u.text }
func (u *unreached) Unwrap() error { return u.error }

// oneLine says on one line why there is no connection; the driver has a line for each
// way that it tried, and repeats who asked for what.
func oneLine(err error) error {
	failed, is := errors.AsType[*pgconn.ConnectError](err)
	if !is {
		return err
	}
	var lines []string
	for line := range strings.Lines(fmt.Sprint(failed.Unwrap())) {
		if line = strings.TrimSpace(line); !slices.Contains(lines, line) { // first with TLS, then without
			lines = append(lines, line)
		}
	}
	return &unreached{err, strings.Join(lines, "; ")}
}

// with runs f in a transaction of one writer at a time. f may run twice: what it
// writes MUST be the same then.
func (p *postgres) with(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	return p.on(ctx, func(ctx context.Context, c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(pgLock)); err != nil {
				return err
			}
			return f(ctx, tx)
		})
	})
}

// on runs f on the connection, and again on a fresh one where that failed on one
// that was idle before: it may have been cut meanwhile.
func (p *postgres) on(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	for {
		idle := p.conn != nil
		c, err := p.connected(ctx)
		if err == nil {
			err = f(ctx, c)
		}
		if err == nil {
			return nil
		}
		p.drop(ctx) // whatever it was, the next one begins with a fresh connection
		if !idle || ctx.Err() != nil {
			return err
		}
	}
}

func (p *postgres) connected(ctx context.Context) (*pgx.Conn, error) { // mu held
	if p.conn != nil && !p.conn.IsClosed() {
		return p.conn, nil
	}
	c, err := pgx.ConnectConfig(ctx, p.cfg.Copy())
	p.conn = c
	return c, oneLine(err)
}

func (p *postgres) drop(ctx context.Context) { // mu held
	if p.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = p.conn.Close(ctx)
	p.conn = nil
}

func (p *postgres) since(ctx context.Context, rev int64) (list []row, err error) {
	err = p.on(ctx, func(ctx context.Context, c *pgx.Conn) (err error) {
		list, err = p.read(ctx, c, rev)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the ban list: %w", err)
	}
	return list, nil
}

func (p *postgres) read(ctx context.Context, c *pgx.Conn, rev int64) (list []row, err error) {
	rows, err := c.Query(ctx, sinceRev, rev)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

func (p *postgres) write(ctx context.Context, ops []op) error {
	err := p.with(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := writeOps(ctx, pgTx{tx}, ops); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT pg_notify($1, '')", pgChannel)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the ban list: %w", err)
	}
	return nil
}

func (p *postgres) purge(ctx context.Context, t time.Time) error {
	err := p.with(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, purgeOver, t.UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("purge the ban list: %w", err)
	}
	return nil
}

// watch listens on a connection of its own, and wakes after each reconnect and
// every 30 s too.
func (p *postgres) watch(ctx context.Context, wake func()) {
	wait := pgAgain
	for ctx.Err() == nil {
		began := time.Now()
		err := p.listen(ctx, wake)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > pgPoll {
			wait = pgAgain
		}
		p.log.Warn("the ban list's database is away: bans of other nodes come late", "err", err, "again", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wake() // writing may go where listening does not
		wait = min(2*wait, pgAgainMax)
	}
}

func (p *postgres) listen(ctx context.Context, wake func()) error {
	dial, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	c, err := pgx.ConnectConfig(dial, p.cfg.Copy())
	if err != nil {
		return oneLine(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	}()
	if _, err := c.Exec(dial, "LISTEN "+pgChannel); err != nil {
		return err
	}
	for {
		wake()
		poll, cancel := context.WithTimeout(ctx, pgPoll)
		_, err := c.WaitForNotification(poll)
		quiet := poll.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && !quiet {
			return err
		}
		if quiet { // is it still there? A wait that was cut short closes nothing
			if err := c.Ping(ctx); err != nil {
				return err
			}
		}
	}
}

func (p *postgres) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(context.Background())
	return nil
}

type pgTx struct{ tx pgx.Tx }

func (t pgTx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := t.tx.Exec(ctx, query, args...)
	return tag.RowsAffected(), err
}

func (t pgTx) strings(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := t.tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (t pgTx) nextRevs(ctx context.Context, n int) ([]int64, error) {
	rows, err := t.tx.Query(ctx, "SELECT nextval('bans_revision') FROM generate_series(1, $1::int) ORDER BY 1", n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
