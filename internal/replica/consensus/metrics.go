package consensus

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	viewChanges prometheus.Counter
	order       prometheus.Histogram
	dropped     prometheus.Counter
	restarts    *prometheus.CounterVec
}

func newMetrics(e *Engine, reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_consensus_view", Help: "View of the engine; each leader failure raises it."}, func() float64 {
		view, _, _, _ := e.State()
		return float64(view)
	})
	for _, g := range []struct {
		state string
		value func() float64
	}{
		{"all", func() float64 { return float64(e.ledger.Tip().Set.Len()) }},
		{"connected", func() float64 { _, _, n, _ := e.State(); return float64(n) }},
		{"quorum", func() float64 { _, _, _, n := e.State(); return float64(n) }},
	} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_consensus_validators", Help: "Validators: all, those that the engine is connected to with itself, and a quorum.",
			ConstLabels: prometheus.Labels{"state": g.state},
		}, g.value)
	}
	m := &metrics{
		viewChanges: f.NewCounter(prometheus.CounterOpts{Name: "parley_consensus_view_changes_total", Help: "Views begun after the first."}),
		order: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_consensus_order_seconds", Help: "From the proposer's time of a block to its place on our disk.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		restarts: f.NewCounterVec(prometheus.CounterOpts{Name: "parley_consensus_restarts_total", Help: "Engines begun anew because they stood still, by what was seen."}, []string{"why"}),
		dropped:  f.NewCounter(prometheus.CounterOpts{Name: "parley_consensus_dropped_total", Help: "Messages to validators dropped for a full queue."}),
	}
	for why := range reasons {
		m.restarts.WithLabelValues(string(why))
	}
	return m
}
