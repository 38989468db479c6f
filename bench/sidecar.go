package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// sidecarPlan says how much is sent between programs.
type sidecarPlan struct {
	Bytes  []int `json:"bytes"`
	Rounds int   `json:"rounds"`
	Load   int   `json:"load"`  // messages of a round, as fast as they go
	Paced  int   `json:"paced"` // messages of a round, one each sidecarPace
	Large  []int `json:"large"` // bytes of messages that go in chunks, alone each
}

const (
	sidecarPace     = 2 * time.Millisecond
	sidecarFlight   = 128              // messages that are not there yet, at most
	sidecarSend     = 32               // calls that publish at once
	sidecarTogether = 64               // messages of one request
	sidecarLimit    = 30 * time.Second // for a round
	sidecarTopic    = "tx"
	sidecarMost     = 10 << 20 // bytes of a message
)

// sidecarRow is one message from program to program.
type sidecarRow struct {
	Cases []sidecarCase
	Large []largeCase
}

// sidecarCase is two nodes, each a process with a program that is attached over
// gRPC in this one, and two hosts of libp2p-pubsub, each a process too.
type sidecarCase struct {
	Bytes    int    `json:"bytes"`
	Validate bool   `json:"validate"` // the receiver says of each message that it is good
	OursPS   figure `json:"ours_s"`
	BarePS   figure `json:"bare_s"`
	Ratio    figure `json:"ratio_bare"`
	NodesUS  figure `json:"nodes_us"`    // CPU of both nodes a message, without their programs
	EndsUS   figure `json:"programs_us"` // of both programs
	BareUS   figure `json:"bare_us"`     // CPU of both hosts, which have their programs in them
	P50MS    figure `json:"p50_ms"`
	P99MS    figure `json:"p99_ms"`
	BareP50  figure `json:"bare_p50_ms"`
	BareP99  figure `json:"bare_p99_ms"`
}

// carrier takes messages from one end to the other.
type carrier interface {
	publish(ctx context.Context, data []byte) error
	arrived() <-chan []byte // at the other end
	failed() <-chan error
	cpu() (carriers, programs time.Duration, err error) // that they have used
	close() error
}

func (b *bench) measureSidecar(ctx context.Context, r *report) error {
	row, err := measureSidecar(ctx, filepath.Join(b.dir, "sidecar"), r.Plan.Sidecar, b.progress())
	if err == nil {
		r.Sidecar = row
	}
	return err
}

func measureSidecar(ctx context.Context, dir string, p sidecarPlan, say *progress) (*sidecarRow, error) {
	row := &sidecarRow{}
	for _, validate := range []bool{false, true} {
		for _, bytes := range p.Bytes {
			c, err := measureCase(ctx, filepath.Join(dir, fmt.Sprint(len(row.Cases))), p, bytes, validate, say)
			if err != nil {
				return nil, fmt.Errorf("%d bytes, validate = %v: %w", bytes, validate, err)
			}
			row.Cases = append(row.Cases, c)
		}
	}
	var err error
	row.Large, err = measureLarge(ctx, filepath.Join(dir, "large"), p, say)
	return row, err
}

// measureCase has nodes of its own: a peer takes a bounded number of messages
// in ten seconds.
func measureCase(ctx context.Context, dir string, p sidecarPlan, bytes int, validate bool, say *progress) (c sidecarCase, err error) {
	ours, err := openPrograms(ctx, dir, validate)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	bare, err := openBarePair(ctx, filepath.Join(dir, "bare"), validate)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	c = sidecarCase{Bytes: bytes, Validate: validate}
	for range p.Rounds {
		if err := errors.Join(load(ctx, ours, p.Load, bytes, &c.OursPS, &c.NodesUS, &c.EndsUS), load(ctx, bare, p.Load, bytes, &c.BarePS, &c.BareUS, new(figure))); err != nil {
			return c, err
		}
		if err := errors.Join(pace(ctx, ours, p.Paced, bytes, &c.P50MS, &c.P99MS), pace(ctx, bare, p.Paced, bytes, &c.BareP50, &c.BareP99)); err != nil {
			return c, err
		}
		say.now("sidecar: messages of %d bytes", bytes)
	}
	c.Ratio = c.OursPS.over(c.BarePS)
	say.done("sidecar: %s messages/s, bare %s", c.OursPS.text(), c.BarePS.text())
	return c, nil
}

// numberedMessage is message i of a round; salt tells rounds apart, for no message
// goes twice.
func numberedMessage(salt int64, i, bytes int) []byte {
	b := make([]byte, max(bytes, 16))
	binary.BigEndian.PutUint64(b, uint64(salt))
	binary.BigEndian.PutUint64(b[8:], uint64(i))
	return b
}

// load sends n messages as fast as they arrive.
func load(ctx context.Context, l carrier, n, bytes int, perS, carriers, programs *figure) error {
	ctx, cancel := context.WithTimeout(ctx, sidecarLimit)
	defer cancel()
	carried, ran, err := l.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := carry(ctx, l, n, bytes, 0); err != nil {
		return err
	}
	took := time.Since(begin)
	carriedNow, ranNow, err := l.cpu()
	if err != nil {
		return err
	}
	perS.add(float64(n) / took.Seconds())
	carriers.add(float64(carriedNow-carried) / 1e3 / float64(n))
	programs.add(float64(ranNow-ran) / 1e3 / float64(n))
	return nil
}

// pace sends n messages, each when it is due.
func pace(ctx context.Context, l carrier, n, bytes int, p50, p99 *figure) error {
	ctx, cancel := context.WithTimeout(ctx, sidecarLimit)
	defer cancel()
	took, err := carry(ctx, l, n, bytes, sidecarPace)
	if err != nil {
		return err
	}
	p50.add(quantile(took, .5))
	p99.add(quantile(took, .99))
	return nil
}

// carry sends n messages and returns when each has arrived, once; took is from
// when a message is sent, or due.
func carry(ctx context.Context, l carrier, n, bytes int, every time.Duration) (took []float64, err error) {
	r := round{
		carrier: l, salt: time.Now().UnixNano(), every: every, sent: make([]time.Time, n), got: make([]bool, n),
		flight: make(chan struct{}, sidecarFlight), next: make(chan int),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.pace(gctx) })
	for range sidecarSend {
		g.Go(func() error {
			for i := range r.next {
				if err := l.publish(gctx, numberedMessage(r.salt, i, bytes)); err != nil {
					return fmt.Errorf("publish: %w", err)
				}
			}
			return nil
		})
	}
	g.Go(func() error { return r.count(gctx) })
	err = g.Wait()
	return r.took, err
}

// round is n messages on their way.
type round struct {
	carrier
	salt   int64         // tells them from those of other rounds
	every  time.Duration // 0 = as fast as they arrive
	flight chan struct{} // places of messages that have not arrived
	next   chan int      // numbers to be published
	sent   []time.Time   // by number; written before a message's number goes into next
	got    []bool        // by number; count's alone, with took
	took   []float64     // ms, in the order of arrival
}

// pace hands out the numbers, each when it is due and has a place.
func (r *round) pace(ctx context.Context) error {
	defer close(r.next)
	begin := time.Now()
	for i := range r.sent {
		if r.every > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * r.every)))
		}
		select {
		case r.flight <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.sent[i] = time.Now(); r.every > 0 {
			r.sent[i] = begin.Add(time.Duration(i) * r.every)
		}
		select {
		case r.next <- i:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// count takes what arrives until all have.
func (r *round) count(ctx context.Context) error {
	for n := len(r.got); len(r.took) < n; {
		select {
		case b := <-r.arrived():
			if len(b) < 16 || int64(binary.BigEndian.Uint64(b)) != r.salt {
				continue // of a round that failed
			}
			i := binary.BigEndian.Uint64(b[8:])
			if i >= uint64(n) || r.got[i] {
				return fmt.Errorf("message %d came twice", i)
			}
			r.got[i] = true
			r.took = append(r.took, ms(time.Since(r.sent[i])))
			<-r.flight
		case err := <-r.failed():
			return err
		case <-ctx.Done():
			return fmt.Errorf("%d of %d messages arrived: %w", len(r.took), n, ctx.Err())
		}
	}
	return nil
}

// sidecarTable is the result for people.
func (r *report) sidecarTable() string {
	if r.Sidecar == nil {
		return ""
	}
	var b strings.Builder
	put := func(text string, cells ...string) {
		b.WriteString(pad(text, 34, false))
		for i, c := range cells {
			b.WriteString(pad(c, [...]int{22, 24, 20}[i], true))
		}
		b.WriteString("\n")
	}
	put("message from program to program", "ours, over gRPC", "bare pubsub pair", "of it, %")
	b.WriteString(strings.Repeat("─", 100) + "\n")
	for _, c := range r.Sidecar.Cases {
		how := map[bool]string{false: "", true: ", with verdicts"}[c.Validate]
		put(fmt.Sprintf("%d B%s: messages/s", c.Bytes, how), c.OursPS.text(), c.BarePS.text(), percent(c.Ratio))
		put("  CPU us a message, nodes or hosts", c.NodesUS.text(), c.BareUS.text())
		put("  CPU us a message, both programs", c.EndsUS.text())
		put("  publish to receive: p50, ms", c.P50MS.text(), c.BareP50.text())
		put("  publish to receive: p99, ms", c.P99MS.text(), c.BareP99.text())
	}
	b.WriteString("aim: 70 % of the pair\n")
	b.WriteString(largeTable(r.Sidecar.Large))
	return b.String()
}
