package sidecar

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the row "sidecar" of the interface page.
type metrics struct {
	attached prometheus.Gauge
	verdicts *prometheus.CounterVec // topic, verdict
	seconds  prometheus.Histogram
	dropped  *prometheus.CounterVec // kind
}

// Kinds of what is dropped; messages that were to be judged count as verdicts
// "busy".
const (
	droppedMessage = "message"
	droppedRequest = "request"
)

// verdictNames is the closed set of the label.
var verdictNames = []string{"accept", "ignore", "reject", "timeout", "detached", "busy"}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		attached: prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_sidecar_attached", Help: "1 while a program is attached."}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_sidecar_verdicts_total",
			Help: "Verdicts on messages: of the program, or timeout, detached and busy where there was none."}, []string{"topic", "verdict"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "parley_sidecar_verdict_seconds",
			Help: "Time until the program's verdict.", Buckets: prometheus.ExponentialBuckets(100e-6, 4, 9)}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_sidecar_dropped_total",
			Help: "What peers sent and the program did not get: messages, for it read too slowly, and requests, for it had enough of them."}, []string{"kind"}),
	}
	for _, kind := range []string{droppedMessage, droppedRequest} {
		m.dropped.WithLabelValues(kind)
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.attached), reg.Register(m.verdicts), reg.Register(m.seconds), reg.Register(m.dropped))
}

// declare has the series of a topic be there before its first message, and gives
// them by verdict: to look one up takes longer than the verdict.
func (m *metrics) declare(topic string) map[string]prometheus.Counter {
	counts := map[string]prometheus.Counter{}
	for _, v := range verdictNames {
		counts[v] = m.verdicts.WithLabelValues(topic, v)
	}
	return counts
}
