package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

const (
	batch    = 256              // events in flight to one sink
	tryTime  = 15 * time.Second // of one batch; brokers give up on their own before
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second
)

// message is one event on its way.
type message struct {
	seq     uint64     // with it all events up to here are delivered
	head    chain.Head // and all of the blocks up to here
	id      string     // see idOf
	subject string
	data    []byte // the envelope
}

// broker is the message system behind one sink.
type broker interface {
	// send delivers the messages in order: none is stored before one that comes
	// first, also where that one fails. The first acked of them are stored outside.
	// err says why the next one is not, errTooLarge that it never will be; nil
	// with some left wants those to be sent again. It returns soon after ctx ends.
	send(ctx context.Context, msgs []message) (acked int, err error)
	close()
}

var errTooLarge = errors.New("larger than the sink takes")

// window is how many messages go at once. It is small where that order costs
// much, because of what others do.
type window int

func (w window) of(msgs []message) []message {
	if w == 0 {
		w = batch
	}
	return msgs[:min(int(w), len(msgs))]
}

// sent takes in that acked of n messages went as they were sent.
func (w *window) sent(acked, n int) {
	if *w = window(max(1, acked)); acked == n {
		*w = window(min(2*n, batch))
	}
}

// lagged is the data of the event of that type.
type lagged struct {
	Dropped uint64 `json:"dropped"` // events of all types
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	AtLeast bool   `json:"at_least,omitempty"` // the node crashed: Dropped counts only those that it had noted
}

// Type implements [event.Event].
func (lagged) Type() string { return "lagged" }

// sink is one place that events go to.
type sink struct {
	cfg     config.Sink
	name    string // in logs and metrics
	node    string
	peer    string
	boot    string
	bus     *event.Bus
	chain   Chain // nil: there is none, or it has nothing that the sink wants
	sub     *event.Subscription
	log     *slog.Logger
	connect func() (broker, error)

	// below: Run's goroutine only
	broker  broker     // nil = not connected yet
	taken   uint64     // seq of the last event that was taken from the bus
	seen    chain.Head // last block all of whose events were taken from bus or ledger
	open    openBlock
	until   chain.Head // blocks up to here come from the ledger
	pause   time.Duration
	failing bool

	mu    sync.Mutex // guards below
	down  error      // of the last try, while the sink takes nothing
	since time.Time  // of the first of those tries
	done  uint64     // seq of the last event that is delivered, of this start
	head  chain.Head // last block all of whose events are delivered
	gap   *lagged    // of before this start, not told yet; nil = none
}

// key is the sink's name in sinks.json. Another place is another sink.
func (k *sink) key() string { return k.cfg.Kind + " " + k.cfg.URL + " " + k.cfg.Subject }

// begin takes up where the last start ended. What it had published and not
// delivered is lost with its memory, and the sink will be told so.
func (k *sink) begin(first uint64, last *position, clean bool) {
	k.done, k.taken = first-1, first-1
	k.beginChain(last)
	if last == nil || clean && last.Missed == 0 {
		return
	}
	k.gap = &lagged{Dropped: last.Missed, From: last.Seq + 1, To: max(first-1, last.Seq+last.Missed), AtLeast: last.AtLeast || !clean}
}

// follow goes on where the same sink came to in this start; one that is new
// begins with what happens now.
func (k *sink) follow(before *Sinks) {
	k.done = k.bus.Seq()
	var old *sink
	kept := before.kept()
	if i := slices.IndexFunc(kept, func(old *sink) bool { return old.key() == k.key() }); i >= 0 {
		old = kept[i]
		k.done, k.gap = old.done, old.gap
	}
	k.followChain(old)
	k.taken = k.done
	k.sub = k.bus.SubscribeAfter(k.done)
}

// progress changes whenever something is delivered.
func (k *sink) progress() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.done + k.head.Height
}

// blocksBehind counts the blocks that are stored and not delivered.
func (k *sink) blocksBehind() uint64 {
	k.mu.Lock()
	told := k.head.Height
	k.mu.Unlock()
	return max(k.chain.StoredHead().Height, told) - told
}

// behind counts the events that are published and not delivered: those that
// the sink wants, and all that the bus has lost, for nobody knows what they were.
func (k *sink) behind() uint64 {
	newest := k.bus.Seq() // first: what is delivered was published before
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.missed(newest)
}

func (k *sink) missed(newest uint64) uint64 { // mu held
	var n uint64
	if newest > k.done {
		n = k.bus.Count(k.done+1, newest+1, k.cfg.Wants)
	}
	if k.gap != nil {
		n += k.gap.Dropped
	}
	return n
}

// run delivers until stop ends and nothing is left, or until hard ends.
func (k *sink) run(stop, hard context.Context) {
	defer func() {
		if k.broker != nil {
			k.broker.close()
		}
	}()
	if k.gap != nil {
		k.log.Warn("sink missed events of the last start", "events", k.gap.Dropped, "at_least", k.gap.AtLeast)
		if !k.deliver(hard, []message{k.message(event.Envelope{Seq: k.taken, TS: time.Now(), Data: *k.gap})}) {
			return
		}
		k.mu.Lock()
		k.gap = nil
		k.mu.Unlock()
	}
	if !k.replay(hard) {
		return
	}
	for {
		events, lost := k.sub.Take(batch)
		if len(events) == 0 && lost == 0 {
			select {
			case <-stop.Done():
				return
			case <-k.sub.Wake():
			}
			continue
		}
		if lost > 0 && !k.lost(hard, lost) || !k.deliver(hard, k.messages(events)) {
			return
		}
		k.setDone(k.taken, k.seen) // events that the sink does not want count too
	}
}

// lost tells the sink how many events the bus has lost, and those of them that
// the ledger has. It reports false when hard ended before.
func (k *sink) lost(hard context.Context, n int) bool {
	gap := lagged{Dropped: uint64(n), From: k.taken + 1, To: k.taken + uint64(n)}
	k.taken = gap.To
	k.log.Warn("sink is too slow: events are lost to it", "events", n, "setting", "api.event_buffer")
	if k.chain != nil {
		k.until = k.chain.StoredHead()
	}
	return k.deliver(hard, []message{k.message(event.Envelope{Seq: gap.To, TS: time.Now(), Data: gap})}) && k.replay(hard)
}

// messages makes messages of what was taken from the bus.
func (k *sink) messages(events []event.Envelope) []message {
	msgs := make([]message, 0, len(events))
	for _, e := range events {
		k.taken = e.Seq
		if k.track(e.Data) && k.cfg.Wants(e.Type) {
			msgs = append(msgs, k.message(e))
		}
	}
	return msgs
}

func (k *sink) message(e event.Envelope) message {
	e.V, e.Type, e.TS = 1, e.Data.Type(), e.TS.UTC().Truncate(time.Millisecond)
	data, err := json.Marshal(e)
	if err != nil { // an event that is no JSON is a fault that its golden file shows
		data = fmt.Appendf(nil, `{"v":1,"seq":%d,"type":%q,"data":null}`, e.Seq, e.Type)
	}
	return message{seq: e.Seq, head: k.seen, id: k.idOf(e), subject: k.cfg.SubjectOf(k.node, e.Type), data: data}
}

// deliver tries until all messages are delivered. It reports false when hard
// ended before.
func (k *sink) deliver(hard context.Context, msgs []message) bool {
	told := false // that the next message is one that stands for another
	for len(msgs) > 0 && hard.Err() == nil {
		n, err := k.try(hard, msgs)
		if n > 0 {
			k.setDone(msgs[n-1].seq, msgs[n-1].head)
			msgs, told, k.pause = msgs[n:], false, 0
		}
		switch {
		case err == nil:
			k.recovered()
		case hard.Err() != nil:
		case errors.Is(err, errTooLarge) && !told: // it would stop the sink for ever
			k.log.Warn("event not delivered", "seq", msgs[0].seq, "bytes", len(msgs[0].data), "err", err)
			gap := k.message(event.Envelope{Seq: msgs[0].seq, TS: time.Now(), Data: lagged{Dropped: 1, From: msgs[0].seq, To: msgs[0].seq}})
			gap.id, gap.head = msgs[0].id, msgs[0].head
			msgs[0], told = gap, true
		default:
			k.failed(err)
			k.rest(hard)
		}
	}
	return len(msgs) == 0
}

func (k *sink) setDone(seq uint64, head chain.Head) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done, k.head = seq, head
}

func (k *sink) try(hard context.Context, msgs []message) (int, error) {
	ctx, cancel := context.WithTimeout(hard, tryTime)
	defer cancel()
	if k.broker == nil {
		b, err := k.connect()
		if err != nil {
			return 0, err
		}
		k.broker = b
	}
	return k.broker.send(ctx, msgs)
}

// failed logs the first of a row of failures: an outage is one line, and its end another.
func (k *sink) failed(err error) {
	k.mu.Lock()
	if k.down == nil {
		k.since = time.Now()
	}
	k.down = err
	k.mu.Unlock()
	if k.failing {
		k.log.Debug("sink still fails", "err", err, "behind", k.behind())
		return
	}
	k.failing = true
	k.log.Warn("sink does not take events: tried again until it does", "err", err)
}

func (k *sink) recovered() {
	k.mu.Lock()
	k.down = nil
	k.mu.Unlock()
	if k.failing {
		k.failing = false
		k.log.Info("sink takes events again", "behind", k.behind())
	}
}

// rest waits longer after each failure without progress.
func (k *sink) rest(hard context.Context) {
	k.pause = min(max(2*k.pause, minPause), maxPause)
	t := time.NewTimer(k.pause/2 + rand.N(k.pause/2))
	defer t.Stop()
	select {
	case <-hard.Done():
	case <-t.C:
	}
}
