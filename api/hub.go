package api

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/event"
)

const (
	queueSize   = 1024 // events that wait for one client
	lagsAllowed = 3    // in lagWindow; then the client is too slow
	lagWindow   = time.Minute
	perIP       = 50 // clients of the stream without a token
	takeAtOnce  = 256
)

// frame is one event, encoded once for all clients.
type frame struct {
	seq  uint64 // 0 = no event: an answer to this client alone
	name string
	data []byte
	flat []byte                      // as Teranode tells it, nil = it does not, or nobody asks
	grpc func() (*pb.Watched, error) // as the streams of remote calls tell it, made once for all of them
}

const peerSampled = "peer.sampled" // which may be large

// sampled tells of events of which a slow client wants only the newest.
func (f frame) sampled() bool { return f.name == "stats.sampled" || f.name == peerSampled }

// hub carries events from the bus to the queues of clients. It never waits for
// a client.
type hub struct {
	bus     *event.Bus
	most    int // clients
	metrics *metrics
	flatten func(event.Envelope) []byte // see frame.flat
	ready   []*queue                    // run's goroutine only: the room of the last list

	mu      sync.Mutex // guards below
	seq     uint64     // of the last event given out
	clients map[*queue]struct{}
	byIP    map[string]int
	flats   int // clients that want flat frames
	stopped bool
	stopCh  chan struct{}
	running sync.WaitGroup // clients
}

func newHub(bus *event.Bus, most int, m *metrics) *hub {
	return &hub{bus: bus, most: most, metrics: m, clients: map[*queue]struct{}{}, byIP: map[string]int{}, seq: bus.Seq(), stopCh: make(chan struct{})}
}

// run gives out events until ctx ends.
func (h *hub) run(ctx context.Context) error {
	sub, _ := h.bus.SubscribeSince(h.seq)
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Wake():
			events, lost := sub.Take(takeAtOnce)
			h.give(events, lost)
		}
	}
}

func (h *hub) give(events []event.Envelope, lost int) {
	skip, flat := h.skip(events)
	if skip {
		return
	}
	frames := make([]frame, 0, len(events))
	for _, e := range events {
		f, err := encodeEvent(e)
		if err != nil {
			continue // an event that is no JSON is a fault that its golden file shows
		}
		if flat {
			f.flat = h.flatten(e)
		}
		frames = append(frames, f)
	}
	flushAll(h.hand(events, lost, frames), runtime.GOMAXPROCS(0)) // without mu: clients come and go meanwhile
}

// hand puts frames into the queues and returns those that the hub itself
// writes out.
func (h *hub) hand(events []event.Envelope, lost int, frames []frame) (ready []*queue) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ready = h.ready[:0]
	chosen := map[string][]frame{} // by filter: most clients have the same
	for q := range h.clients {
		if lost > 0 {
			q.lose(lost, h.seq+1, h.seq+uint64(lost))
		}
		if q.give(frames, chosen) {
			ready = append(ready, q)
		}
	}
	if len(events) > 0 {
		h.seq = events[len(events)-1].Seq
	}
	clear(h.ready[min(len(ready), len(h.ready)):]) // of clients that have left
	h.ready = ready
	return ready
}

// offer gives frames that a client can do without to those of flat frames: who
// has half a queue to read yet gets none, so that none is too slow because of
// them. They are made where somebody wants them.
func (h *hub) offer(make func() []frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flats == 0 {
		return
	}
	frames := make()
	for q := range h.clients {
		if q.strict {
			q.offer(frames)
		}
	}
}

// skip passes over events that nobody waits for; flat = somebody wants them so.
func (h *hub) skip(events []event.Envelope) (skip, flat bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.clients) == 0 && len(events) > 0 {
		h.seq = events[len(events)-1].Seq
	}
	return len(h.clients) == 0, h.flats > 0
}

func encodeEvent(e event.Envelope) (frame, error) {
	e.TS = e.TS.Truncate(time.Millisecond)
	b, err := json.Marshal(e)
	return newFrame(e.Seq, e.Type, b), err
}

var (
	errFull    = errors.New("too many clients")
	errStopped = errors.New("the node is stopping")
)

// join lets a client in. What happens after the returned seq comes by its
// queue. The caller MUST leave.
func (h *hub) join(q *queue, ip string) (seq uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped:
		return 0, errStopped
	case !q.owner && (len(h.clients) >= h.most || ip != "" && h.byIP[ip] >= perIP):
		return 0, errFull
	}
	h.clients[q] = struct{}{}
	if q.strict {
		h.flats++
	}
	if ip != "" {
		h.byIP[ip]++
	}
	h.running.Add(1)
	h.metrics.clients.WithLabelValues(q.stream).Inc()
	return h.seq, nil
}

func (h *hub) leave(q *queue, ip string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, q)
	if q.strict {
		h.flats--
	}
	if ip != "" {
		if h.byIP[ip]--; h.byIP[ip] == 0 {
			delete(h.byIP, ip)
		}
	}
	h.metrics.clients.WithLabelValues(q.stream).Dec()
	h.running.Done()
}

// backlog lists the events after since, up to and including until. It reports
// false where the bus does not hold them all any more.
func (h *hub) backlog(since, until uint64, f *filter) ([]frame, bool) {
	sub, ok := h.bus.SubscribeSince(since)
	if !ok || since > until {
		sub.Close()
		return nil, false
	}
	defer sub.Close()
	events, lost := sub.Take(int(until - since))
	if lost > 0 {
		return nil, false
	}
	var frames []frame
	for _, e := range events {
		if e.Seq > until || !f.match(e.Type) { // the bus skips what it forgot, and took newer ones for it
			continue
		}
		if fr, err := encodeEvent(e); err == nil {
			frames = append(frames, fr)
		}
	}
	return frames, true
}

// stop asks every client to leave and lets none in.
func (h *hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.stopped {
		h.stopped = true
		close(h.stopCh)
	}
}

func (h *hub) wait() { h.running.Wait() }

// queue holds what waits for one client, of peer.sampled only the newest. When
// it is full, of samples only the newest is kept and other events are dropped
// and counted; the client is told when it has drained.
type queue struct {
	stream  string // ws | sse
	metrics *metrics
	wake    chan struct{}
	size    int  // frames
	strict  bool // flat frames, and who misses one is too slow
	owner   bool // by a local socket: strangers that fill the hub are not in its way

	mu       sync.Mutex // guards below
	lane     *lane      // nil = its goroutine alone writes; never changed again
	filter   *filter
	frames   []frame
	samples  []frame // newest of each type, while full
	dropped  int
	from, to uint64      // range of what was dropped
	lags     []time.Time // lately
}

func newQueue(stream string, f *filter, m *metrics) *queue {
	return &queue{stream: stream, metrics: m, filter: f, wake: make(chan struct{}, 1), size: queueSize}
}

// push is for others than the hub.
func (q *queue) push(frames ...frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range frames {
		if f.seq == 0 || q.filter.match(f.name) {
			q.put(f)
		}
	}
	q.ring()
}

// give puts in what the client wants of frames, which chosen keeps for the next
// one with the same filter. It reports whether the caller has to see to it that
// it goes out; otherwise the client's goroutine is told.
func (q *queue) give(frames []frame, chosen map[string][]frame) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	wanted, ok := chosen[q.filter.key]
	if !ok {
		wanted = q.filter.choose(frames)
		chosen[q.filter.key] = wanted
	}
	if len(wanted) == 0 {
		return false
	}
	q.put(wanted...)
	if q.lane != nil && q.lane.raw != nil {
		return true
	}
	q.ring()
	return false
}

func (q *queue) put(frames ...frame) { // mu held
	for _, f := range frames {
		if f.name == peerSampled { // a thousand of them would be 150 MB
			q.frames = slices.DeleteFunc(q.frames, func(o frame) bool { return o.name == peerSampled })
		}
		switch {
		case len(q.frames) < q.size && q.dropped == 0:
			q.frames = append(q.frames, f)
		case f.sampled():
			q.samples = slices.DeleteFunc(q.samples, func(o frame) bool { return o.name == f.name })
			q.samples = append(q.samples, f)
		case f.seq == 0: // a pong: who does not read gets none
		default:
			q.drop(1, f.seq, f.seq)
		}
	}
}

func (q *queue) offer(frames []frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.put(frames[:min(len(frames), max(0, q.size/2-len(q.frames)))]...)
	q.ring()
}

// join has the hub write to a lane, once that is handed back to it.
func (q *queue) join(l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lane = l
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames) == 0 && q.dropped == 0 && len(q.samples) == 0
}

// lose notes events that the hub itself never saw.
func (q *queue) lose(n int, from, to uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.drop(n, from, to)
	q.ring()
}

func (q *queue) drop(n int, from, to uint64) { // mu held
	if q.dropped == 0 {
		q.from = from
	}
	q.dropped += n
	q.to = to
	q.metrics.dropped.WithLabelValues(q.stream).Add(float64(n))
}

func (q *queue) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// subscribe changes the filter, and tells the client of what it does not know.
func (q *queue) subscribe(in bool, globs []string) error {
	q.mu.Lock()
	unknown, err := q.filter.add(in, globs...)
	denied := slices.DeleteFunc(q.filter.denied(), func(no string) bool {
		return !slices.ContainsFunc(globs, func(g string) bool { return strings.TrimSpace(g) == no })
	})
	q.mu.Unlock()
	if err == nil && in && len(denied) > 0 {
		q.push(deniedTypes(denied))
	}
	if len(unknown) > 0 {
		q.push(unknownTypes(unknown))
	}
	return err
}

type unknown struct {
	Types []string `json:"types"`
}

// unknownTypes tells a client of patterns that fit no type of event.
func unknownTypes(patterns []string) frame { return message("unknown_types", unknown{patterns}) }

// deniedTypes tells it of those that let in nothing, for want of scope admin.
func deniedTypes(patterns []string) frame { return message("denied_types", unknown{patterns}) }

type lagged struct {
	Dropped int    `json:"dropped"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
}

// take empties the queue. A client that was told of a lag lagsAllowed times
// within lagWindow is too slow.
func (q *queue) take(now time.Time) (frames []frame, tooSlow bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames, q.frames = q.frames, nil
	if q.dropped > 0 && q.strict {
		return nil, true
	}
	if q.dropped > 0 {
		frames = append(frames, message("lagged", lagged{q.dropped, q.from, q.to}))
		q.dropped = 0
		q.lags = append(slices.DeleteFunc(q.lags, func(t time.Time) bool { return now.Sub(t) > lagWindow }), now)
	}
	frames = append(frames, q.samples...)
	q.samples = nil
	return frames, len(q.lags) >= lagsAllowed
}

// message makes a frame that is no event: hello, unknown_types, denied_types, pong, lagged.
func message(name string, data any) frame {
	b, err := json.Marshal(struct {
		Type string `json:"type"`
		Data any    `json:"data"`
	}{name, data})
	if err != nil {
		b = []byte(`{"type":"` + name + `","data":null}`)
	}
	return newFrame(0, name, b)
}
