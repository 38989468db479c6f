package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// fanoutPlan says how many clients an event goes to, and how often.
type fanoutPlan struct {
	Clients int           `json:"clients"`
	Rounds  int           `json:"rounds"`
	Paced   int           `json:"paced"` // events of a round, one each fanoutPace
	Burst   int           `json:"burst"` // events of a round, at once
	Bytes   []int         `json:"bytes"` // of an event as JSON
	Idle    time.Duration `json:"-"`     // that a server is watched without events
}

const (
	fanoutPace = 20 * time.Millisecond
	delayPace  = 50 * time.Millisecond
	stuffing   = 4096 // events of stuffBytes for the client that reads nothing: over what sockets and its queue hold
	stuffBytes = 4096
	stuffPace  = 200 * time.Microsecond // slow enough that nobody else misses anything
)

// fanoutRow is what an event costs that goes to many clients.
type fanoutRow struct {
	Clients int          `json:"clients"`
	Cases   []fanoutCase `json:"cases"`
	Delay   delayRow     `json:"delay"`
}

// fanoutCase is CPU time of the server's process a delivery, in µs. Each side
// is a process, and all have as many clients, which another process plays.
type fanoutCase struct {
	Bytes  int    `json:"bytes"`
	Burst  bool   `json:"burst"`
	OursUS figure `json:"ours_us"`
	GwsUS  figure `json:"gws_us"` // Broadcaster of lxzan/gws
	RawUS  figure `json:"raw_us"` // one write call a client, in a loop
	Ratio  figure `json:"ratio_gws"`
}

// delayRow is how long an event takes to clients that read, in ms, while one
// client more reads all or nothing.
type delayRow struct {
	P50MS        figure `json:"p50_ms"`
	P99MS        figure `json:"p99_ms"`
	StoppedP50MS figure `json:"stopped_p50_ms"`
	StoppedP99MS figure `json:"stopped_p99_ms"`
}

// side is one server with its clients.
type side struct {
	*server
	crowd *crowd
}

// sides are what is compared, in the order of a case's figures.
var sides = []string{serverNode, serverGws, serverRaw}

func (b *bench) measureFanout(ctx context.Context, r *report) error {
	row, err := measureFanout(ctx, filepath.Join(b.dir, "fanout"), r.Plan.Fanout, b.progress())
	if err == nil {
		r.Fanout = row
	}
	return err
}

func measureFanout(ctx context.Context, dir string, p fanoutPlan, say *progress) (row *fanoutRow, err error) {
	row = &fanoutRow{Clients: p.Clients}
	var all []*side
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.leave())
		}
	}()
	for _, kind := range sides {
		s, err := openSide(ctx, kind, filepath.Join(dir, kind), p.Clients)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	say.done("fanout: %d clients at each of %d servers", p.Clients, len(all))
	for _, bytes := range p.Bytes {
		for _, burst := range []bool{false, true} {
			c := fanoutCase{Bytes: bytes, Burst: burst}
			if err := c.measure(ctx, p, all, say); err != nil {
				return nil, err
			}
			row.Cases = append(row.Cases, c)
		}
	}
	for i := range p.Rounds {
		if err := row.Delay.round(ctx, all[0], p.Paced); err != nil {
			return nil, fmt.Errorf("with a stopped client: %w", err)
		}
		say.now("fanout: round %d of %d with a stopped client", i+1, p.Rounds)
	}
	say.done("fanout: p99 %s ms, with a stopped client %s", row.Delay.P99MS.text(), row.Delay.StoppedP99MS.text())
	return row, nil
}

// measure gives each side the same events, in turn.
func (c *fanoutCase) measure(ctx context.Context, p fanoutPlan, all []*side, say *progress) error {
	o := order{Events: p.Paced, Bytes: c.Bytes, Every: fanoutPace, Type: tickType}
	if c.Burst {
		o.Events, o.Every = p.Burst, 0
	}
	for range p.Rounds {
		for i, f := range []*figure{&c.OursUS, &c.GwsUS, &c.RawUS} {
			us, err := all[i].cost(ctx, o, p.Idle)
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].kind, err)
			}
			f.add(us)
		}
		say.now("fanout: events of %d bytes", c.Bytes)
	}
	c.Ratio = c.OursUS.over(c.GwsUS)
	say.done("fanout: %s us a delivery, %s of gws", c.OursUS.text(), c.Ratio.text())
	return nil
}

func openSide(ctx context.Context, kind, dir string, clients int) (*side, error) {
	s, err := startServer(ctx, kind, dir)
	if err != nil {
		return nil, err
	}
	c, err := gather(ctx, s.addr, clients)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return &side{s, c}, nil
}

func (s *side) leave() error { return errors.Join(s.crowd.leave(), s.stop()) }

// cost is the CPU time of the server a delivery in µs, without what it uses
// when there are no events.
func (s *side) cost(ctx context.Context, o order, idle time.Duration) (us float64, err error) {
	start, err := s.do(order{})
	if err != nil {
		return 0, err
	}
	rest := time.Now()
	time.Sleep(idle)
	begin, err := s.do(order{})
	if err != nil {
		return 0, err
	}
	share := float64(begin-start) / float64(time.Since(rest))
	clock := time.Now()
	s.crowd.expect(o.Events, false)
	if _, err := s.do(o); err != nil {
		return 0, err
	}
	if err := s.crowd.wait(ctx); err != nil {
		return 0, err
	}
	end, err := s.do(order{})
	if err != nil {
		return 0, err
	}
	used := float64(end-begin) - share*float64(time.Since(clock))
	return used / 1e3 / float64(o.Events*len(s.crowd.clients)), nil
}

// round measures deliveries without and with a client that stands still.
func (d *delayRow) round(ctx context.Context, s *side, events int) error {
	p50, p99, err := s.delay(ctx, events)
	if err != nil {
		return err
	}
	d.P50MS.add(p50)
	d.P99MS.add(p99)
	stopped, err := newViewer(ctx, s.addr, "?types=stats.*,"+tickType, 4096)
	if err != nil {
		return err
	}
	defer stopped.conn.Close()
	if _, err := s.do(order{Events: stuffing, Bytes: stuffBytes, Every: stuffPace, Type: stuffType}); err != nil {
		return err
	}
	s.crowd.expect(1, false) // the hub has caught up when all have this one
	if _, err := s.do(order{Events: 1, Bytes: 256, Type: tickType}); err != nil {
		return err
	}
	if err := s.crowd.wait(ctx); err != nil {
		return err
	}
	if p50, p99, err = s.delay(ctx, events); err != nil {
		return err
	}
	d.StoppedP50MS.add(p50)
	d.StoppedP99MS.add(p99)
	return stopped.behind(stuffing)
}

// delay is that of events that are paced.
func (s *side) delay(ctx context.Context, events int) (p50, p99 float64, err error) {
	s.crowd.expect(events, true)
	if _, err := s.do(order{Events: events, Bytes: 256, Every: delayPace, Type: tickType}); err != nil {
		return 0, 0, err
	}
	if err := s.crowd.wait(ctx); err != nil {
		return 0, 0, err
	}
	took := s.crowd.times()
	return quantile(took, .5), quantile(took, .99), nil
}

// behind proves that this client held the server up: of what was sent to it
// some was dropped, or it was closed for that.
func (v *viewer) behind(sent int) error {
	if err := v.conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	for v.other.Load() < int64(sent) {
		if _, _, err := v.next(); err != nil {
			return nil //nolint:nilerr // what it has not by now was not sent
		}
	}
	return errors.New("the client that reads nothing was sent everything: it stood in nobody's way")
}

// fanoutTable is the result for people.
func (r *report) fanoutTable() string {
	f := r.Fanout
	if f == nil {
		return ""
	}
	var b strings.Builder
	line := func(text string, cells ...string) {
		b.WriteString(pad(text, 23, false))
		for _, c := range cells {
			b.WriteString(pad(c, 19, true))
		}
		b.WriteString("\n")
	}
	line(fmt.Sprintf("event to %d WebSockets", f.Clients), "ours", "gws Broadcaster", "bare write loop", "of gws, %")
	b.WriteString(strings.Repeat("─", 99) + "\n")
	for _, c := range f.Cases {
		how := map[bool]string{false: "one each 20 ms", true: "at once"}[c.Burst]
		line(fmt.Sprintf("%s B, %s", number(float64(c.Bytes)), how), c.OursUS.text(), c.GwsUS.text(), c.RawUS.text(), percent(c.Ratio))
	}
	b.WriteString("server's CPU us a delivery; aim: no more than gws\n\n")
	line("delivery, ms", "all read", "one reads nothing")
	b.WriteString(strings.Repeat("─", 61) + "\n")
	line("p50", f.Delay.P50MS.text(), f.Delay.StoppedP50MS.text())
	line("p99", f.Delay.P99MS.text(), f.Delay.StoppedP99MS.text())
	b.WriteString("aim: less than 1 ms between the columns\n")
	return b.String()
}
