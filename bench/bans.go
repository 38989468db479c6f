package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/conngater"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// bansPlan says how much of bans is measured.
type bansPlan struct {
	Sizes    []int `json:"sizes"` // ranges in a list
	Rounds   int   `json:"rounds"`
	Checks   int   `json:"checks"`   // of a round
	Arrivals int   `json:"arrivals"` // of a round and kind
}

// bansRow is what bans cost. Times are CPU times; those of arrivals are of the
// node alone, a process of its own.
type bansRow struct {
	Lists      []banList `json:"lists"`
	PenalizeNS figure    `json:"penalize_ns"`
	MapNS      figure    `json:"map_ns"` // a bare map under a mutex, in the same rounds
	Arrivals   []arrival `json:"arrivals"`
}

// banList is a list of so many ranges.
type banList struct {
	Ranges     int     `json:"ranges"`
	CheckNS    figure  `json:"check_ns"`
	LinearNS   figure  `json:"linear_ns,omitempty"` // go-libp2p's gater with the same ranges, in the same rounds
	RangeBytes float64 `json:"range_bytes"`         // of heap
}

// arrival is what the node spends on one that comes.
type arrival struct {
	Transport string `json:"transport"`
	RefusedMS figure `json:"refused_ms"`         // from a banned address; it wakes the node each time
	WokenMS   figure `json:"woken_ms,omitempty"` // by a packet that it throws away: less is not to be had
	FloodMS   figure `json:"flood_ms,omitempty"` // from a banned address, of many at once, all of them answered
	TakenMS   figure `json:"taken_ms"`           // from another one, to the end of the secure handshake
}

// mostLinear is the longest list that a linear search is measured with.
const mostLinear = 100_000

func (b *bench) measureBans(ctx context.Context, r *report) (err error) {
	p, row, say := r.Plan.Bans, &bansRow{}, b.progress()
	for _, n := range p.Sizes {
		l, err := measureBanList(ctx, b.dir, n, p, say)
		if err != nil {
			return err
		}
		row.Lists = append(row.Lists, l)
	}
	for range p.Rounds {
		if err := row.penalize(p.Checks); err != nil {
			return err
		}
	}
	say.done("bans: charges are measured")
	if row.Arrivals, err = measureArrivals(ctx, b.binary, filepath.Join(b.dir, "bans"), p, say); err != nil {
		return err
	}
	r.Bans = row
	return nil
}

// rangeAt is range i of a list: most are /24, as in lists of scanners.
func rangeAt(i int) netip.Prefix {
	a := netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0})
	return netip.PrefixFrom(a, 24)
}

// banRanges imports n ranges, as a file would be.
func banRanges(ctx context.Context, bans *reputation.Bans, n int, say *progress) error {
	list, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range n {
			say.now("bans: %s of %s ranges are imported", number(float64(i)), number(float64(n)))
			if _, err := fmt.Fprintln(w, rangeAt(i)); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	sum, err := bans.Import(ctx, list, "bench", false)
	_ = list.Close()
	<-written
	if err != nil || sum.Added != n {
		return fmt.Errorf("ban %d ranges: %d added: %w", n, sum.Added, err)
	}
	return nil
}

// measureBanList has the list in a file, as a node does.
func measureBanList(ctx context.Context, dir string, n int, p bansPlan, say *progress) (l banList, err error) {
	l.Ranges = n
	bans, err := reputation.OpenBans(ctx, reputation.BansConfig{Max: n, File: filepath.Join(dir, fmt.Sprintf("bans%d.db", n))}, nil, nil)
	if err != nil {
		return l, err
	}
	begin := time.Now()
	if err := banRanges(ctx, bans, n, say); err != nil {
		return l, err
	}
	say.done("bans: %s ranges are imported in %.1f s", number(float64(n)), time.Since(begin).Seconds())
	gater, err := linearGater(n)
	if err != nil {
		return l, err
	}
	r := mrand.New(mrand.NewPCG(1, 2))
	addrs, multi := make([]netip.Addr, 4096), make([]ma.Multiaddr, 4096)
	for i := range addrs { // every second one is in the list
		a := rangeAt(r.IntN(n)).Addr().As4()
		a[0], a[3] = a[0]+byte(i%2)*100, byte(r.IntN(256))
		addrs[i] = netip.AddrFrom4(a)
		multi[i] = ma.StringCast("/ip4/" + addrs[i].String() + "/tcp/1")
	}
	for range p.Rounds {
		begin, hits := cpuTime(), 0
		for i := range p.Checks {
			if bans.Banned("", addrs[i%len(addrs)]) {
				hits++
			}
		}
		l.CheckNS.add(float64(cpuTime()-begin) / float64(p.Checks))
		if gater != nil {
			times := max(10, p.Checks/n/20)
			begin = cpuTime()
			for i := range times {
				gater.InterceptAddrDial("", multi[i%len(multi)])
			}
			l.LinearNS.add(float64(cpuTime()-begin) / float64(times))
		}
		if hits != p.Checks/2 {
			return l, fmt.Errorf("%d of %d addresses are banned, want a half", hits, p.Checks)
		}
		if ctx.Err() != nil {
			return l, ctx.Err()
		}
	}
	if err := bans.Close(); err != nil { // the store's memory is not the list's
		return l, err
	}
	_ = heap() // what pools hold goes with the second collection
	held := heap()
	runtime.KeepAlive(bans)
	bans = nil //nolint:wastedassign // the list is garbage from here on
	l.RangeBytes = float64(held-heap()) / float64(n)
	say.done("bans: a check among %s ranges takes %s ns", number(float64(n)), l.CheckNS.text())
	return l, nil
}

// linearGater is go-libp2p's own, nil where its search takes too long.
func linearGater(n int) (*conngater.BasicConnectionGater, error) {
	if n > mostLinear {
		return nil, nil //nolint:nilnil // not measured
	}
	g, err := conngater.NewBasicConnectionGater(nil)
	if err != nil {
		return nil, err
	}
	for i := range n {
		p := rangeAt(i)
		if err := g.BlockSubnet(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// penalize charges 10,000 peers in turn.
func (r *bansRow) penalize(ops int) error {
	book, err := reputation.New(reputation.Config{Threshold: 1 << 30}, nil, nil, nil) // nobody gets there
	if err != nil {
		return err
	}
	ids := make([]peer.ID, 10_000)
	for i := range ids {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			return err
		}
		if ids[i], err = peer.IDFromPrivateKey(key); err != nil {
			return err
		}
	}
	ops = max(len(ids), ops/10)
	begin := cpuTime()
	for i := range ops {
		book.Penalize(ids[i%len(ids)], chain.InvalidTx, "bench")
	}
	r.PenalizeNS.add(float64(cpuTime()-begin) / float64(ops))
	var mu sync.Mutex
	bare := map[peer.ID]int{}
	begin = cpuTime()
	for i := range ops {
		mu.Lock()
		bare[ids[i%len(ids)]] += 10
		mu.Unlock()
	}
	r.MapNS.add(float64(cpuTime()-begin) / float64(ops))
	return nil
}

// bansTable is the result for people.
func (r *report) bansTable() string {
	row := r.Bans
	if row == nil {
		return ""
	}
	var b strings.Builder
	line := func(text, cell string) { b.WriteString(pad(text, 47, false) + pad(cell, 24, true) + "\n") }
	line("bans", "median (min–max)")
	b.WriteString(strings.Repeat("─", 71) + "\n")
	for _, l := range row.Lists {
		line("check of an address, "+number(float64(l.Ranges))+" ranges, CPU ns", l.CheckNS.text())
		if len(l.LinearNS) > 0 {
			line("  go-libp2p's gater, the same ranges", l.LinearNS.text())
		}
		line("  heap a range, bytes", number(l.RangeBytes))
	}
	line("penalize one of 10,000 peers, CPU ns", row.PenalizeNS.text())
	line("  a bare map under a mutex", row.MapNS.text())
	for _, a := range row.Arrivals {
		line("banned address refused, "+a.Transport+", node's CPU ms", a.RefusedMS.text())
		if len(a.WokenMS) > 0 {
			line("  woken by a packet that is thrown away", a.WokenMS.text())
			line("  one of 50 that come at once", a.FloodMS.text())
		}
		line("  another one taken and left", a.TakenMS.text())
	}
	b.WriteString("aims: a check ≤ 50 ns at 1,000,000 ranges, a refusal ≤ 0.1 ms\n")
	return b.String()
}
