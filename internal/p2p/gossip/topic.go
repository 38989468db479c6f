package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/tracing"
)

// topic is one joined topic.
type topic struct {
	chain.Topic
	g       *Gossip
	wire    string        // full name
	last    string        // last element of wire
	timeout time.Duration // of one validation, waiting included; 0 = none
	places  chan struct{} // to validate; the others wait
	handle  atomic.Pointer[pubsub.Topic]
	unrelay pubsub.RelayCancelFunc // set once, by open
	origins *origins               // of claims, ours excluded
	speed   *rate.Limiter          // of our own claims
	turn    chan struct{}          // held from the number of a claim to its sending, so that they leave in order
	seq     uint64                 // of our last claim; guarded by turn
	grumble rate.Sometimes
	count   *topicMetrics
	// mark is the pointer to the name that pubsub puts into each message of
	// ours and into no other: how the tracer knows them, to which pubsub does
	// not tell our deliveries.
	mark atomic.Pointer[string]

	tracer trace.Tracer // nil = its messages are not traced

	messages, duplicates atomic.Uint64

	mu       sync.Mutex // guards below
	rejected map[string]uint64
	ignored  map[string]uint64
}

func newTopic(g *Gossip, ct chain.Topic, wire, last string) *topic {
	if ct.Rate <= 0 {
		ct.Rate = 1
	}
	t := &topic{
		Topic: ct, g: g, wire: wire, last: last, timeout: 500 * time.Millisecond,
		places: make(chan struct{}, 64), turn: make(chan struct{}, 1), grumble: rate.Sometimes{Interval: 10 * time.Second},
		count:    g.metrics.topic(ct.Name),
		rejected: map[string]uint64{}, ignored: map[string]uint64{},
	}
	if ct.Name == "block" { // costs most, and there is one at a time
		t.tracer = g.cfg.Tracer
		t.timeout, t.places = 2*time.Second, make(chan struct{}, 4)
	}
	if ct.Timeout != 0 {
		t.timeout = max(0, ct.Timeout)
	}
	if ct.AtOnce > 0 {
		t.places = make(chan struct{}, min(ct.AtOnce, validateTopic))
	}
	if ct.Claim {
		t.origins = newOrigins(ct.Rate)
		t.speed = rate.NewLimiter(rate.Limit(ct.Rate), ct.Rate)
	}
	return t
}

// open joins the topic, or leaves nothing of it. Nobody subscribes in process:
// Validate is the delivery.
func (t *topic) open(ps *pubsub.PubSub) error {
	how := []pubsub.ValidatorOpt{pubsub.WithValidatorInline(t.Quick), pubsub.WithValidatorConcurrency(validateTopic)}
	if !t.Quick && t.timeout > 0 {
		how = append(how, pubsub.WithValidatorTimeout(t.timeout))
	}
	if err := ps.RegisterTopicValidator(t.wire, t.validate, how...); err != nil {
		return err
	}
	h, err := ps.Join(t.wire)
	if err == nil {
		if err = h.SetScoreParams(topicScore(t.Name)); err == nil {
			t.handle.Store(h)
			t.unrelay, err = h.Relay()
		}
	}
	if err != nil {
		t.handle.Store(nil)
		if h != nil {
			_ = h.Close() // err tells why
		}
		_ = ps.UnregisterTopicValidator(t.wire) // as above
	}
	return err
}

// close is open backwards, and can be called again after an error. Where
// pubsub has ended the topic ended with it.
func (t *topic) close(ps *pubsub.PubSub) error {
	h := t.handle.Load()
	if h == nil || t.unrelay == nil {
		return errors.New("it is still being joined")
	}
	t.unrelay()
	if err := h.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if err := ps.UnregisterTopicValidator(t.wire); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// own is one of our messages on its way through pubsub, and back its verdict.
type own struct {
	message chain.Message
	err     error
}

// publish hands data on, or adds it to b.
func (t *topic) publish(ctx context.Context, data []byte, b *batch) error {
	h := t.handle.Load()
	if h == nil {
		return errors.New("not joined yet")
	}
	if len(data) > t.MaxBytes {
		return chain.Invalid(chain.Oversize, "%d bytes, at most %d", len(data), t.MaxBytes)
	}
	if t.large() && len(data) > largeFrom {
		if err := b.send(); err != nil { // what comes before it goes before it
			return err
		}
		return t.g.chunks().publish(ctx, t, data)
	}
	o := &own{message: chain.Message{From: t.g.self, Data: data}}
	out := data
	if t.Claim {
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-t.turn }()
		now := time.Now()
		if !t.speed.AllowN(now, 1) {
			return fmt.Errorf("%w: %d a second: %w", errFast, t.Rate, chain.ErrBusy)
		}
		t.seq = max(t.seq+1, uint64(now.UnixMilli())) // rises over restarts
		var err error
		if out, err = sealClaim(t.g.cfg.Key, t.last, now, t.seq, data); err != nil {
			return err
		}
		o.message.Origin, o.message.Time = t.g.self, now
	}
	send := h.Publish
	if b != nil && !t.Claim { // claims leave by turns
		send = b.adder(h)
	}
	if err := send(ctx, out, pubsub.WithValidatorData(o)); err != nil {
		if o.err != nil {
			return o.err
		}
		return err
	}
	return nil
}

// validate is called by pubsub for every message that it has not seen, ours
// included.
func (t *topic) validate(ctx context.Context, from peer.ID, pm *pubsub.Message) pubsub.ValidationResult {
	if !t.g.scope.enter() {
		return pubsub.ValidationIgnore
	}
	defer t.g.scope.leave()
	start := time.Now()
	if o, ok := pm.ValidatorData.(*own); ok {
		t.mark.Store(pm.Topic)
		o.message.ID = pm.ID
		t.g.tracer.seen.arrived(pm, t.Name, true, start)
		o.err = t.Validate(ctx, o.message)
		t.count.seconds.Observe(time.Since(start).Seconds())
		return t.judge(pm, "", o.err)
	}
	defer t.g.pace.judge(from, t.timeout, start)()
	if !t.Quick {
		select { // pubsub itself would drop what comes in a burst
		case t.places <- struct{}{}:
			defer func() { <-t.places }()
		case <-ctx.Done():
			return t.judge(pm, "", ctx.Err())
		}
	}
	ctx, span := t.arrived(ctx, from, len(pm.Data))
	m, culprit, err := t.read(from, pm.Data)
	if err == nil {
		if t.Claim {
			t.count.delay.Observe(max(0, start.Sub(m.Time).Seconds()))
		}
		m.ID = pm.ID
		vctx, check := tracing.Start(ctx, t.tracer, "validate")
		err = t.Validate(vctx, m)
		tracing.End(check, err)
	}
	if err == nil && span.IsRecording() {
		_, pm.ValidatorData = tracing.Start(ctx, t.tracer, "relay") // to DeliverMessage
	}
	tracing.End(span, err)
	tracing.Observe(t.count.seconds, time.Since(start).Seconds(), span)
	if err == nil {
		t.g.thank(from, t.Name, time.Now())
	}
	return t.judge(pm, culprit, err)
}

// judge is verdict for who asks what became of the message.
func (t *topic) judge(pm *pubsub.Message, culprit peer.ID, err error) pubsub.ValidationResult {
	result, told, why := t.verdict(culprit, err), VerdictIgnore, ""
	switch result {
	case pubsub.ValidationAccept:
		told = VerdictAccept
	case pubsub.ValidationReject:
		told = VerdictReject
	}
	if err != nil {
		why = err.Error()
	}
	t.g.tracer.seen.judged(pm, told, why, time.Now())
	return result
}

// arrived begins the span of a message, where its topic is traced.
func (t *topic) arrived(ctx context.Context, from peer.ID, size int) (context.Context, trace.Span) {
	ctx, span := tracing.Start(ctx, t.tracer, t.Name)
	if span.IsRecording() {
		span.SetAttributes(attribute.Stringer("peer", from), attribute.Int("bytes", size))
	}
	return ctx, span
}

// read makes a message of bytes from a peer and says who is to be charged
// should they be invalid; "" is nobody.
func (t *topic) read(from peer.ID, b []byte) (m chain.Message, culprit peer.ID, err error) {
	if !t.Claim {
		if len(b) > t.MaxBytes { // [REJECT] longer than the topic allows
			return m, from, chain.Invalid(chain.Oversize, "%s: %d bytes, at most %d", t.Name, len(b), t.MaxBytes)
		}
		if t.large() && len(b) > largeFrom { // it would come a second time
			return m, "", fmt.Errorf("%s: %d bytes not in chunks: %w", t.Name, len(b), chain.ErrUnready)
		}
		return chain.Message{From: from, Data: b}, from, nil
	}
	if len(b) > t.MaxBytes+claimOverhead {
		return m, from, chain.Invalid(chain.Oversize, "%s: claim of %d bytes, at most %d", t.Name, len(b), t.MaxBytes+claimOverhead)
	}
	c, origin, err := openClaim(t.last, b)
	if origin == "" {
		return m, from, err
	}
	// What is signed proves its origin's fault, not the relayer's. An origin
	// is not charged for what others bring: the type in the envelope does not
	// name the network, so it may be a claim from elsewhere.
	if origin == from {
		culprit = from
	}
	switch {
	case err != nil:
		return m, culprit, err
	case len(c.Body) > t.MaxBytes:
		return m, culprit, chain.Invalid(chain.Oversize, "%s: body of %d bytes, at most %d", t.Name, len(c.Body), t.MaxBytes)
	case origin == t.g.self: // ours in another dress, or of our last life
		return m, "", chain.ErrKnown
	}
	if err := t.origins.admit(origin, c, time.Now()); err != nil {
		return m, "", err
	}
	return chain.Message{From: from, Origin: origin, Time: time.UnixMilli(int64(c.TimeMS)), Data: c.Body}, culprit, nil
}

// verdict says what becomes of a message whose validation gave err: the one
// place where that is decided. culprit is charged if err proves a fault;
// without one such a message is dropped all the same.
func (t *topic) verdict(culprit peer.ID, err error) pubsub.ValidationResult {
	var bad *chain.InvalidError
	var why string
	switch {
	case err == nil:
		t.messages.Add(1)
		t.count.accept.Inc()
		return pubsub.ValidationAccept
	case errors.As(err, &bad) && culprit != "":
		t.note(t.rejected, string(bad.Offence))
		t.count.reject.Inc()
		t.g.log.Debug("message rejected", "topic", t.Name, "peer", culprit, "err", err)
		t.g.rep.Penalize(culprit, bad.Offence, bad.Detail)
		return pubsub.ValidationReject
	case bad != nil:
		why = string(bad.Offence)
	case errors.Is(err, chain.ErrKnown):
		why = "known"
	case errors.Is(err, chain.ErrOrphan):
		why = "orphan"
	case errors.Is(err, chain.ErrUnready):
		why = "unready"
	case errors.Is(err, chain.ErrBusy):
		why = "busy"
	case errors.Is(err, errStale):
		why = "stale"
	case errors.Is(err, errFast):
		why = "rate"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		why = "timeout"
	default: // ours: disk, bug
		why = "error"
		t.grumble.Do(func() { t.g.log.Warn("cannot validate messages", "topic", t.Name, "err", err) })
	}
	t.note(t.ignored, why)
	t.count.ignore.Inc()
	return pubsub.ValidationIgnore
}

func (t *topic) note(counts map[string]uint64, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts[why]++
}
