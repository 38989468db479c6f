package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// syncPlan says how much of a sync is measured.
type syncPlan struct {
	Bytes  int64   // of bodies
	Body   int     // of a record, bytes
	Link   float64 // of the newcomer, bytes a second; 0 = loopback as it is
	Rounds int
}

const mib = 1 << 20

var (
	syncWhole = []syncPlan{
		{Bytes: 64 * mib, Body: 4096, Rounds: 5},
		{Bytes: 16 * mib, Body: 256, Rounds: 5},
		{Bytes: 48 * mib, Body: 4096, Link: 12.5e6, Rounds: 3},
		{Bytes: 16 * mib, Body: 256, Link: 2.5e6, Rounds: 3},
	}
	syncSmoke = []syncPlan{{Bytes: 12 * mib, Body: 4096, Rounds: 1}, {Bytes: 6 * mib, Body: 256, Link: 12.5e6, Rounds: 1}}
)

// honestPeers serve a sync.
const honestPeers = 3

// syncRow is what was measured of one kind of sync: our hosts in this process
// on loopback TCP, ledgers on disk.
type syncRow struct {
	Body    int     `json:"record_body_bytes"`
	Bytes   int64   `json:"bytes"`
	Blocks  uint64  `json:"blocks"`
	Records int     `json:"records"`
	LinkPS  float64 `json:"link_bytes_s"` // of the newcomer, 0 = loopback as it is

	TCP      figure `json:"raw_tcp_mb_s"`
	Stream   figure `json:"raw_stream_mb_s"`
	Checks   figure `json:"limit_signatures_mb_s"` // all cores check signatures and do nothing else
	One      figure `json:"one_peer_mb_s"`
	Three    figure `json:"three_peers_mb_s"`
	Bad      figure `json:"one_stalls_one_lies_mb_s"` // beside the three
	BlocksPS figure `json:"three_peers_blocks_s"`
	CPUUS    figure `json:"three_peers_cpu_us_record"` // of servers and newcomer
	Charges  int64  `json:"charges"`                   // of those that stalled or lied
}

// ratios of the targets.
func (r *syncRow) ratio() figure    { return r.Three.over(r.Stream) }
func (r *syncRow) ratioBad() figure { return r.Bad.over(r.Stream) }

const moreRounds = 5 // until a bad peer was asked

// measureSync fills a row.
func measureSync(ctx context.Context, dir string, p syncPlan) (r syncRow, err error) {
	dir = filepath.Join(dir, "sync")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	lab, err := openSyncLab(dir, p.Bytes, p.Body, honestPeers)
	if err != nil {
		return r, fmt.Errorf("sync: %w", err)
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	r = syncRow{Body: p.Body, Bytes: lab.bytes, Blocks: lab.full.Tip().Head.Height, Records: lab.records, LinkPS: p.Link}
	// Honest peers may have brought all before a bad one is asked.
	for i := 0; i < p.Rounds || r.Charges == 0 && i < p.Rounds+moreRounds; i++ {
		if err := r.round(ctx, lab, p); err != nil {
			return r, fmt.Errorf("sync: %w", err)
		}
	}
	if r.Charges == 0 {
		return r, errors.New("sync: the peer that lies was not charged: it was not asked, so the figures beside it mean nothing")
	}
	return r, nil
}

// round measures each variant once, side by side.
func (r *syncRow) round(ctx context.Context, lab *syncLab, p syncPlan) error {
	rate := func(took time.Duration) float64 { return float64(lab.bytes) / 1e6 / took.Seconds() }
	checks, err := lab.checkRate()
	if err != nil {
		return err
	}
	r.Checks.add(checks)
	took, err := rawTCP(ctx, lab.bytes, linkOf(p.Link))
	if err != nil {
		return err
	}
	r.TCP.add(rate(took))
	if took, err = lab.raw(ctx, linkOf(p.Link)); err != nil {
		return err
	}
	r.Stream.add(rate(took))
	if took, _, err = lab.sync(ctx, lab.servers[:1], linkOf(p.Link)); err != nil {
		return err
	}
	r.One.add(rate(took))
	cpu := cpuTime()
	if took, _, err = lab.sync(ctx, lab.servers, linkOf(p.Link)); err != nil {
		return err
	}
	r.CPUUS.add(float64((cpuTime() - cpu).Microseconds()) / float64(lab.records))
	r.Three.add(rate(took))
	r.BlocksPS.add(float64(r.Blocks) / took.Seconds())
	took, charges, err := lab.sync(ctx, append(lab.bad[:2:2], lab.servers...), linkOf(p.Link))
	if err != nil {
		return err
	}
	r.Bad.add(rate(took))
	r.Charges += charges
	return nil
}

// checkRate is the MB/s of bodies whose signatures alone all cores can check.
func (lab *syncLab) checkRate() (float64, error) {
	var records []record
	for h := uint64(1); len(records) < 4000 && h <= lab.full.Tip().Head.Height; h++ {
		b, err := lab.full.Block(h)
		if err != nil {
			return 0, err
		}
		for _, s := range b.Body {
			for _, raw := range s.Records {
				records = append(records, record{raw: raw})
			}
		}
	}
	perCore, err := verifyRate(records, lab.genesis.Hash())
	if err != nil {
		return 0, err
	}
	return perCore * float64(runtime.GOMAXPROCS(0)) * float64(lab.bytes) / float64(lab.records) / 1e6, nil
}

// cpuTime is what this process used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rawTCP is n bytes over one connection on loopback.
func rawTCP(ctx context.Context, n int64, limit *rate.Limiter) (took time.Duration, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("raw TCP: %w", err)
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = errors.Join(pour(c, n), c.Close())
		}
		sent <- err
	}()
	begin := time.Now()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("raw TCP: %w", err)
	}
	defer c.Close()
	took, err = drain(c, limit, n, begin)
	return took, errors.Join(err, <-sent)
}

// measureSyncs fills the rows of section sync.
func (b *bench) measureSyncs(ctx context.Context, r *report) error {
	for _, p := range b.plan.Syncs {
		row, err := measureSync(ctx, b.dir, p)
		if err != nil {
			return err
		}
		b.tell("sync of %d MiB in %d B records: %s MB/s from %d peers, %s raw", row.Bytes/mib, row.Body, row.Three.text(), honestPeers, row.Stream.text())
		r.Sync = append(r.Sync, row)
	}
	return nil
}

func (r *report) syncTable() string { return syncTable(r.Sync) }

// syncTable is the result for people, two rows a part.
func syncTable(rows []syncRow) string {
	var parts []string
	for pair := range slices.Chunk(rows, 2) { // more do not fit 80 columns
		parts = append(parts, syncColumns(pair))
	}
	return strings.Join(parts, "\n")
}

func syncColumns(rows []syncRow) string {
	const label, column = 31, 24
	var b strings.Builder
	line := func(text string, cell func(r *syncRow) string) {
		b.WriteString(pad(text, label, false))
		for i := range rows {
			b.WriteString(pad(cell(&rows[i]), column, true))
		}
		b.WriteString("\n")
	}
	line("sync, median (min–max)", func(r *syncRow) string { return fmt.Sprintf("%d B records", r.Body) })
	line("", func(r *syncRow) string {
		if r.LinkPS == 0 {
			return "loopback"
		}
		return fmt.Sprintf("%.0f Mbit/s", r.LinkPS*8/1e6)
	})
	b.WriteString(strings.Repeat("─", label+column*len(rows)) + "\n")
	for _, l := range []struct {
		text string
		f    func(r *syncRow) figure
	}{
		{"raw TCP, MB/s", func(r *syncRow) figure { return r.TCP }},
		{"raw libp2p stream, MB/s", func(r *syncRow) figure { return r.Stream }},
		{"signatures alone, MB/s", func(r *syncRow) figure { return r.Checks }},
		{"sync from 1 peer, MB/s", func(r *syncRow) figure { return r.One }},
		{"sync from 3 peers, MB/s", func(r *syncRow) figure { return r.Three }},
		{"  and 2 bad ones, MB/s", func(r *syncRow) figure { return r.Bad }},
		{"sync from 3 peers, blocks/s", func(r *syncRow) figure { return r.BlocksPS }},
		{"  CPU us a record, both sides", func(r *syncRow) figure { return r.CPUUS }},
	} {
		line(l.text, func(r *syncRow) string { return l.f(r).text() })
	}
	line("3 peers / raw stream, %", func(r *syncRow) string { return percent(r.ratio()) })
	line("3 and 2 bad / raw stream, %", func(r *syncRow) string { return percent(r.ratioBad()) })
	line("3 peers / signatures alone, %", func(r *syncRow) string { return percent(r.Three.over(r.Checks)) })
	return b.String()
}
