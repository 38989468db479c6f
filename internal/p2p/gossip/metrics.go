package gossip

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the row "gossip" of the interface page. The label topic takes
// our names of served topics only.
type metrics struct {
	messages   *prometheus.CounterVec // topic, verdict
	bytes      *prometheus.CounterVec // topic, direction
	duplicates *prometheus.CounterVec // topic
	mesh       *prometheus.GaugeVec   // topic
	validate   *prometheus.HistogramVec
	delay      *prometheus.HistogramVec
	dropped    *prometheus.CounterVec // queue
	large      *prometheus.CounterVec // result

	named atomic.Bool // a topic has series of each histogram: their names are there
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_gossip_" + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "parley_gossip_" + name, Help: help, Buckets: buckets}, []string{"topic"})
	}
	m := &metrics{
		messages:   counter("messages_total", "Messages judged, our own included.", "topic", "verdict"),
		bytes:      counter("bytes_total", "Bytes of messages, duplicates included.", "topic", "direction"),
		duplicates: counter("duplicates_total", "Messages that came again.", "topic"),
		mesh:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "parley_gossip_mesh_peers", Help: "Peers in the mesh."}, []string{"topic"}),
		validate:   histogram("validate_seconds", "Time to judge a message.", prometheus.ExponentialBuckets(20e-6, 4, 9)),
		delay:      histogram("delay_seconds", "Age of a claim on arrival, by its origin's clock.", prometheus.ExponentialBuckets(0.005, 2, 12)),
		dropped:    counter("dropped_total", "What a full queue lost: peer = RPCs to a peer, stream = queues of peers that do not read, validate = messages before validation, gater = RPCs of peers that bring little of use meanwhile, charges = reports.", "queue"),
	}
	m.large = counter("large_messages_total", "Messages in chunks: sent by us; whole, and judged then; late, whose chunks did not come in 10 s; refused, for which there was no place; left, whose topic was not served any more.", "result")
	for _, r := range []string{largeSent, largeWhole, largeLate, largeRefused, largeLeft} {
		m.large.WithLabelValues(r)
	}
	for _, q := range []string{"peer", "stream", "validate", "gater", "charges"} {
		m.dropped.WithLabelValues(q)
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.messages, m.bytes, m.duplicates, m.mesh, m.validate, m.delay, m.dropped, m.large} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// topicMetrics are the series of one topic.
type topicMetrics struct {
	accept, reject, ignore, in, out, duplicates prometheus.Counter
	mesh                                        prometheus.Gauge
	seconds, delay                              *observer
}

// observer makes the series of a histogram with its first value: those of all
// topics would be 200 lines of zeros in each scrape of a node at rest.
type observer struct {
	of     *prometheus.HistogramVec
	topic  string
	once   sync.Once
	series prometheus.Observer
}

func (o *observer) make() { o.once.Do(func() { o.series = o.of.WithLabelValues(o.topic) }) }

// Observe is safe for concurrent use.
func (o *observer) Observe(value float64) {
	o.make()
	o.series.Observe(value)
}

// ObserveWithExemplar implements [prometheus.ExemplarObserver].
func (o *observer) ObserveWithExemplar(value float64, exemplar prometheus.Labels) {
	o.make()
	o.series.(prometheus.ExemplarObserver).ObserveWithExemplar(value, exemplar)
}

func (m *metrics) topic(name string) *topicMetrics {
	t := &topicMetrics{
		accept:     m.messages.WithLabelValues(name, "accept"),
		reject:     m.messages.WithLabelValues(name, "reject"),
		ignore:     m.messages.WithLabelValues(name, "ignore"),
		in:         m.bytes.WithLabelValues(name, "in"),
		out:        m.bytes.WithLabelValues(name, "out"),
		duplicates: m.duplicates.WithLabelValues(name),
		mesh:       m.mesh.WithLabelValues(name),
		seconds:    &observer{of: m.validate, topic: name},
		delay:      &observer{of: m.delay, topic: name},
	}
	if !m.named.Swap(true) {
		t.seconds.make()
		t.delay.make()
	}
	return t
}
