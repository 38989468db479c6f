package history

import "github.com/prometheus/client_golang/prometheus"

// metrics collects the history at each scrape.
type metrics struct {
	written prometheus.Counter
	dropped *prometheus.CounterVec
	pending prometheus.GaugeFunc
}

func newMetrics(h *History) *metrics {
	m := &metrics{
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_history_written_total", Help: "Entries of the history of connections that were written.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_history_dropped_total", Help: "What the history of connections lacks: a flood of strangers, a full disk, a bus too fast.",
		}, []string{"reason"}),
		pending: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_history_pending", Help: "Entries of the history of connections that wait for the disk.",
		}, func() float64 { return float64(h.waits()) }),
	}
	for _, why := range []string{"flood", "full", "lagged"} {
		m.dropped.WithLabelValues(why)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.written.Describe(ch)
	m.dropped.Describe(ch)
	m.pending.Describe(ch)
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.written.Collect(ch)
	m.dropped.Collect(ch)
	m.pending.Collect(ch)
}
