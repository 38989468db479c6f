package dialer

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

type slotMetrics struct {
	slots     *prometheus.GaugeVec
	dials     *prometheus.CounterVec
	evictions prometheus.Counter
	groups    prometheus.Gauge
	sources   *prometheus.GaugeVec
}

var slotSources = []addrbook.Kind{
	addrbook.Static, addrbook.Bootstrap, addrbook.DNS, addrbook.DHT, addrbook.PEX, addrbook.MDNS, addrbook.Inbound, addrbook.Operator, sourceAnchor,
}

func newSlotMetrics(reg prometheus.Registerer) slotMetrics {
	m := slotMetrics{
		slots: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parley_dialer_slots", Help: "Connection slots by what they are for and whether somebody has them.",
		}, []string{"slot", "state"}),
		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_dialer_dials_total", Help: "Dials of peers of the address book by how they ended.",
		}, []string{"class"}),
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_dialer_evictions_total", Help: "Inbound peers whose place went to another one.",
		}),
		groups: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_dialer_outbound_groups", Help: "Address groups of the outbound peers, non-public ones not counted.",
		}),
		sources: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parley_dialer_outbound_peers", Help: "Outbound peers by who told us of them first.",
		}, []string{"source"}),
	}
	m.dials.WithLabelValues("ok")
	for _, c := range classes {
		m.dials.WithLabelValues(string(c))
	}
	if reg != nil {
		reg.MustRegister(m.slots, m.dials, m.evictions, m.groups, m.sources)
	}
	return m
}

// measure sets the gauges to how things stand.
func (s *Slots) measure() {
	set := func(slot string, filled, dialling, places int) {
		s.metrics.slots.WithLabelValues(slot, "filled").Set(float64(filled))
		s.metrics.slots.WithLabelValues(slot, "dialling").Set(float64(dialling))
		s.metrics.slots.WithLabelValues(slot, "free").Set(float64(max(0, places-filled-dialling)))
	}
	for slot, places := range map[string]int{SlotOutbound: s.cfg.Outbound, SlotBlockOnly: s.cfg.BlockOnly, SlotFeeler: 1} {
		up, dialling := s.count(slot)
		set(slot, up, dialling, places)
	}
	up, dialling := 0, 0
	bySource := map[string]int{}
	for _, h := range s.held {
		switch {
		case h.extra && h.up:
			up++
		case h.extra:
			dialling++
		}
		if h.up && h.slot != SlotFeeler {
			bySource[h.source]++
		}
	}
	set("extra", up, dialling, 1)
	set("inbound", s.ready, s.greeting, s.cfg.Inbound)
	counts := s.dial.stateCounts()
	set("static", counts[Connected], counts[Trying], 0)
	s.metrics.groups.Set(float64(s.spread().groups))
	for _, kind := range slotSources {
		s.metrics.sources.WithLabelValues(string(kind)).Set(float64(bySource[string(kind)]))
	}
}

func (d *Dialer) stateCounts() map[State]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts()
}
