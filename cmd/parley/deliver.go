package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

const (
	batchWait   = 30 * time.Second // for the node to commit a line
	batchWhole  = 5 * time.Minute  // for one request
	retryFirst  = 500 * time.Millisecond
	retryMost   = 10 * time.Second
	giveUpAfter = 2 * time.Minute // without a single line that got done
	firstFaults = 10              // refused lines that are named
)

// summary is how a load ended.
type summary struct {
	Lines    int     `json:"lines"`
	Loaded   int     `json:"loaded"`             // committed by this run
	Accepted int     `json:"accepted,omitempty"` // by this run, and not committed yet
	Known    int     `json:"already"`            // there already, or twice in the file
	Refused  int     `json:"refused"`
	Seconds  float64 `json:"seconds"`
	RecordsS float64 `json:"records_s"`
	Faults   []fault `json:"faults"` // the first refused lines

	began time.Time
}

// fault is why a line was refused.
type fault struct {
	Line int    `json:"line"`
	Why  string `json:"why"`
}

func newSummary() summary { return summary{began: time.Now(), Faults: []fault{}} }

func (s *summary) refuse(number int, why string) {
	s.Refused++
	if len(s.Faults) < firstFaults {
		s.Faults = append(s.Faults, fault{number, why})
	}
}

// verdict is a line of the node's answer: a record, or a problem.
type verdict struct {
	Status json.RawMessage   `json:"status"` // a word of a record, a number of a problem
	Height *uint64           `json:"height"`
	Detail string            `json:"detail"`
	Reason consortium.Reason `json:"reason"`
}

// again tells whether the line has to be sent later: the node could not take
// it, or it is not yet where the caller wants it.
func (v verdict) again(ack string) bool {
	switch string(v.Status) {
	case `"pending"`:
		return ack != string(parley.Accepted)
	case strconv.Itoa(http.StatusTooManyRequests), strconv.Itoa(http.StatusServiceUnavailable):
		return true
	}
	return false
}

// deliver sends a batch, and what the node could not take yet of it once more,
// until every line has its verdict.
func (l *loader) deliver(ctx context.Context, batch []line) error {
	pause, last := retryFirst, time.Now()
	for {
		rest, after, err := l.send(ctx, batch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(rest) < len(batch) {
			pause, last = retryFirst, time.Now()
		}
		if len(rest) == 0 {
			return nil
		}
		if err == nil && time.Since(last) > giveUpAfter {
			err = fail(exitTimeout, "the node took no line for %s", giveUpAfter)
		}
		if err != nil && (time.Since(last) > giveUpAfter || !mayPass(err)) {
			return err
		}
		batch = rest
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(pause, after)):
		}
		pause = min(2*pause, retryMost)
	}
}

// mayPass tells whether a fault of the whole request may go away by itself.
func mayPass(err error) bool {
	if no, ok := errors.AsType[*apiError](err); ok {
		return no.Status == http.StatusTooManyRequests || no.Status == http.StatusServiceUnavailable && no.Code != "PLY-013"
	}
	return false
}

// send posts the lines and counts the verdicts. It returns the lines that have
// none yet, and how long the node wants to be left alone.
func (l *loader) send(ctx context.Context, batch []line) (rest []line, after time.Duration, err error) {
	var body bytes.Buffer
	for _, one := range batch {
		body.Write(one.draft)
		body.WriteByte('\n')
	}
	ctx, cancel := context.WithTimeout(ctx, batchWhole)
	defer cancel()
	path := query("records/batch", "ack", l.ack, "timeout", batchWait.String())
	res, err := l.client.request(ctx, http.MethodPost, path, "application/x-ndjson", &body)
	if err != nil {
		if res != nil {
			if s, bad := strconv.Atoi(res.Header.Get("Retry-After")); bad == nil {
				after = time.Duration(s) * time.Second
			}
		}
		return batch, after, err
	}
	defer res.Body.Close()
	answers := bufio.NewScanner(res.Body)
	answers.Buffer(nil, maxLine)
	for i, one := range batch {
		if !answers.Scan() {
			err := answers.Err()
			if err == nil {
				err = errors.New("the answer ended early")
			}
			return append(rest, batch[i:]...), 0, l.client.unreachable(ctx, err)
		}
		v, err := decode[verdict](answers.Bytes())
		if err != nil {
			return append(rest, batch[i:]...), 0, err
		}
		if v.again(l.ack) {
			rest = append(rest, one)
			continue
		}
		l.judge(one, v)
	}
	return rest, 0, nil
}

func (l *loader) judge(one line, v verdict) {
	l.done(one.size, func(s *summary) {
		switch {
		case string(v.Status) == `"committed"` && v.Height != nil && *v.Height > l.before:
			s.Loaded++
		case string(v.Status) == `"committed"`:
			s.Known++
		case string(v.Status) == `"pending"`:
			s.Accepted++
		default:
			why := v.Detail
			if v.Reason != "" {
				why = string(v.Reason) + ": " + why
			}
			s.refuse(one.number, why)
		}
	})
}

// display shows how far the load is, until stop is closed.
func (l *loader) display(b *bar, stop <-chan struct{}) {
	tick := time.NewTicker(barEach)
	defer tick.Stop()
	defer b.end()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			l.mu.Lock()
			s, read := l.sum, l.read
			l.mu.Unlock()
			done := s.Loaded + s.Accepted + s.Known
			text := fmt.Sprintf("%d records, %.0f/s", done, float64(done)/time.Since(s.began).Seconds())
			if s.Refused > 0 {
				text += fmt.Sprintf(", %d refused", s.Refused)
			}
			b.show(read, l.total, text)
		}
	}
}

// finish tells how the load ended.
func (l *loader) finish(g *globals, err error) error {
	s := l.sum
	s.Seconds = time.Since(s.began).Seconds()
	s.RecordsS = float64(s.Loaded+s.Accepted) / s.Seconds
	for _, f := range s.Faults {
		fmt.Fprintf(g.err, "line %d: refused: %s\n", f.Line, f.Why)
	}
	if more := s.Refused - len(s.Faults); more > 0 {
		fmt.Fprintf(g.err, "and %d more\n", more)
	}
	bad := g.showValue(s, func() *table {
		t := facts("loaded", strconv.Itoa(s.Loaded))
		if s.Accepted > 0 {
			t.add("accepted", strconv.Itoa(s.Accepted))
		}
		t.add("already there", strconv.Itoa(s.Known))
		t.add("refused", strconv.Itoa(s.Refused))
		t.add("took", fmt.Sprintf("%.1fs, %.1f records/s", s.Seconds, s.RecordsS))
		return t
	})
	switch {
	case err != nil:
		g.say("stopped early: load the same file again to go on, nothing is written twice")
		return err
	case bad != nil:
		return bad
	case s.Refused > 0:
		return fail(exitFailed, "%d of %d lines were refused: mend them and load the file again", s.Refused, s.Lines)
	}
	return nil
}
