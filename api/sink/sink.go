// Package sink owns the delivery of a node's events to message systems
// outside, NATS JetStream and Kafka: what is delivered, and how far each is.
package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

const (
	drainTime = 2 * time.Second // at the end, for what is not delivered yet; within the node's own 10 s
	saveEvery = 5 * time.Second // events of the last seconds before a crash are not counted by lagged
)

// Options of [Sinks].
type Options struct {
	Node       string                // stands for {node} and is the key of Kafka's records
	Peer       string                // the node's peer ID, in the ids of messages of what the ledger has
	Boot       string                // tells one start of the node from the next
	Dir        string                // the data directory: sinks.json, and credentials files by relative name
	Log        *slog.Logger          // nil = discard
	Registerer prometheus.Registerer // nil = a new registry
	// Found is told every few seconds what an operator should know of the sinks;
	// nil = nobody is.
	Found func([]event.FindingChanged)
	Chain Chain  // what the ring has lost of blocks and records comes from here; nil = it is lost
	After *Sinks // that ran before in this start of the node, and have ended; nil = none
}

// Sinks delivers events to each of the configured sinks, at least once and in
// their order, each at its own pace. The node never waits for one: a sink
// takes from the bus's ring, holds one batch in memory, and is told of what
// the ring has lost by one event of type lagged. Events of blocks and records
// that are lost so, or over a restart, it is told once more from the ledger.
type Sinks struct {
	bus   *event.Bus
	boot  string
	file  string
	log   *slog.Logger
	found func([]event.FindingChanged)
	sinks []*sink
	held  []*sink // that have ended, and for which others may go on; see Hold
	end   func()
}

// New reads how far each sink came and its credentials, and starts to follow
// the bus. It connects to nothing. An error is about the configuration: a
// restart does not mend it. Sinks that were made MUST be run.
func New(sinks []config.Sink, bus *event.Bus, o Options) (*Sinks, error) {
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	s := newSinks(bus, o)
	positions, clean, err := readPositions(s.file)
	if err != nil {
		s.log.Warn("positions of sinks not read: they go on from this start", "file", s.file, "err", err)
	}
	lag := newLagMetric()
	var errs []error
	for i, cfg := range sinks {
		k := &sink{cfg: cfg, name: fmt.Sprintf("%s-%d", cfg.Kind, i+1), node: o.Node, peer: o.Peer, boot: o.Boot, bus: bus}
		k.log = s.log.With("sink", k.name)
		if wantsChain(cfg) {
			k.chain = o.Chain
		}
		if k.connect, err = dialer(cfg, o, k.log); err != nil {
			errs = append(errs, fmt.Errorf("sink %d: %w", i+1, err))
			continue
		}
		s.sinks = append(s.sinks, k)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, k := range s.sinks {
		if o.After != nil {
			k.follow(o.After)
			continue
		}
		var first uint64
		k.sub, first = bus.SubscribeAll()
		k.begin(first, positions[k.key()], clean)
	}
	lag.sinks = s.sinks
	if err := o.Registerer.Register(lag); err != nil {
		return nil, fmt.Errorf("metrics of the sinks: %w", err)
	}
	s.end = func() { o.Registerer.Unregister(lag) } // others may follow
	return s, nil
}

func newSinks(bus *event.Bus, o Options) *Sinks {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Sinks{bus: bus, boot: o.Boot, file: filepath.Join(o.Dir, fileName), log: o.Log.With("room", "api.sink"), found: o.Found}
}

// Hold stands in for sinks of which New says that they cannot follow those of
// o.After: it delivers nothing, and keeps how far each of o.After came. Sinks
// that follow it go on from there, or are told how much is lost; so are those of
// the next start.
func Hold(bus *event.Bus, o Options) *Sinks {
	s := newSinks(bus, o)
	s.held, s.end = o.After.kept(), func() {}
	return s
}

// kept are the sinks whose position is kept.
func (s *Sinks) kept() []*sink { return slices.Concat(s.sinks, s.held) }

// Check tells what New would say against the configuration. It connects to
// nothing.
func Check(sinks []config.Sink, o Options) error {
	var errs []error
	for i, cfg := range sinks {
		if _, err := dialer(cfg, o, slog.New(slog.DiscardHandler)); err != nil {
			errs = append(errs, fmt.Errorf("sink %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

// dialer is how a sink's connection is made.
func dialer(cfg config.Sink, o Options, log *slog.Logger) (func() (broker, error), error) {
	u, err := config.ParseSinkURL(cfg.Kind, cfg.URL)
	if err != nil {
		return nil, err
	}
	var creds *credentials
	if cfg.CredentialsFile != "" {
		if creds, err = openCredentials(o.Dir, cfg.CredentialsFile, log); err != nil {
			return nil, err
		}
	}
	node := o.Node // and not o, which has the sinks of before
	if cfg.Kind == config.SinkKafka {
		return func() (broker, error) { return newKafka(u, creds, node) }, nil
	}
	return func() (broker, error) { return newNATS(u, creds, node, log) }, nil
}

// Run delivers until ctx ends, and for two seconds more what is not delivered
// yet. End ctx after the last event was published. It may be called once.
func (s *Sinks) Run(ctx context.Context) error {
	defer s.end()
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	for _, k := range s.sinks {
		wg.Go(func() { k.run(ctx, hard) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	s.keepPositions(ctx)
	select {
	case <-done:
	case <-time.After(drainTime):
		cancel()
		<-done
	}
	for _, k := range s.sinks {
		k.sub.Close()
		if p := s.position(k); p.Missed > 0 {
			k.log.Warn("sink did not get all events before the end: it will be told how many", "events", p.Missed)
		}
	}
	s.save(true)
	return nil
}

// keepPositions saves how far the sinks are until ctx ends.
func (s *Sinks) keepPositions(ctx context.Context) {
	if s.found != nil {
		s.found(s.findings()) // those of sinks that are gone since are over
	}
	if len(s.kept()) == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	failed := false
	for saved := uint64(0); ; {
		if sum := s.progress(); sum != saved {
			err := s.save(false)
			if err == nil {
				saved = sum
			} else if !failed {
				s.log.Warn("positions of sinks not saved: after a crash they count too little as lost", "err", err)
			}
			failed = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if s.found != nil {
				s.found(s.findings())
			}
		}
	}
}

// progress changes whenever a position does.
func (s *Sinks) progress() uint64 {
	sum := s.bus.Seq()
	for _, k := range s.kept() {
		sum += k.progress()
	}
	return sum
}

// lagMetric tells how far each sink is behind.
type lagMetric struct {
	events, blocks *prometheus.Desc
	sinks          []*sink
}

func newLagMetric() *lagMetric {
	labels := []string{"sink"}
	return &lagMetric{
		events: prometheus.NewDesc("parley_sink_lag_events", "Events that a sink has not acknowledged yet.", labels, nil),
		blocks: prometheus.NewDesc("parley_sink_lag_blocks", "Stored blocks of whose events a sink has not acknowledged all yet.", labels, nil),
	}
}

func (m *lagMetric) Describe(c chan<- *prometheus.Desc) { c <- m.events; c <- m.blocks }

func (m *lagMetric) Collect(c chan<- prometheus.Metric) {
	for _, k := range m.sinks {
		c <- prometheus.MustNewConstMetric(m.events, prometheus.GaugeValue, float64(k.behind()), k.name)
		if k.chain != nil {
			c <- prometheus.MustNewConstMetric(m.blocks, prometheus.GaugeValue, float64(k.blocksBehind()), k.name)
		}
	}
}
