package gossip

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	dto "github.com/prometheus/client_model/go"

	"github.com/parley-p2p/parley/chain"
)

// Figures, and not in passing:
// go test ./internal/p2p/gossip -run TestLargeAgainstWhole -v -args -large.nodes 100 -large.size 1048576 -large.seeds 3
var (
	largeNodes = flag.Int("large.nodes", 12, "nodes of TestLargeAgainstWhole")
	largeSize  = flag.Int("large.size", 128<<10, "bytes of a message, up to 1 MiB")
	largeSeeds = flag.Int("large.seeds", 1, "seeds")
)

// regions are those of libp2p's gossipsub-interop (test-plans@f494257): weight,
// and one-way latencies in ms.
var regions = []struct {
	weight  int
	latency [8]int
}{
	{290, [8]int{2, 165, 110, 180, 150, 110, 220, 190}},
	{5599, [8]int{165, 2, 125, 60, 70, 110, 95, 140}},
	{1059, [8]int{110, 125, 4, 110, 140, 100, 175, 175}},
	{161, [8]int{180, 60, 110, 5, 110, 150, 110, 145}},
	{2894, [8]int{150, 70, 140, 110, 2, 60, 130, 100}},
	{1240, [8]int{110, 110, 100, 150, 60, 2, 160, 100}},
	{47, [8]int{220, 95, 175, 110, 130, 160, 7, 190}},
	{36, [8]int{190, 140, 175, 145, 100, 100, 190, 7}},
}

const (
	slowLine, fastLine = 50, 1024 // Mbit/s; a fifth of the nodes has the fast one
	warmFrom           = 2        // messages before are cold, or on the way to warm
	ratioRounds        = 6
)

// world is one network of one seed.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	nodes  []*node
	region []int
	lines  []int // Mbit/s

	mu  sync.Mutex
	got map[int]time.Time // of the message at hand, by node
}

// result is what a variant did, all over (message, node).
type result struct{ cold, warm, bytes float64 }

// TestLargeAgainstWhole sends messages whole and in chunks over the same
// networks, and compares both with what physics allows. Missing ones fail it.
func TestLargeAgainstWhole(t *testing.T) {
	for seed := range uint64(*largeSeeds) {
		whole, chunks := measureLarge(t, seed, false), measureLarge(t, seed, true)
		t.Logf("seed %d, %d nodes, %d bytes: p99 / limit cold, warm, bytes x: whole %.1f %.1f %.1f, chunks %.1f %.1f %.1f",
			seed, *largeNodes, *largeSize, whole.cold, whole.warm, whole.bytes, chunks.cold, chunks.warm, chunks.bytes)
		if chunks.bytes > whole.bytes { // how fast they are moves by a fifth from seed to seed
			t.Error("chunks are more bytes")
		}
	}
}

func measureLarge(t *testing.T, seed uint64, large bool) (out result) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1))}
		defer w.open(large)()
		var cold, warm, coldMost, warmMost []float64
		for i := range ratioRounds {
			before := w.brought()
			got, limits := w.send(i)
			if i == 0 {
				cold, coldMost = got, limits
			} else if i >= warmFrom {
				warm, warmMost = append(warm, got...), append(warmMost, limits...)
				out.bytes += (w.brought() - before) / float64(*largeSize*(len(w.nodes)-1)) / (ratioRounds - warmFrom)
			}
		}
		out.cold, out.warm = p99(cold)/p99(coldMost), p99(warm)/p99(warmMost)
	})
	return out
}

func p99(list []float64) float64 {
	slices.Sort(list)
	return list[(len(list)*99-1)/100]
}

// open starts the nodes, ten connections of each and its topic.
func (w *world) open(large bool) (stop func()) {
	n := *largeNodes
	total := 0
	for _, r := range regions {
		total += r.weight
	}
	for i := range n {
		at, region := w.rand.IntN(total), 0
		for at >= regions[region].weight {
			at -= regions[region].weight
			region++
		}
		w.region = append(w.region, region)
		w.lines = append(w.lines, map[bool]int{true: fastLine, false: slowLine}[i >= n-n/5])
	}
	var links []simlibp2p.NodeLinkSettingsAndCount
	for _, mbps := range w.lines {
		line := simnet.LinkSettings{BitsPerSecond: mbps * simlibp2p.OneMbps, FlowBucketCount: 64}
		links = append(links, simlibp2p.NodeLinkSettingsAndCount{LinkSettings: simnet.NodeBiDiLinkSettings{Downlink: line, Uplink: line}, Count: 1})
	}
	at := map[string]int{}
	for i := range n {
		at[simnet.IntToPublicIPv4(i).String()] = i
	}
	nw, meta, err := simlibp2p.SimpleLibp2pNetwork(links, func(p *simnet.Packet) time.Duration {
		from, to := at[p.From.(*net.UDPAddr).IP.String()], at[p.To.(*net.UDPAddr).IP.String()]
		return w.latency(from, to)
	}, simlibp2p.NetworkSettings{UseBlankHost: true})
	if err != nil {
		w.t.Fatal(err)
	}
	nw.Start()
	synctest.Wait()
	for i, h := range meta.Nodes {
		w.nodes = append(w.nodes, newNode(w.t, h))
		err := w.nodes[i].Serve(testNet, []chain.Topic{{
			Name: "tx", MaxBytes: 1 << 20, Large: large, Timeout: -1, Validate: func(context.Context, chain.Message) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if _, twice := w.got[i]; twice {
					w.t.Errorf("node %d was given a message twice", i)
				}
				w.got[i] = time.Now()
				return nil
			},
		}})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for i, h := range meta.Nodes {
		for range min(10, n-1) {
			w.connect(h, meta.Nodes[w.other(i)])
		}
	}
	time.Sleep(30 * time.Second)
	return func() {
		for _, nd := range w.nodes {
			nd.stop()
			<-nd.done
			_ = nd.Host.Close()
		}
		time.Sleep(time.Minute)
		nw.Close()
	}
}

// brought are the bytes of messages that came to all nodes, duplicates too.
func (w *world) brought() (sum float64) {
	for _, nd := range w.nodes {
		for _, name := range []string{"tx", chunkTopic} {
			if name == chunkTopic && nd.relay == nil {
				continue
			}
			var m dto.Metric
			if err := nd.metrics.topic(name).in.Write(&m); err != nil {
				w.t.Fatal(err)
			}
			sum += m.GetCounter().GetValue()
		}
	}
	return sum
}

func (w *world) other(i int) int {
	j := w.rand.IntN(*largeNodes - 1)
	if j >= i {
		j++
	}
	return j
}

func (w *world) connect(a, b host.Host) {
	if err := a.Connect(w.t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Duration(w.rand.IntN(20)) * time.Millisecond)
}

func (w *world) latency(from, to int) time.Duration {
	return time.Duration(regions[w.region[from]].latency[w.region[to]]) * time.Millisecond
}

// send has a slow node publish, and gives what each node took and could have at
// best, in ms.
func (w *world) send(i int) (took, limits []float64) {
	n := len(w.nodes)
	from := w.rand.IntN(n - n/5)
	w.got = map[int]time.Time{}
	begin := time.Now()
	if err := w.nodes[from].Publish(w.t.Context(), "tx", largeMessage(fmt.Sprint(i), *largeSize, uint64(i))); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Until(begin.Add(20 * time.Second)))
	bits, all := float64(*largeSize)*8, 0.
	for _, mbps := range w.lines {
		all += float64(mbps) * 1e6
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for j := range w.nodes {
		if j == from {
			continue
		}
		at, ok := w.got[j]
		if !ok {
			w.t.Errorf("node %d misses message %d", j, i)
			continue
		}
		rate := float64(min(w.lines[from], w.lines[j])) * 1e6
		most := max(bits/rate, float64(n-1)*bits/all)
		took = append(took, float64(at.Sub(begin))/1e6)
		limits = append(limits, float64(w.latency(from, j))/1e6+most*1e3)
	}
	return took, limits
}
