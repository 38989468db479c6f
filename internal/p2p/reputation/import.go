package reputation

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	importBatch     = 5000 // bans, in one transaction
	maxRefusedLines = 1000 // told; the rest is counted
	maxImportLine   = 16 << 10
)

// Import tells what came of a list.
type Import struct {
	Added        int           `json:"added"`
	Endless      int           `json:"without_end"`   // targets, new or to end later, for which the list says no end: they hold for For
	For          string        `json:"for"`           // bans.duration
	Known        int           `json:"known"`         // there already; where the list says later, they end later
	RefusedLines int           `json:"refused_lines"` // all of them
	Refused      []RefusedLine `json:"refused"`       // the first 1000
}

// RefusedLine is a line of a list that is no ban.
type RefusedLine struct {
	Line int    `json:"line"`
	Why  string `json:"why"`
}

// Import bans what list says, one a line: a target, for the configured time, or
// a ban as JSON. Empty lines and what follows a # are left out. What comes
// before an error holds. An import makes no room in a full list: after
// [ErrBansFull] all holds but new targets that found none.
func (b *Bans) Import(ctx context.Context, list io.Reader, actor string, force bool) (Import, error) {
	in := &importing{Bans: b, ctx: ctx, sum: Import{Refused: []RefusedLine{}, For: b.duration().String()}, taken: map[Target]bool{}}
	err := in.read(list, actor, force)
	err = errors.Join(err, in.flush())
	if err == nil && in.full > 0 {
		err = fmt.Errorf("%d new targets of the list are not banned: %w", in.full, ErrBansFull)
	}
	return in.sum, err
}

// CheckImport says why an import of a list would not come to its end: too long
// a line. Lines that an import refuses are no reason.
func CheckImport(list io.Reader) error {
	lines := importLines(list)
	for lines.Scan() { // to the end
	}
	return lineFault(lines.Err())
}

func importLines(list io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(list)
	lines.Buffer(nil, maxImportLine)
	return lines
}

func lineFault(err error) error {
	if err == nil {
		return nil
	}
	return &RequestError{err}
}

// read takes what a list says, but for what waits for a flush.
func (in *importing) read(list io.Reader, actor string, force bool) error {
	protected := in.protected()
	lines := importLines(list)
	for n := 1; lines.Scan(); n++ {
		row, ends, ok, err := in.line(lines.Text(), actor)
		if ok && !force {
			err = protected.allow(row.target)
		}
		switch {
		case err != nil:
			in.refuse(n, err)
		case !ok:
		default:
			if err := in.add(row, ends); err != nil {
				return err
			}
		}
	}
	return lineFault(lines.Err())
}

type importing struct {
	*Bans
	ctx   context.Context //nolint:containedctx // of one call
	sum   Import
	ops   []op
	taken map[Target]bool // new targets in ops
	full  int             // new targets without a place
}

func (in *importing) refuse(line int, err error) {
	why := err.Error()
	if _, risky := errors.AsType[*ConflictError](err); risky {
		why += "; parley bans import --force takes it too"
	}
	if in.sum.RefusedLines++; len(in.sum.Refused) < maxRefusedLines {
		in.sum.Refused = append(in.sum.Refused, RefusedLine{line, why})
	}
}

// add takes a ban; ends means that the list says until when.
func (in *importing) add(r row, ends bool) error {
	have, holds := in.list.holds(r.target)
	if holds && !r.later(&have) {
		in.sum.Known++
		return nil
	}
	if !holds && !in.taken[r.target] && in.list.count()+len(in.taken) >= in.cfg.Max {
		in.full++
		return nil
	}
	if holds || in.taken[r.target] {
		in.sum.Known++
	} else {
		in.taken[r.target] = true
		in.sum.Added++
	}
	if !ends {
		in.sum.Endless++
	}
	in.ops = append(in.ops, op{row: r})
	if len(in.ops) >= importBatch {
		return in.flush()
	}
	return nil
}

func (in *importing) flush() error {
	if len(in.ops) == 0 {
		return nil
	}
	err := in.do(in.ctx, in.ops)
	if err != nil {
		in.sum.Added -= len(in.taken)
		in.sum.Known -= len(in.ops) - len(in.taken)
	}
	in.ops = nil
	clear(in.taken)
	return err
}

// line reads one line; not ok = there is nothing in it. ends means that it says
// until when, or for ever.
func (b *Bans) line(text, actor string) (r row, ends, ok bool, err error) {
	q := BanRequest{Origin: OriginImport, Actor: actor, Reason: "import"}
	if text = strings.TrimSpace(text); strings.HasPrefix(text, "{") {
		if err := q.fromJSON(text); err != nil {
			return row{}, false, false, err
		}
		ends = true
	} else {
		target, note, _ := strings.Cut(text, "#")
		if q.Target = strings.TrimSpace(target); q.Target == "" {
			return row{}, false, false, nil
		}
		note = strings.TrimSpace(note)
		q.Note = note[:min(maxNote, len(note))]
	}
	r, err = b.check(q, time.Now())
	return r, ends, err == nil, err
}

// fromJSON reads a ban of an export.
func (r *BanRequest) fromJSON(line string) error {
	var v Ban
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		return fmt.Errorf("no ban as JSON: %w", err)
	}
	if v.Lifted != nil {
		return errors.New("the ban was lifted")
	}
	r.Target, r.Note, r.Forever = v.Target, v.Note, v.Until == nil
	if v.Until != nil {
		r.Until = *v.Until
	}
	if v.Reason != "" {
		r.Reason = v.Reason
	}
	return nil
}
