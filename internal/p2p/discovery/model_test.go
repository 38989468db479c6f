package discovery

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// model is a network without hosts, on which the real lookup runs: each peer
// knows up to 20 peers of each bucket. Poisoners answer with the poisoners that
// are nearest to what is asked for.
type model struct {
	ids   []peer.ID
	index map[peer.ID]int
	keys  []kb.ID
	table [][]int // by peer
	bad   []bool
	foul  []int // the poisoners
}

func newModel(r *rand.Rand, n int, poisoned float64) *model {
	m := &model{index: map[peer.ID]int{}, bad: make([]bool, n), table: make([][]int, n)}
	for i := range n {
		id := peer.ID(binary.BigEndian.AppendUint64(nil, r.Uint64()))
		m.ids, m.keys = append(m.ids, id), append(m.keys, kb.ConvertPeerID(id))
		m.index[id] = i
		if i > 0 && r.Float64() < poisoned {
			m.bad[i] = true
			m.foul = append(m.foul, i)
		}
	}
	for i := range n {
		fill := map[int]int{}
		for _, j := range r.Perm(n) {
			bits := kb.CommonPrefixLen(m.keys[i], m.keys[j])
			if j != i && fill[bits] < nearest {
				fill[bits]++
				m.table[i] = append(m.table[i], j)
			}
		}
	}
	return m
}

// closest gives the n of a list that are nearest to a target.
func (m *model) closest(list []int, target kb.ID, n int) []int {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b int) int { return slices.Compare(xor(m.keys[a], target), xor(m.keys[b], target)) })
	return list[:min(len(list), n)]
}

func (m *model) seeds(target kb.ID, n int) (list []peer.ID) {
	for _, i := range m.closest(m.table[0], target, n) {
		list = append(list, m.ids[i])
	}
	return list
}

func (m *model) groupOf(p peer.ID) string { return string(p) }
func (m *model) told(peer.ID)             {}

var someAddr = []ma.Multiaddr{ma.StringCast("/ip4/20.0.0.1/udp/1/quic-v1")}

func (m *model) heed(info *peer.AddrInfo, _ netip.Addr) ([]ma.Multiaddr, string) {
	if info.ID == m.ids[0] {
		return nil, ""
	}
	return someAddr, string(info.ID)
}

func (m *model) question(ctx context.Context, c *candidate, ask func(context.Context, peer.ID) (answer, error)) (answer, error) {
	return ask(ctx, c.id)
}

func (m *model) region(kb.ID, []*candidate) (region, float64) { return region{}, 0 }

// find looks a random key up and reports whether the honest peer nearest to it
// was reached, with how many questions.
func (m *model) find(ctx context.Context, r *rand.Rand, width int) (ok bool, asked int) {
	key := string(binary.BigEndian.AppendUint64(nil, r.Uint64()))
	target := kb.ConvertKey(key)
	l := newLookup(m, key, func(_ context.Context, p peer.ID) (a answer, _ error) {
		i := m.index[p]
		list := m.table[i]
		if m.bad[i] {
			list = m.foul
		}
		for _, j := range m.closest(list, target, nearest) {
			a.closer = append(a.closer, &peer.AddrInfo{ID: m.ids[j]})
		}
		return a, nil
	})
	l.rules.paths = width
	l.run(ctx)
	best := -1
	for i := 1; i < len(m.ids); i++ {
		if !m.bad[i] && (best < 0 || slices.Compare(xor(m.keys[i], target), xor(m.keys[best], target)) < 0) {
			best = i
		}
	}
	c := l.all[m.ids[best]]
	return c != nil && c.state == answered, len(l.steps)
}

// E4, model: reach of the honest peer nearest to a key, N = 500, by how many of
// the routers poison and over how many paths the lookup goes.
func TestPoisonModel(t *testing.T) {
	const seeds, lookups, n = 6, 8, 500
	rate := map[string]float64{}
	for _, poisoned := range []float64{0, 0.1, 0.3, 0.5} {
		line := fmt.Sprintf("%2.0f %% poison:", 100*poisoned)
		for _, width := range []int{1, 4} {
			found, asked := 0, 0
			for seed := range uint64(seeds) {
				r := rand.New(rand.NewPCG(seed, uint64(100*poisoned)))
				m := newModel(r, n, poisoned)
				for range lookups {
					ok, steps := m.find(t.Context(), r, width)
					if ok {
						found++
					}
					asked += steps
				}
			}
			rate[fmt.Sprint(poisoned, width)] = float64(found) / (seeds * lookups)
			line += fmt.Sprintf("  d=%d %.2f with %.0f questions", width, float64(found)/(seeds*lookups), float64(asked)/(seeds*lookups))
		}
		t.Log(line)
	}
	for _, at := range []string{"0 4", "0.1 4", "0.3 4"} {
		if rate[at] < 0.95 {
			t.Errorf("%s: %.2f, want .95", at, rate[at])
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	m := newModel(r, 1000, 0)
	b.ReportAllocs()
	for b.Loop() {
		m.find(b.Context(), r, paths)
	}
}
