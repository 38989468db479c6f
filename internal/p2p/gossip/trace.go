package gossip

import (
	"maps"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/chain"
)

// tracer hears what pubsub does, mostly in pubsub's loop: it counts and never
// waits.
type tracer struct {
	g       *Gossip
	repeats *repeats
	seen    *seen
	brought int // messages of served topics in the RPC at hand; pubsub's loop only

	mu   sync.Mutex                      // guards below
	mesh map[string]map[peer.ID]struct{} // by wire name
}

func (t *tracer) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (t *tracer) UndeliverableMessage(*pubsub.Message)     {}
func (t *tracer) Join(string)                              {}
func (t *tracer) Leave(string)                             {} // a Prune of each peer follows

// DeliverMessage is told of what was accepted, but ours, the moment before it
// goes to the mesh.
func (t *tracer) DeliverMessage(m *pubsub.Message) {
	if span, ok := m.ValidatorData.(trace.Span); ok {
		span.End()
	}
	if t.g.delivered != nil {
		t.g.delivered(m.ID)
	}
}

func (t *tracer) OnClosedOutboundStream(p peer.ID) {
	t.g.credit.clear(p)
	t.g.guard.forget(p)
	t.g.forget(p)
	t.mu.Lock()
	var left []string
	for name, peers := range t.mesh {
		if _, ok := peers[p]; ok {
			left = append(left, name)
		}
	}
	t.mu.Unlock()
	for _, name := range left {
		t.Prune(p, name)
	}
}

func (t *tracer) Graft(p peer.ID, name string) {
	t.mu.Lock()
	if t.mesh[name] == nil {
		t.mesh[name] = map[peer.ID]struct{}{}
	}
	t.mesh[name][p] = struct{}{}
	n := len(t.mesh[name])
	t.mu.Unlock()
	t.gauge(name, n)
}

func (t *tracer) Prune(p peer.ID, name string) {
	t.mu.Lock()
	delete(t.mesh[name], p)
	n := len(t.mesh[name])
	t.mu.Unlock()
	t.gauge(name, n)
}

func (t *tracer) gauge(name string, n int) {
	if tp := t.g.onWire(name); tp != nil {
		tp.count.mesh.Set(float64(n))
	}
}

// ThrottlePeer is told of the messages of an RPC that the peer gater dropped.
func (t *tracer) ThrottlePeer(p peer.ID) {
	t.g.pace.settled(p, t.brought)
	t.g.metrics.dropped.WithLabelValues("gater").Inc()
}

func (t *tracer) ValidateMessage(m *pubsub.Message) {
	if tp := t.g.onWire(m.GetTopic()); tp != nil {
		t.seen.arrived(m, tp.Name, false, time.Now())
	}
	if !m.Local {
		t.repeats.brings(m.ReceivedFrom, m.ID, time.Now())
	}
}

func (t *tracer) RejectMessage(m *pubsub.Message, reason string) {
	switch reason {
	case pubsub.RejectUnexpectedSignature, pubsub.RejectUnexpectedAuthInfo: // [REJECT] signed: content authenticates itself
		t.g.guard.report(charge{m.ReceivedFrom, chain.Violation, "gossip message with " + reason})
	case pubsub.RejectValidationFailed, pubsub.RejectValidationIgnored:
		t.seen.judged(m, VerdictIgnore, reason, time.Now()) // where validate was not asked
		return                                              // counted by verdict, as what is judged
	case pubsub.RejectValidationQueueFull, pubsub.RejectValidationThrottled:
		t.g.metrics.dropped.WithLabelValues("validate").Inc()
	}
	t.g.pace.settled(m.ReceivedFrom, 1)
	t.seen.judged(m, VerdictDropped, reason, time.Now())
	if tp := t.g.onWire(m.GetTopic()); tp != nil {
		tp.note(tp.ignored, reason)
		tp.count.ignore.Inc()
	}
}

func (t *tracer) DuplicateMessage(m *pubsub.Message) {
	t.g.pace.settled(m.ReceivedFrom, 1)
	t.seen.came(m, time.Now())
	if tp := t.g.onWire(m.GetTopic()); tp != nil {
		tp.duplicates.Add(1)
		tp.count.duplicates.Inc()
	}
	if !m.Local && t.repeats.brings(m.ReceivedFrom, m.ID, time.Now()) {
		t.g.guard.report(charge{m.ReceivedFrom, chain.Duplicate, "gossip message a second time"})
	}
}

// RecvRPC is told of an RPC before its messages, but of none that inspect drops.
// pubsub passes over messages of topics that are not served, and tells nobody.
func (t *tracer) RecvRPC(rpc *pubsub.RPC) {
	t.brought = 0
	for _, m := range rpc.GetPublish() {
		if tp := t.g.onWire(m.GetTopic()); tp != nil {
			t.brought++
			tp.count.in.Add(float64(len(m.GetData())))
		}
	}
	if other := len(rpc.GetPublish()) - t.brought; other > 0 {
		t.g.pace.settled(rpc.From(), other)
	}
}

func (t *tracer) SendRPC(rpc *pubsub.RPC, p peer.ID) {
	for _, w := range rpc.GetControl().GetIwant() {
		for _, id := range w.GetMessageIDs() {
			t.repeats.asks(p, id, time.Now())
		}
	}
	if len(rpc.GetPublish()) == 0 {
		return
	}
	t.seen.sent(rpc.GetPublish(), p, time.Now())
	all, own := 0, 0
	for _, m := range rpc.GetPublish() {
		all += len(m.GetData())
		tp := t.g.onWire(m.GetTopic())
		if tp == nil {
			continue
		}
		tp.count.out.Add(float64(len(m.GetData())))
		if m.Topic == tp.mark.Load() {
			own += max(1, len(m.GetData()))
		}
	}
	if t.g.credit.queued(p, all, own, time.Now()) {
		t.g.metrics.dropped.WithLabelValues("stream").Inc()
		t.g.log.Debug("peer does not read its gossip: its stream is reset", "peer", p)
		t.g.scope.cut(p)
	}
}

func (t *tracer) DropRPC(rpc *pubsub.RPC, p peer.ID) {
	t.g.metrics.dropped.WithLabelValues("peer").Inc()
	t.g.log.Debug("gossip to a peer dropped", "peer", p, "messages", len(rpc.GetPublish()))
}

// in returns the members of a mesh.
func (t *tracer) in(name string) []peer.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.mesh[name]))
}

func (t *tracer) size(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.mesh[name])
}
