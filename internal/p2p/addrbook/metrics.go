package addrbook

import "github.com/prometheus/client_golang/prometheus"

// Stats tells how the book stands.
type Stats struct {
	New         int `json:"new"`
	Tried       int `json:"tried"`
	NewGroups   int `json:"new_groups"`
	TriedGroups int `json:"tried_groups"`
	Collisions  int `json:"collisions"`
	Anchors     int `json:"anchors"`
	// SourceShare is the part of the places in new that came from the one
	// source group with most: above a half the book is being poisoned.
	SourceShare float64 `json:"source_share"`
	SourceGroup string  `json:"source_group,omitempty"`
	Grown       bool    `json:"grown"`
	// SaveOff says why the book is not saved; "" = it is.
	SaveOff string `json:"save_off,omitempty"`
}

// Stats counts. It walks the whole book: not for every second.
func (b *Book) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{
		New: len(b.entries) - b.tried.size, Tried: b.tried.size, NewGroups: len(b.groups[New]), TriedGroups: len(b.groups[Tried]),
		Collisions: len(b.collisions), Anchors: len(b.anchors), Grown: b.grown, SaveOff: b.saveOff,
	}
	bySource := map[string]int{}
	for _, e := range b.entries {
		for _, r := range e.refs {
			if r.slot != none {
				bySource[r.group]++
			}
		}
	}
	most := 0
	for g, n := range bySource {
		if n > most || n == most && g < s.SourceGroup {
			most, s.SourceGroup = n, g
		}
	}
	if b.fresh.size > 0 {
		s.SourceShare = float64(most) / float64(b.fresh.size)
	}
	return s
}

// metrics collects the book at each scrape.
type metrics struct {
	book     *Book
	rejected *prometheus.CounterVec
	entries  *prometheus.Desc
	groups   *prometheus.Desc
}

func newMetrics(b *Book) *metrics {
	m := &metrics{
		book: b,
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_addrbook_rejected_total", Help: "Addresses of peers that were not taken.",
		}, []string{"reason"}),
		entries: prometheus.NewDesc("parley_addrbook_entries", "Peers in the address book.", []string{"table"}, nil),
		groups:  prometheus.NewDesc("parley_addrbook_groups", "Network groups of the peers in the address book.", []string{"table"}, nil),
	}
	for _, r := range reasons {
		m.rejected.WithLabelValues(r.name)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.rejected.Describe(ch)
	ch <- m.entries
	ch <- m.groups
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.rejected.Collect(ch)
	b := m.book
	b.mu.Lock()
	entries := map[Table]int{New: len(b.entries) - b.tried.size, Tried: b.tried.size}
	groups := map[Table]int{New: len(b.groups[New]), Tried: len(b.groups[Tried])}
	b.mu.Unlock()
	for _, t := range []Table{New, Tried} {
		ch <- prometheus.MustNewConstMetric(m.entries, prometheus.GaugeValue, float64(entries[t]), string(t))
		ch <- prometheus.MustNewConstMetric(m.groups, prometheus.GaugeValue, float64(groups[t]), string(t))
	}
}
