package handshake

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/internal/wire"
)

type metrics struct {
	results *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_handshake_results_total", Help: "Handshakes by how they ended.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_handshake_seconds", Help: "How long the exchange of status took.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
		}),
	}
	for code := wire.VerackOK; code <= wire.NotAllowed; code++ {
		m.results.WithLabelValues(wire.VerackName(code))
	}
	m.results.WithLabelValues("other")
	m.results.WithLabelValues("late")
	m.results.WithLabelValues("crowded")
	m.results.WithLabelValues("streams")
	m.results.WithLabelValues("failed")
	if reg != nil {
		reg.MustRegister(m.results, m.seconds)
	}
	return m
}

func (m metrics) result(r string) { m.results.WithLabelValues(r).Inc() }
