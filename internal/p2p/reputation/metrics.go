package reputation

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
)

// metrics collects the book at each scrape.
type metrics struct {
	book     *Book
	points   *prometheus.CounterVec
	refusals *prometheus.CounterVec
	peers    *prometheus.Desc
	bans     *prometheus.Desc
}

func newMetrics(b *Book) *metrics {
	m := &metrics{
		book: b,
		points: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_reputation_points_total", Help: "Points charged to peers.",
		}, []string{"reason"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_reputation_refusals_total", Help: "Peers and connections turned away.",
		}, []string{"place"}),
		peers: prometheus.NewDesc("parley_reputation_peers", "Peers with a score, by standing.", []string{"standing"}, nil),
		bans:  prometheus.NewDesc("parley_reputation_bans", "Bans that hold.", []string{"kind", "origin"}, nil),
	}
	for o := range points {
		m.points.WithLabelValues(string(o))
	}
	m.points.WithLabelValues(string(chain.Manual))
	for _, p := range places {
		m.refusals.WithLabelValues(p)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.points.Describe(ch)
	m.refusals.Describe(ch)
	ch <- m.peers
	ch <- m.bans
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.points.Collect(ch)
	m.refusals.Collect(ch)
	if m.book.bans != nil {
		bans := m.book.bans.list.census()
		for _, kind := range []string{KindPeer, KindCIDR} {
			for _, origin := range []string{OriginOperator, OriginAuto, OriginImport} {
				ch <- prometheus.MustNewConstMetric(m.bans, prometheus.GaugeValue, float64(bans[[2]string{kind, origin}]), kind, origin)
			}
		}
	}
	count := m.book.census()
	for _, s := range standings {
		ch <- prometheus.MustNewConstMetric(m.peers, prometheus.GaugeValue, float64(count[s]), string(s))
	}
}

// census counts the peers of each standing.
func (b *Book) census() map[Standing]int {
	now := time.Now()
	all := map[peer.ID]Standing{}
	b.mu.Lock()
	for p, e := range b.peers {
		b.decay(e, now)
		all[p] = b.standing(e)
	}
	b.mu.Unlock()
	count := map[Standing]int{}
	for p, s := range all {
		switch {
		case b.bans != nil && b.bans.peer(p):
			s = Banned
		case b.isExempt(p):
			s = Exempt
		}
		count[s]++
	}
	return count
}
