package reputation

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// store keeps the bans where they outlive the process. What write returns nil
// for survives a power cut.
type store interface {
	// since returns what changed after rev, oldest first.
	since(ctx context.Context, rev int64) ([]row, error)
	// write carries ops out in one transaction; each gets the next rev.
	write(ctx context.Context, ops []op) error
	// purge drops what ended before t.
	purge(ctx context.Context, t time.Time) error
	// watch calls wake when others may have written, at least every 30 s if
	// there can be others, until ctx ends.
	watch(ctx context.Context, wake func())
	close() error
}

// op is one change: a ban, or with lift the end of all bans of its target in
// its scope, or in all scopes if that is [anyScope].
type op struct {
	row  row
	lift bool
}

// anyScope stands for all scopes where a ban is lifted.
const anyScope = "*"

// upsert is in the dialect of both databases. A ban that holds is never made
// shorter: for ever wins, else the later end.
const upsert = `INSERT INTO bans (target, scope, kind, reason, note, origin, actor, offences, created, until, lifted, rev)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, $11)
	ON CONFLICT (target, scope) DO UPDATE SET
		reason = excluded.reason, note = excluded.note, origin = excluded.origin, actor = excluded.actor, offences = excluded.offences,
		created = CASE WHEN bans.lifted IS NOT NULL OR bans.until <= excluded.created THEN excluded.created ELSE bans.created END,
		until = CASE WHEN bans.lifted IS NOT NULL OR bans.until <= excluded.created THEN excluded.until
			WHEN bans.until IS NULL OR excluded.until IS NULL THEN NULL
			WHEN bans.until > excluded.until THEN bans.until ELSE excluded.until END,
		lifted = NULL, rev = excluded.rev`

const (
	lift      = `UPDATE bans SET lifted = $3, rev = $4, actor = $5 WHERE target = $1 AND scope = $2 AND lifted IS NULL AND (until IS NULL OR until > $3)`
	scopes    = `SELECT scope FROM bans WHERE target = $1 AND ($2 = '*' OR scope = $2) AND lifted IS NULL AND (until IS NULL OR until > $3)`
	sinceRev  = `SELECT target, scope, reason, note, origin, actor, offences, created, until, lifted, rev FROM bans WHERE rev > $1 ORDER BY rev`
	purgeOver = `DELETE FROM bans WHERE lifted < $1 OR until < $1`
)

// on is what o makes of the rows of its target, as upsert and lift do it: those
// that it changes.
func (o op) on(rows []row) (changed []row) {
	if o.lift {
		for _, r := range rows {
			if (o.row.scope == anyScope || o.row.scope == r.scope) && r.active(o.row.lifted) {
				r.lifted, r.actor = o.row.lifted, o.row.actor
				changed = append(changed, r)
			}
		}
		return changed
	}
	r := o.row
	for _, old := range rows {
		if old.scope != r.scope || !old.active(r.created) {
			continue
		}
		r.created = old.created
		if old.later(&r) {
			r.until = old.until
		}
	}
	return []row{r}
}

func unixMilli(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromMilli(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64)
}

// scan reads a row of sinceRev. A target that nobody can have written is an
// error: a ban that is left out would let somebody in.
func scan(from interface{ Scan(...any) error }) (row, error) {
	var r row
	var target string
	var created int64
	var until, lifted sql.NullInt64
	if err := from.Scan(&target, &r.scope, &r.reason, &r.note, &r.origin, &r.actor, &r.offences, &created, &until, &lifted, &r.rev); err != nil {
		return row{}, err
	}
	t, err := ParseTarget(target)
	if err != nil {
		return row{}, fmt.Errorf("the stored ban of %q: %w", target, err)
	}
	r.target, r.created, r.until, r.lifted = t, time.UnixMilli(created), fromMilli(until), fromMilli(lifted)
	return r, nil
}

// opJSON is an op in the journal.
type opJSON struct {
	Lift bool `json:"lift,omitempty"`
	Ban
}

// MarshalJSON implements [json.Marshaler].
func (o op) MarshalJSON() ([]byte, error) { return json.Marshal(opJSON{o.lift, o.row.ban(0)}) }

// UnmarshalJSON implements [json.Unmarshaler].
func (o *op) UnmarshalJSON(b []byte) error {
	var v opJSON
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	t, err := ParseTarget(v.Target)
	if err != nil {
		return err
	}
	o.lift = v.Lift
	o.row = row{target: t, scope: v.Scope, reason: v.Reason, note: v.Note, origin: v.Origin, actor: v.Actor, offences: v.Offences, created: v.Created}
	if v.Until != nil {
		o.row.until = *v.Until
	}
	if v.Lifted != nil {
		o.row.lifted = *v.Lifted
	}
	return nil
}
