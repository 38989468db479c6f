package discovery

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// metrics are the row "discovery" of the interface page. Labels come from
// closed sets.
type metrics struct {
	found   *prometheus.CounterVec // source
	refused *prometheus.CounterVec // reason
	lookups *prometheus.CounterVec // kind, result
	seconds prometheus.Histogram
	peers   prometheus.GaugeFunc
}

// Kinds of lookups.
const (
	lookNode      = "find_node"
	lookProviders = "find_providers"
	lookProvide   = "provide"
	lookGet       = "get"
	lookPut       = "put"
	lookRefresh   = "refresh"
)

// refusals are the reasons why something that a peer sent was dropped.
var refusals = []string{
	"book", "not_ready", "streams", "oversize", "malformed", "bad_record", "old_record", "violation", "spam", "second_request",
}

func newMetrics(reg prometheus.Registerer, tableSize func() int) (*metrics, error) {
	m := &metrics{
		found: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_discovery_found_total", Help: "Peers that were new to the address book, by the source that told of them.",
		}, []string{"source"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_discovery_refused_total", Help: "What peers sent and discovery dropped: book = the address book refused.",
		}, []string{"reason"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_discovery_lookups_total", Help: "Lookups in the DHT, by how they ended.",
		}, []string{"kind", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_discovery_lookup_seconds", Help: "Duration of lookups in the DHT.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 11),
		}),
		peers: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_discovery_dht_peers", Help: "Peers in the table of the DHT.",
		}, func() float64 { return float64(tableSize()) }),
	}
	for _, k := range []addrbook.Kind{
		addrbook.Bootstrap, addrbook.DNS, addrbook.DHT, addrbook.PEX, addrbook.MDNS, addrbook.Inbound, addrbook.Static, addrbook.Operator,
	} {
		m.found.WithLabelValues(string(k))
	}
	for _, r := range refusals {
		m.refused.WithLabelValues(r)
	}
	for _, k := range []string{lookNode, lookProviders, lookProvide, lookGet, lookPut, lookRefresh} {
		for _, r := range []string{"ok", "none", "error"} {
			m.lookups.WithLabelValues(k, r)
		}
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.found, m.refused, m.lookups, m.seconds, m.peers} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) refuse(reason string) { m.refused.WithLabelValues(reason).Inc() }
