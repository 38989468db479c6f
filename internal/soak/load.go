package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/devnet"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

const (
	commitWait = 5 * time.Second // for a committed answer; then it says accepted
	answerWait = commitWait + 3*time.Second
	retryWait  = 50 * time.Millisecond
	tries      = 3  // of one record
	remembered = 50 // committed records of a client that it may hand in again
	maxBody    = 700
)

// load is clients that write records and keep a journal of what they were told.
type load struct {
	lab     *lab
	journal *checker.Journal
	head    func() uint64
	accept  bool  // hold the nodes to answers "accepted" too
	fragile *node // its disk does not survive the round, so its "accepted" promises nothing
	nonce   atomic.Uint64

	submitted, accepted, committed, rejected, refused, unknown atomic.Int64

	mu     sync.Mutex // guards below
	err    error      // of the journal: without it a round proves nothing
	ids    []chain.Hash
	sample []checker.Entry // committed answers
	seen   int             // of which sample is
}

// client writes one record after the other. It is for one goroutine.
type client struct {
	*load
	rand *rand.Rand
	key  ed25519.PrivateKey
	asks []*node  // the nodes that it asks
	old  []record // committed ones
}

type record struct {
	raw string // hex
	id  chain.Hash
}

// run writes with some clients until ctx ends, and returns when all have their
// answers.
func (l *load) run(ctx context.Context, clients int, seed uint64) error {
	var wg sync.WaitGroup
	for i := range clients {
		var s [ed25519.SeedSize]byte
		r := rand.New(rand.NewPCG(seed, uint64(i)+1000))
		for j := range s {
			s[j] = byte(r.Uint32())
		}
		c := &client{load: l, rand: r, key: ed25519.NewKeyFromSeed(s[:]), asks: l.lab.nodes}
		if i%2 == 0 { // a follower without a connection must not keep all clients waiting
			c.asks = l.lab.validators()
		}
		wg.Go(func() { c.run(ctx) })
	}
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		switch p := c.rand.IntN(100); {
		case p < 2 && len(c.old) > 0: // once more, what is on the chain
			c.ask(ctx, c.pick(), c.old[c.rand.IntN(len(c.old))], parley.Committed)
		case p < 5: // at two nodes at once
			r := c.sign()
			a, b := c.pick(), c.pick()
			var wg sync.WaitGroup
			wg.Go(func() { c.ask(ctx, a, r, parley.Committed) })
			wg.Go(func() { c.ask(ctx, b, r, parley.Committed) })
			wg.Wait()
		default:
			c.write(ctx)
		}
		sleep(ctx, time.Duration(5+c.rand.IntN(40))*time.Millisecond)
	}
}

// write hands in a new record, at other nodes where one gives no good answer.
func (c *client) write(ctx context.Context) {
	r := c.sign()
	ack := parley.Committed
	if c.accept && c.rand.IntN(2) == 0 {
		ack = parley.Accepted
	}
	for range tries {
		n := c.pick()
		if n == c.fragile {
			ack = parley.Committed
		}
		switch c.ask(ctx, n, r, ack) {
		case checker.Committed:
			if c.old = append(c.old, r); len(c.old) > remembered {
				c.old = slices.Delete(c.old, 0, 1)
			}
			return
		case checker.Accepted, checker.Rejected:
			return
		}
		if c.rand.IntN(4) == 0 { // this client gives up: the record may come or not
			return
		}
		sleep(ctx, retryWait)
		if ctx.Err() != nil {
			return
		}
	}
}

// pick prefers nodes that run, as clients do that get no answer.
func (c *client) pick() *node {
	n := c.asks[c.rand.IntN(len(c.asks))]
	if !n.up() && c.rand.IntN(10) > 0 {
		n = c.asks[c.rand.IntN(len(c.asks))]
	}
	return n
}

// sign makes a record; some can be committed for a few blocks only.
func (c *client) sign() record {
	body := make([]byte, 16+c.rand.IntN(maxBody))
	for i := range body {
		body[i] = byte(c.rand.Uint32())
	}
	nonce := c.nonce.Add(1)
	r := &consortium.Record{Nonce: nonce, Subject: fmt.Sprintf("soak/%d", nonce%100), MediaType: "application/octet-stream", Body: body}
	if c.rand.IntN(20) == 0 {
		r.NotAfter = c.head() + 1 + uint64(c.rand.IntN(5))
	}
	r.Sign(c.key, c.lab.genesis)
	raw := r.Encode()
	id := consortium.RecordID(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids = append(c.ids, id)
	return record{raw: hex.EncodeToString(raw), id: id}
}

// pending lists records that a node says are waiting, and what the others say
// of them.
func (l *load) pending(ctx context.Context, most int) (lines []string) {
	l.mu.Lock()
	ids := slices.Clone(l.ids)
	l.mu.Unlock()
	for _, id := range ids {
		var said []string
		waits := false
		for _, n := range l.lab.nodes {
			var r parley.Record
			var text string
			if _, err := n.get(ctx, "records/"+id.String(), &r); err != nil {
				text = err.Error()
			} else if text = r.Status; r.Height != nil {
				text += fmt.Sprintf(" at %d", *r.Height)
			}
			waits = waits || r.Status == "pending"
			said = append(said, n.name+": "+text)
		}
		if waits {
			lines = append(lines, fmt.Sprintf("%s %s", id, strings.Join(said, "; ")))
		}
		if len(lines) == most || ctx.Err() != nil {
			break
		}
	}
	return lines
}

// ask hands a record to a node and keeps in the journal what it answers. A
// load that ends waits for the answer.
func (c *client) ask(ctx context.Context, n *node, r record, ack parley.Ack) checker.Kind {
	c.note(checker.Entry{Kind: checker.Submit, Node: n.name, ID: r.id})
	c.submitted.Add(1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWait)
	defer cancel()
	var got parley.Record
	path := fmt.Sprintf("records?ack=%s&timeout=%s", ack, commitWait)
	status, err := n.api.Do(ctx, http.MethodPost, path, parley.Draft{Raw: r.raw}, &got)
	e := judge(status, err, got)
	e.Node, e.ID = n.name, r.id
	if e.Kind == checker.Accepted && (n == c.fragile || !c.accept) {
		e.Kind, e.Reason = checker.Unknown, "accepted, which this round or this node's disk is not held to"
	}
	c.count(e.Kind).Add(1)
	c.note(e)
	if e.Kind == checker.Committed {
		c.mu.Lock()
		c.keepSample(e, rand.IntN)
		c.mu.Unlock()
	}
	return e.Kind
}

func (c *client) count(k checker.Kind) *atomic.Int64 {
	switch k {
	case checker.Committed:
		return &c.committed
	case checker.Accepted:
		return &c.accepted
	case checker.Rejected:
		return &c.rejected
	case checker.Refused:
		return &c.refused
	}
	return &c.unknown
}

// judge says what an answer promises.
func judge(status int, err error, got parley.Record) checker.Entry {
	var no *devnet.Refusal
	switch {
	case errors.As(err, &no) && status == http.StatusGone:
		return checker.Entry{Kind: checker.Rejected, Reason: no.Reason}
	case errors.As(err, &no) && status >= http.StatusInternalServerError && no.Reason == "":
		return checker.Entry{Kind: checker.Unknown, Reason: no.Error()}
	case errors.As(err, &no):
		return checker.Entry{Kind: checker.Refused, Reason: no.Error()}
	case err != nil:
		return checker.Entry{Kind: checker.Unknown, Reason: err.Error()}
	case got.Status == "committed" && got.Height != nil && got.Index != nil && got.BlockHash != nil:
		return checker.Entry{Kind: checker.Committed, Height: *got.Height, Index: *got.Index, Block: *got.BlockHash}
	case got.Status == "pending":
		return checker.Entry{Kind: checker.Accepted}
	}
	return checker.Entry{Kind: checker.Unknown, Reason: fmt.Sprintf("answer %d with status %q", status, got.Status)}
}

func (l *load) note(e checker.Entry) {
	if err := l.journal.Write(e); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = errors.Join(l.err, err)
	}
}
