// Package sidecar owns a chain whose rules live in another program: the node
// carries the program's messages, asks it for verdicts, and puts requests and
// answers through between the programs of two nodes.
package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// Kind is the network's kind; in the handshake "/" and its name follow.
const Kind = "sidecar"

const (
	keepFor   = 30 * time.Second // topics and requests of a program that has left
	lookEvery = time.Second      // at the heads of peers, of which claims tell nobody
	maxHeight = 1 << 53          // exclusive; safe in JSON numbers
	maxEver   = 1024             // different topics in a node's life, for each has metrics
)

// Config is what the room needs to know.
type Config struct {
	config.Sidecar
	NetworkName string
	Reserved    []string // topics that a program cannot have
}

// Sidecar implements [chain.Network]. All methods are safe for concurrent use.
type Sidecar struct {
	cfg     Config
	id      chain.NetworkID
	bus     *event.Bus
	log     *slog.Logger
	metrics *metrics
	orders  chan order    // to the loop of Run
	left    chan struct{} // a program has left
	started chan struct{} // closed when Run begins
	ended   chan struct{} // closed when Run returns

	// loop goroutine only
	served served
	told   map[peer.ID]chain.Peer // what the program knows of the ready peers
	gone   map[peer.ID]string     // why they are gone, until the program is told

	mu       sync.Mutex     // guards below; nothing blocks under it
	services chain.Services // nil before Run
	app      *Session       // nil while no program is attached
	genesis  chain.Hash     // zero until a program tells
	status   []byte         // the program's own, in the handshake
	head     Head
	topics   map[string]topic // by name, as they are judged now
	asks     map[uint64]*ask  // verdicts that are awaited
	asked    int              // bytes of their messages
	late     *time.Timer      // for those without a verdict; nil = none is awaited
	incoming map[uint64]*incoming
	outgoing int // requests of ours under way
	lastID   uint64
	readers  map[*Reader]struct{}
}

// order asks the loop to attach a program.
type order struct {
	session *Session
	done    chan error
}

// NetOf is <net> of a network's name: the first 8 hex digits of
// SHA-256("parley/sidecar/" name).
func NetOf(name string) string {
	sum := sha256.Sum256([]byte("parley/sidecar/" + name))
	return hex.EncodeToString(sum[:4])
}

// New starts nothing; reg may be nil.
func New(cfg Config, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Sidecar, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("register sidecar metrics: %w", err)
	}
	return &Sidecar{
		cfg: cfg, id: chain.NetworkID{Kind: Kind, Name: cfg.NetworkName, Net: NetOf(cfg.NetworkName)},
		bus: bus, log: log, metrics: m, orders: make(chan order), left: make(chan struct{}, 1), started: make(chan struct{}), ended: make(chan struct{}),
		served: newServed(), told: map[peer.ID]chain.Peer{}, gone: map[peer.ID]string{},
		topics: map[string]topic{}, asks: map[uint64]*ask{}, incoming: map[uint64]*incoming{}, readers: map[*Reader]struct{}{},
	}, nil
}

var _ chain.Network = (*Sidecar)(nil)

// ID implements [chain.Network].
func (s *Sidecar) ID() chain.NetworkID { return s.id }

func (s *Sidecar) network() string { return Kind + "/" + s.cfg.NetworkName }

// Status implements [chain.Network].
func (s *Sidecar) Status() chain.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return chain.Status{
		Network: s.network(), ChainID: s.cfg.NetworkName, Genesis: s.genesis, Head: s.head.Head, Services: chain.Full | chain.API, App: s.status,
	}
}

// CheckStatus implements [chain.Network].
func (s *Sidecar) CheckStatus(remote chain.Status) error {
	if remote.Network != s.network() {
		return &chain.MismatchError{Code: chain.WrongNetwork, Text: fmt.Sprintf("we are a node of %s, you are of %q", s.network(), remote.Network)}
	}
	s.mu.Lock()
	genesis := s.genesis
	s.mu.Unlock()
	if !genesis.IsZero() && !remote.Genesis.IsZero() && genesis != remote.Genesis {
		return &chain.MismatchError{Code: chain.WrongGenesis, Text: fmt.Sprintf("%s: our program's genesis is %s, yours is %s", s.network(), genesis, remote.Genesis)}
	}
	return nil
}

// Attached is the name that the attached program gave itself.
func (s *Sidecar) Attached() (name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.app == nil {
		return "", false
	}
	return s.app.hello.Name, true
}

// Head is the program's chain as it told it last; ok is false before that.
func (s *Sidecar) Head() (h Head, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head, !s.head.Hash.IsZero()
}

// SetHead takes over what the program says its chain is.
func (s *Sidecar) SetHead(h Head) error {
	switch {
	case h.Hash.IsZero():
		return badInput("head without a hash: give the 32 bytes of the newest block's")
	case h.Height >= maxHeight || h.BlockCount >= maxHeight:
		return badInput("head %d of %d blocks: heights are below 2^53", h.Height, h.BlockCount)
	}
	switch year := h.Time.UTC().Year(); {
	case h.Time.IsZero():
		h.Time = time.Now()
	case year < 1970 || year > 9999: // which no JSON can say
		return badInput("head %d is of the year %d: times are milliseconds since 1970", h.Height, year)
	}
	s.mu.Lock()
	old := s.head
	s.head = h
	s.mu.Unlock()
	if old.Head == h.Head {
		return nil
	}
	e := event.HeadChanged{Height: h.Height, Hash: h.Hash}
	if old.Height >= h.Height && !old.Hash.IsZero() {
		e.Depth = int(min(old.Height-h.Height+1, 1<<31-1))
	}
	s.bus.Publish(e)
	return nil
}

// Peers lists the ready peers; none before Run.
func (s *Sidecar) Peers() []chain.Peer {
	services, err := s.wing()
	if err != nil {
		return nil
	}
	return services.Peers()
}

// ReportPeer charges p for what the program found out about it.
func (s *Sidecar) ReportPeer(p peer.ID, reason, detail string) error {
	o, err := offenceOf(reason)
	if err != nil {
		return err
	}
	services, err := s.wing()
	if err != nil {
		return err
	}
	services.Report(p, o, "reported by the program: "+detail)
	return nil
}

// wing is the p2p wing, once Run has it.
func (s *Sidecar) wing() (chain.Services, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services == nil {
		return nil, ErrStopped
	}
	return s.services, nil
}

// Run implements [chain.Network].
func (s *Sidecar) Run(ctx context.Context, services chain.Services) error {
	sub := s.bus.Subscribe()
	defer sub.Close()
	s.mu.Lock()
	s.services = services
	s.mu.Unlock()
	close(s.started)
	defer close(s.ended)
	defer s.stop()
	if err := s.serve(ctx, Hello{}); err != nil {
		return stopped(ctx, err)
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	forget := time.NewTimer(keepFor)
	forget.Stop()
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-s.orders:
			o.done <- s.attach(ctx, o.session)
		case <-s.left:
			forget.Reset(keepFor)
		case <-forget.C:
			if _, ok := s.Attached(); ok {
				continue
			}
			if err := s.serve(ctx, Hello{}); err != nil {
				s.log.Warn("the program has not come back: what it declared is served still", "after", keepFor, "err", err)
				forget.Reset(keepFor)
				continue
			}
			s.log.Info("the program has not come back: what it declared is not served any more", "after", keepFor)
		case <-tick.C:
			s.look()
		case <-sub.Wake():
			s.note(sub)
			s.look()
		}
	}
}

func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// stop ends what hangs on Run.
func (s *Sidecar) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services = nil
	if s.late != nil {
		s.late.Stop()
	}
	if s.app != nil {
		s.app.end(ErrStopped)
	}
	for r := range s.readers {
		r.end(ErrStopped)
	}
}

// note keeps why peers are gone.
func (s *Sidecar) note(sub *event.Subscription) {
	events, _ := sub.Take(256)
	for _, e := range events {
		gone, ok := e.Data.(event.PeerDisconnected)
		if _, told := s.told[gone.Peer]; ok && told {
			s.gone[gone.Peer] = firstOf(gone.Text, gone.Reason, "the connection was lost")
		}
	}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// look tells the program which peers are ready, have another head, or are gone.
func (s *Sidecar) look() {
	s.mu.Lock()
	app, services := s.app, s.services
	s.mu.Unlock()
	if app == nil {
		clear(s.told)
		clear(s.gone)
		return
	}
	news := map[peer.ID]ToApp{}
	ready := map[peer.ID]chain.Peer{}
	for _, p := range services.Peers() {
		ready[p.ID] = p
		if old, known := s.told[p.ID]; !known || old.Claimed != p.Claimed || string(old.App) != string(p.App) {
			news[p.ID] = StatusOf{Peer: p.ID, Head: p.Claimed, Status: p.App}
		}
	}
	for id := range s.told {
		if _, ok := ready[id]; !ok {
			news[id] = PeerGone{Peer: id, Reason: firstOf(s.gone[id], "the connection was lost")}
		}
	}
	clear(s.gone)
	s.told = ready
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, n := range news {
		app.tell(p, n)
	}
}
