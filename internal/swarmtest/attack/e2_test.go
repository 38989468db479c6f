//go:build attack

package attack

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/internal/p2p/handshake"
)

// E2: an inbound flood that holds streams and reconnects at once. Real hosts in
// virtual time over QUIC; all figures are counted at the victim.

const (
	attackers  = 250
	newcomers  = 20
	floodFirst = 90 * time.Second // before the honest newcomers come
	newFor     = 2 * time.Minute
)

// habit is how the attackers behave.
type habit string

const (
	silent  habit = "hold one stream"       // no handshake of ours, no gossip
	talking habit = "hold one, with gossip" // GossipSub too; honest peers speak it as well
	polite  habit = "handshake, then hold"  // as far as a node can tell, peers
)

var only = flag.String("only", "", "E2: the runs that are made, as HABIT, GROUPS of a line of the table; empty = all")

// flood is a column of E2.
type flood struct {
	habit  habit
	groups int // of addresses; 0 = each attacker has its own
}

func (f flood) text() string {
	if f.groups == 0 {
		return "all distinct"
	}
	return fmt.Sprintf("%d groups", f.groups)
}

// defender is a row of E2.
type defender struct {
	name string
	make func(*lab, netip.Addr, flood) victim
	ours bool
}

var defenders = []defender{
	{"B0: libp2p, all defaults", func(l *lab, ip netip.Addr, f flood) victim { return l.stock(ip, f.habit == talking) }, false},
	{"ours", func(l *lab, ip netip.Addr, _ flood) victim { return l.ours(ip, whole) }, true},
	{"ours without eviction and limits by address", func(l *lab, ip netip.Addr, _ flood) victim { return l.ours(ip, noEviction) }, true},
}

var floods = []flood{{silent, 32}, {silent, 0}, {talking, 32}, {polite, 1}, {polite, 32}, {polite, 0}}

// harm is what came of one run.
type harm struct {
	kept, had     int // outbound peers
	in            int // honest newcomers
	held, arrived int // inbound connections at the end; connections that attackers made
}

func (a *harm) add(b harm) {
	a.kept, a.had, a.in = a.kept+b.kept, a.had+b.had, a.in+b.in
	a.held, a.arrived = a.held+b.held, a.arrived+b.arrived
}

// siege runs one flood against one defender.
func siege(t *testing.T, d defender, f flood, seed uint64) (res harm) {
	t.Helper()
	old := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(old)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &lab{t: t, ctx: ctx, rand: mrand.New(mrand.NewPCG(seed, 2))}
		delays := mrand.New(mrand.NewPCG(seed, 3))
		l.nw = &simnet.Simnet{LatencyFunc: func(*simnet.Packet) time.Duration { // one goroutine calls it
			return time.Duration(10+delays.IntN(70)) * time.Millisecond
		}}
		l.nw.Start()
		res = l.play(d, f)
		cancel()
		l.running.Wait()
		for _, c := range l.closers {
			c()
		}
		time.Sleep(time.Minute) // QUIC drains
		l.nw.Close()
	})
	return res
}

func (l *lab) play(d defender, f flood) (res harm) {
	v := d.make(l, publicIP(0, 1), f)
	// Honest peers of the victim, and honest newcomers, each in its own group.
	honest := func(group int) host.Host {
		h := l.host(publicIP(group, 1))
		if f.habit == talking {
			l.gossiper(h)
		}
		return h
	}
	var known []peer.AddrInfo
	for i := range outboundMax {
		h := honest(1 + i)
		if d.ours {
			l.greeter(h)
		}
		known = append(known, peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	}
	synctest.Wait()
	v.know(known)
	had := v.outbound()
	res.had = len(had)

	var arrived atomic.Int64
	for i := range attackers {
		group := 100 + i
		if f.groups > 0 {
			group = 100 + i%f.groups
		}
		h := l.host(publicIP(group, 256*(1+i))) // a /24 of its own
		if f.habit == talking {
			l.gossiper(h)
		}
		var greet *handshake.Handshake
		if f.habit == polite {
			greet = l.greeter(h)
		}
		rnd := mrand.New(mrand.NewPCG(l.rand.Uint64(), 4))
		l.running.Go(func() { l.attack(h, v.info(), greet, rnd, &arrived) })
	}
	time.Sleep(floodFirst)

	var fresh []host.Host
	for i := range newcomers {
		h := honest(50 + i)
		var greet *handshake.Handshake
		if d.ours {
			greet = l.greeter(h)
		}
		fresh = append(fresh, h)
		rnd := mrand.New(mrand.NewPCG(l.rand.Uint64(), 5))
		l.running.Go(func() { l.join(h, v.info(), greet, rnd) })
	}
	time.Sleep(newFor)
	up := map[peer.ID]bool{}
	for _, p := range v.outbound() {
		up[p] = true
	}
	for _, p := range had {
		res.kept += b2i(up[p])
	}
	for _, h := range fresh {
		res.in += b2i(v.has(h.ID()))
	}
	res.held = v.inbound()
	res.arrived = int(arrived.Load())
	return res
}

// attack connects, holds a stream and comes back as soon as it is closed, until
// the lab ends.
func (l *lab) attack(h host.Host, to peer.AddrInfo, greet *handshake.Handshake, rnd *mrand.Rand, arrived *atomic.Int64) {
	for pause(l.ctx, time.Duration(2000+rnd.IntN(6000))*time.Millisecond) {
		ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
		err := h.Connect(ctx, to)
		if err == nil && greet != nil {
			err = greet.Greet(ctx, to.ID)
		}
		cancel()
		if err == nil {
			arrived.Add(1)
			l.hold(h, to.ID)
		}
		_ = h.Network().ClosePeer(to.ID)
	}
}

// hold keeps a stream open until the other side closes the connection. A host
// ends a ping after 30 s, so the next one begins before that.
func (l *lab) hold(h host.Host, to peer.ID) {
	var last network.Stream
	for at := 0; h.Network().Connectedness(to) == network.Connected; at++ {
		if last != nil && at%5 == 0 { // silence would end it too
			if _, err := last.Write(make([]byte, 32)); err == nil {
				_, _ = io.ReadFull(last, make([]byte, 32))
			}
		}
		if at%20 == 0 {
			if last != nil { // one at a time: a host serves few pings at once
				_ = last.Reset()
			}
			ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
			st, err := h.NewStream(network.WithNoDial(ctx, "hold"), to, pingProtocol)
			cancel()
			if err == nil {
				_ = st.SetDeadline(time.Now().Add(30 * time.Second))
				last = st
			}
		}
		if !pause(l.ctx, time.Second) {
			break
		}
	}
	if last != nil {
		_ = last.Reset()
	}
}

// join is an honest newcomer: it backs off as our dialer does, and stays once it
// is in.
func (l *lab) join(h host.Host, to peer.AddrInfo, greet *handshake.Handshake, rnd *mrand.Rand) {
	wait := 5 * time.Second
	for first := true; ; first = false {
		if !first && !pause(l.ctx, wait/2+time.Duration(rnd.Int64N(int64(wait)))) {
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
		err := h.Connect(ctx, to)
		if err == nil && greet != nil {
			err = greet.Greet(ctx, to.ID)
		}
		cancel()
		if err != nil {
			_ = h.Network().ClosePeer(to.ID)
			wait *= 2
			continue
		}
		for h.Network().Connectedness(to.ID) == network.Connected {
			if !pause(l.ctx, time.Second) {
				return
			}
		}
	}
}

// pause reports false where ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// TestE2 prints the table. It fails where a target of DEFENCE 14 is missed.
func TestE2(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet tells of each packet
	begin, runs := time.Now(), 5
	if *seeds > 0 {
		runs = *seeds
	}
	var b strings.Builder
	fmt.Fprintf(&b, e2Head, attackers, outboundMax, newcomers, runs, int(floodFirst.Seconds()), int(newFor.Minutes()))
	for _, f := range floods {
		if !strings.HasPrefix(string(f.habit)+", "+f.text(), *only) {
			continue
		}
		for _, d := range defenders {
			if f.habit == polite && !d.ours {
				continue // it has no handshake
			}
			var sum harm
			for seed := range runs {
				sum.add(siege(t, d, f, uint64(seed+1)))
			}
			n := runs * newcomers
			low, high := Wilson(sum.in, n)
			line := fmt.Sprintf("| %s | %s | %s | %d of %d | %d of %d: %s (%s–%s) | %d | %d |\n", f.habit, f.text(), d.name, sum.kept, sum.had, sum.in, n,
				share(float64(sum.in)/float64(n)), share(low), share(high), sum.held/runs, sum.arrived/runs)
			b.WriteString(line)
			fmt.Fprintf(os.Stderr, "%4.0f s %s", time.Since(begin).Seconds(), line)
			if d.name != "ours" {
				continue
			}
			if sum.kept < sum.had || sum.had < runs*outboundMax*9/10 {
				t.Errorf("%s, %s: %d of %d outbound peers are left", f.habit, f.text(), sum.kept, sum.had)
			}
			if f.groups > 0 && 2*sum.in < n {
				t.Errorf("%s, %s: %d of %d newcomers got in, want half", f.habit, f.text(), sum.in, n)
			}
		}
	}
	b.WriteString(e2Foot)
	fmt.Println(b.String())
	save(t, "E2.md", b.String())
}

const e2Head = `# E2: an inbound flood that holds streams

%d attackers connect, hold a stream, and come back 2 to 8 s after being closed. The victim has %d outbound peers in
as many groups; %d honest newcomers, each in a group of its own, come %[5]d s after the flood began and try again as our
dialer does. Counted at the victim %[6]d min later, %[4]d seeds. Real hosts in virtual time over QUIC (bubble), 10 to 80 ms one way.

| attackers | in | victim | outbound left | newcomers in (95%% interval) | inbound at the end | connections of attackers |
|---|---|---|---|---|---|---|
`

const e2Foot = `
Stock hosts know no handshake: there a newcomer is in when it is connected; ours counts it once its handshake is done. B0
runs without a DHT here. Attackers in all distinct groups are printed without a target: no rule of groups tells them
from honest newcomers.
`
