package devnet

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

const (
	maxInFlight = 256     // records whose commit is awaited at once
	maxSamples  = 1 << 18 // latencies kept; above it a random choice of them
	retryAfter  = 50 * time.Millisecond
	commitLimit = 20 * time.Second // for one record
	settleLimit = 15 * time.Second // for one head at the end
)

// Bounds of the body of a generated record, in bytes.
const (
	MinSize = 64 // holds what makes it unlike others
	MaxSize = consortium.MaxBody
)

// LoadOptions say what [Net.Load] writes.
type LoadOptions struct {
	Rate    float64       // records a second, 0 = as many as go
	Size    int           // bytes of a body
	For     time.Duration // how long, where Records is 0
	Records int           // how many
}

// Load is what came of a load.
type Load struct {
	Sent      int           `json:"sent"`
	Committed int           `json:"committed"`
	Failed    int           `json:"failed"`
	Pushed    int           `json:"pushed_back"` // answers "later", tried again
	LastError string        `json:"last_error,omitempty"`
	Elapsed   time.Duration `json:"-"`
	ElapsedS  float64       `json:"elapsed_s"`
	RecordsPS float64       `json:"records_s"`
	P50MS     float64       `json:"p50_ms"` // from sending a record to its block on the disk of the node asked
	P99MS     float64       `json:"p99_ms"`
	MaxMS     float64       `json:"max_ms"`
	Cut       []string      `json:"cut,omitempty"`     // nodes that were not asked: their side of the partition cannot commit
	Missing   string        `json:"missing,omitempty"` // why the nodes do not agree at the end
}

func (o LoadOptions) check() error {
	switch {
	case o.Rate < 0:
		return fmt.Errorf("rate %g/s: want 0 or more", o.Rate)
	case o.Size < MinSize || o.Size > MaxSize:
		return fmt.Errorf("size %d: want %d to %d bytes", o.Size, MinSize, MaxSize)
	case o.Records < 0 || o.Records == 0 && o.For <= 0:
		return errors.New("load of no length: give a duration or a number of records")
	}
	return nil
}

// loader is one run of [Net.Load].
type loader struct {
	net   *Net
	nodes []Node
	run   string // makes the records of this run unlike others'
	size  int
	next  atomic.Uint64 // node to ask, round and round

	mu      sync.Mutex // guards load, samples
	load    Load
	samples []time.Duration
	longest time.Duration
	started time.Time
}

// Load writes generated records to all nodes that run, in turn, each awaited
// until it is committed, and then waits until the nodes agree; during a
// partition only to the side that can commit. It ends early with ctx, without
// an error. progress, nil allowed, is called twice a second.
func (n *Net) Load(ctx context.Context, o LoadOptions, progress func(Load)) (Load, error) {
	if err := o.check(); err != nil {
		return Load{}, err
	}
	s, err := n.State()
	if err != nil {
		return Load{}, err
	}
	l := &loader{net: n, nodes: n.running(s), run: fmt.Sprintf("%08x", rand.Uint32()), size: o.Size, started: time.Now()}
	if len(l.nodes) == 0 {
		return Load{}, fmt.Errorf("the devnet in %s is %w: start it with parley devnet", n.dir, ErrDown)
	}
	if l.nodes, l.load.Cut = s.committing(l.nodes); len(l.nodes) == 0 {
		return Load{}, errors.New("a partition is on, and no side of it has enough validators to commit: end it with parley devnet heal")
	}
	shown := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(shown)
		l.show(stop, progress)
	}()
	l.send(ctx, o)
	close(stop)
	<-shown
	load := l.snapshot()
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	poll(settle, pollInterval, func() bool {
		var rows []Row
		if rows, err = n.Status(settle); err == nil {
			load.Missing = s.missing(rows)
		}
		return err != nil || load.Missing == ""
	})
	return load, err
}

func (l *loader) show(stop <-chan struct{}, progress func(Load)) {
	if progress == nil {
		return
	}
	t := time.NewTicker(time.Second / 2)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			progress(l.snapshot())
		case <-stop:
			return
		}
	}
}

// send keeps the pace; where the nodes are slower, it waits for them.
func (l *loader) send(ctx context.Context, o LoadOptions) {
	limit := rate.Inf
	if o.Rate > 0 {
		limit = rate.Limit(o.Rate)
	}
	pace := rate.NewLimiter(limit, 1)
	sending := ctx
	if o.Records == 0 {
		var cancel context.CancelFunc
		sending, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	var g errgroup.Group
	g.SetLimit(maxInFlight)
	for i := 0; o.Records == 0 || i < o.Records; i++ {
		if pace.Wait(sending) != nil || sending.Err() != nil {
			break
		}
		g.Go(func() error {
			l.submit(ctx, i)
			return nil
		})
	}
	_ = g.Wait() // none returns an error
}

// submit writes one record, at the next node where one is away or full.
func (l *loader) submit(stopping context.Context, i int) {
	draft, err := l.draft(i)
	if err != nil {
		l.record(0, false, err)
		return
	}
	l.mu.Lock()
	l.load.Sent++
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(stopping, commitLimit)
	defer cancel()
	begin := time.Now()
	for {
		node := l.nodes[l.next.Add(1)%uint64(len(l.nodes))]
		var r parley.Record
		path := fmt.Sprintf("records?ack=committed&timeout=%s", commitLimit)
		_, err := l.net.client(node.Name).Do(ctx, http.MethodPost, path, draft, &r)
		if err == nil && r.Status == "committed" {
			l.record(time.Since(begin), true, nil)
			return
		}
		if err == nil {
			l.record(0, false, fmt.Errorf("%s: record %s is %s after %s", node.Name, r.ID, r.Status, commitLimit))
			return
		}
		if !l.later(ctx, err) {
			if stopping.Err() != nil { // interrupted, not failed
				l.mu.Lock()
				l.load.Sent--
				l.mu.Unlock()
				return
			}
			l.record(0, false, fmt.Errorf("%s: %w", node.Name, err))
			return
		}
	}
}

// later waits a moment where trying again may help: a node is away, or full.
func (l *loader) later(ctx context.Context, err error) bool {
	var refused *Refusal
	if errors.As(err, &refused) && refused.Status != http.StatusTooManyRequests && refused.Status != http.StatusServiceUnavailable {
		return false
	}
	l.mu.Lock()
	l.load.Pushed++
	l.mu.Unlock()
	select {
	case <-time.After(retryAfter):
		return true
	case <-ctx.Done():
		return false
	}
}

// draft is a record whose body has exactly the size that was asked for.
func (l *loader) draft(i int) (*parley.Draft, error) {
	body := struct {
		Run  string `json:"run"`
		I    int    `json:"i"`
		Fill string `json:"fill"`
	}{Run: l.run, I: i}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	body.Fill = fill(l.size - len(b))
	if b, err = json.Marshal(body); err != nil {
		return nil, err
	}
	return &parley.Draft{Subject: fmt.Sprintf("load/%d", i%100), MediaType: "application/json", Body: b}, nil
}

// fill is text that does not compress to nothing.
func fill(n int) string {
	if n <= 0 {
		return ""
	}
	b := make([]byte, (n+8)/2)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(b)[:n]
}

func (l *loader) record(took time.Duration, committed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !committed {
		l.load.Failed++
		l.load.LastError = err.Error()
		return
	}
	l.load.Committed++
	l.longest = max(l.longest, took)
	if len(l.samples) < maxSamples {
		l.samples = append(l.samples, took)
	} else if j := rand.IntN(l.load.Committed); j < maxSamples {
		l.samples[j] = took
	}
}

func (l *loader) snapshot() Load {
	l.mu.Lock()
	load, samples, longest := l.load, slices.Clone(l.samples), l.longest
	l.mu.Unlock()
	load.Elapsed = time.Since(l.started)
	load.ElapsedS = load.Elapsed.Seconds()
	load.RecordsPS = float64(load.Committed) / load.ElapsedS
	slices.Sort(samples)
	load.P50MS, load.P99MS, load.MaxMS = ms(quantile(samples, 0.50)), ms(quantile(samples, 0.99)), ms(longest)
	return load
}

// quantile of sorted values: the smallest that at least q of them do not
// exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(float64(len(sorted))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
