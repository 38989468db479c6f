package sidecar

// A lane is a share of a queue. What fills one leaves the others alone: peers
// decide how much comes in three of them.
type lane int

const (
	ours     lane = iota // messages of this node
	messages             // of peers, that nobody is asked about
	verdicts
	requests
	lanes
)

// Of one lane of a queue, at most.
const (
	maxWaiting      = 1024     // items
	maxWaitingBytes = 32 << 20 // with overhead for each
)

// queue holds what waits to be read, in the order in which it came, within the
// bounds of each lane. Its owner guards it.
type queue[T interface{ size() int }] struct {
	items []waiting[T]
	held  [lanes]struct{ items, bytes int }
	wake  chan struct{} // cap 1
	over  chan struct{} // closed with err
	err   error         // why it ended; nil = it is open
}

type waiting[T any] struct {
	item T
	lane lane
}

func newQueue[T interface{ size() int }]() queue[T] {
	return queue[T]{wake: make(chan struct{}, 1), over: make(chan struct{})}
}

// push reports false where the lane is full or the queue has ended.
func (q *queue[T]) push(l lane, item T) bool {
	n, held := item.size(), &q.held[l]
	if q.err != nil || held.items >= maxWaiting || held.bytes+n > maxWaitingBytes {
		return false
	}
	q.items = append(q.items, waiting[T]{item, l})
	held.items++
	held.bytes += n
	q.ring()
	return true
}

// room reports whether an item of n bytes may be on its way to a lane. A
// quarter is left to those that are already.
func (q *queue[T]) room(l lane, n int) bool {
	held := &q.held[l]
	return held.items < maxWaiting*3/4 && (held.bytes == 0 || held.bytes+n <= maxWaitingBytes*3/4)
}

// ring wakes who waits to read.
func (q *queue[T]) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue[T]) pop() (item T, ok bool) {
	if len(q.items) == 0 {
		return item, false
	}
	w := q.items[0]
	q.items[0] = waiting[T]{}
	q.items = q.items[1:]
	q.held[w.lane].items--
	q.held[w.lane].bytes -= w.item.size()
	return w.item, true
}

func (q *queue[T]) finish(err error) {
	if q.err == nil {
		q.err, q.items = err, nil
		close(q.over)
	}
}
