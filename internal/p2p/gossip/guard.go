package gossip

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// Bounds of one RPC (DEFENCE 10.2). A node of ours stays below all of them:
// see maxAsked.
const (
	maxTopicName     = 256   // bytes
	maxMessageID     = 64    // bytes
	maxGrafts        = 32    //
	maxSubscriptions = 128   // in an RPC, and kept of a peer
	maxIDs           = 1_000 // of IWANT, and of IDONTWANT
	maxMessages      = 256
	maxBackoff       = 3_600 // seconds of a PRUNE; the library keeps any uint64
)

// guard looks at RPCs and subscriptions before pubsub acts on them.
type guard struct {
	charges chan charge // full: dropped and counted, for pubsub's loop cannot wait
	metrics *metrics
	takes   func(p peer.ID, wire string) bool
	pace    *pace

	mu    sync.Mutex                      // guards below
	nets  map[string]struct{}             // that are served
	taken map[peer.ID]map[string]struct{} // topics that a peer takes
}

type charge struct {
	peer    peer.ID
	offence chain.Offence
	detail  string
}

func newGuard(m *metrics, pace *pace, takes func(p peer.ID, wire string) bool) *guard {
	return &guard{
		charges: make(chan charge, 256), metrics: m, takes: takes, pace: pace,
		nets: map[string]struct{}{}, taken: map[peer.ID]map[string]struct{}{},
	}
}

var errRPC = errors.New("rpc over our limits")

// inspect runs in pubsub's loop. It cuts peer exchange and long backoffs out
// of rpc, and drops it whole where a bound is passed.
func (g *guard) inspect(from peer.ID, rpc *pubsub.RPC) error {
	for _, p := range rpc.GetControl().GetPrune() {
		p.Peers = nil
		if p.GetBackoff() > maxBackoff {
			p.Backoff = proto.Uint64(maxBackoff)
		}
	}
	g.pace.came(from, len(rpc.GetPublish()), time.Now())
	what := excess(&rpc.RPC)
	if what == "" {
		return nil
	}
	g.pace.settled(from, len(rpc.GetPublish()))
	g.report(charge{from, chain.Violation, "gossip rpc with " + what})
	return fmt.Errorf("%w: %s", errRPC, what)
}

// report hands c to Run. A weak one leaves room for the others.
func (g *guard) report(c charge) {
	if c.offence != chain.Duplicate || len(g.charges) < cap(g.charges)/2 {
		select {
		case g.charges <- c:
			return
		default:
		}
	}
	g.metrics.dropped.WithLabelValues("charges").Inc()
}

// excess names the bound that rpc passes, or "".
func excess(rpc *pb.RPC) string {
	c := rpc.GetControl()
	longName, longID := false, false
	name := func(s string) { longName = longName || len(s) > maxTopicName }
	ids := func(list []string) int {
		for _, id := range list {
			longID = longID || len(id) > maxMessageID
		}
		return len(list)
	}
	wants, unwants := 0, 0
	for _, m := range rpc.GetPublish() {
		name(m.GetTopic())
	}
	for _, s := range rpc.GetSubscriptions() {
		name(s.GetTopicid())
	}
	for _, g := range c.GetGraft() {
		name(g.GetTopicID())
	}
	for _, p := range c.GetPrune() {
		name(p.GetTopicID())
	}
	for _, h := range c.GetIhave() {
		name(h.GetTopicID())
		ids(h.GetMessageIDs())
	}
	for _, w := range c.GetIwant() {
		wants += ids(w.GetMessageIDs())
	}
	for _, w := range c.GetIdontwant() {
		unwants += ids(w.GetMessageIDs())
	}
	switch {
	case longName:
		return fmt.Sprintf("a topic name over %d bytes", maxTopicName)
	case longID:
		return fmt.Sprintf("a message id over %d bytes", maxMessageID)
	case len(c.GetGraft()) > maxGrafts:
		return fmt.Sprintf("%d grafts, at most %d", len(c.GetGraft()), maxGrafts)
	case len(rpc.GetSubscriptions()) > maxSubscriptions:
		return fmt.Sprintf("%d subscriptions, at most %d", len(rpc.GetSubscriptions()), maxSubscriptions)
	case wants > maxIDs, unwants > maxIDs:
		return fmt.Sprintf("%d ids wanted and %d unwanted, at most %d", wants, unwants, maxIDs)
	case len(rpc.GetPublish()) > maxMessages:
		return fmt.Sprintf("%d messages, at most %d", len(rpc.GetPublish()), maxMessages)
	}
	return ""
}

// serve makes topics of net known.
func (g *guard) serve(net string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nets[net] = struct{}{}
}

// CanSubscribe implements [pubsub.SubscriptionFilter]. Before the first
// network is served, topics of every network are of interest: peers announce
// theirs once, at the start of a connection.
func (g *guard) CanSubscribe(name string) bool {
	rest, ok := strings.CutPrefix(name, "/parley/")
	if !ok {
		return false
	}
	net, last, _ := strings.Cut(rest, "/")
	if !element(net) || !element(last) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, served := g.nets[net]
	return served || len(g.nets) == 0
}

// FilterIncomingSubscriptions implements [pubsub.SubscriptionFilter]. It keeps
// what a peer takes within maxSubscriptions, for pubsub itself keeps it all.
func (g *guard) FilterIncomingSubscriptions(from peer.ID, subs []*pb.RPC_SubOpts) ([]*pb.RPC_SubOpts, error) {
	subs = pubsub.FilterSubscriptions(subs, func(name string) bool { return g.CanSubscribe(name) && g.takes(from, name) })
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := subs[:0]
	for _, s := range subs {
		taken := g.taken[from]
		if _, known := taken[s.GetTopicid()]; !s.GetSubscribe() {
			delete(taken, s.GetTopicid())
		} else if !known {
			if len(taken) >= maxSubscriptions {
				continue
			}
			if taken == nil {
				taken = map[string]struct{}{}
				g.taken[from] = taken
			}
			taken[s.GetTopicid()] = struct{}{}
		}
		kept = append(kept, s)
	}
	return kept, nil
}

// forget drops what is kept of a peer that is gone.
func (g *guard) forget(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.taken, p)
}

// blacklist asks reputation each time, so that a peer is heard again when its
// time is over. The library's own lists never forget.
type blacklist struct{ rep *reputation.Book }

func (blacklist) Add(peer.ID) bool          { return true }
func (b blacklist) Contains(p peer.ID) bool { return p != "" && b.rep.Refused(p) }
