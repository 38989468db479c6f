package dialer

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	static *prometheus.GaugeVec
	dials  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		static: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parley_dialer_static_peers", Help: "Static peers and members by state.",
		}, []string{"state"}),
		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_dialer_static_dials_total", Help: "Attempts to connect with static peers and members by how they ended.",
		}, []string{"class"}),
	}
	m.set(nil)
	m.dials.WithLabelValues("ok")
	for _, c := range classes {
		m.dials.WithLabelValues(string(c))
	}
	if reg != nil {
		reg.MustRegister(m.static, m.dials)
	}
	return m
}

func (m metrics) set(counts map[State]int) {
	for _, s := range []State{Connected, Trying, Paused} {
		m.static.WithLabelValues(string(s)).Set(float64(counts[s]))
	}
}
