package swarmtest

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

// Load is clients that write records all the time and keep, outside the nodes,
// what they were told.
type Load struct {
	swarm   *Swarm
	journal *checker.Journal
	path    string
	ask     []*Node
	stop    context.CancelFunc
	ended   sync.WaitGroup

	mu      sync.Mutex // guards below
	answers map[checker.Kind]int
}

const patience = 10 * time.Second // of a client that waits for its block

// StartLoad lets that many clients write. Each asks another running node for
// each record, of those in ask if any, and waits up to pause between two of
// them. The chain is that of the last Genesis.
func (s *Swarm) StartLoad(clients int, pause time.Duration, ask ...*Node) *Load {
	s.T.Helper()
	if len(ask) == 0 {
		ask = s.nodes
	}
	l := &Load{swarm: s, ask: ask, path: filepath.Join(s.T.TempDir(), "journal.jsonl"), answers: map[checker.Kind]int{}}
	var err error
	if l.journal, err = checker.OpenJournal(l.path, false); err != nil {
		s.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.T.Context())
	l.stop = cancel
	for i := range clients {
		l.ended.Go(func() { l.client(ctx, i, pause) })
	}
	return l
}

// Stop lets the clients end, with what they wait for.
func (l *Load) Stop() {
	l.swarm.T.Helper()
	l.stop()
	l.ended.Wait()
}

// Told is what the clients were told. It is called after Stop, and ends the
// journal.
func (l *Load) Told() *checker.Told {
	l.swarm.T.Helper()
	if err := l.journal.Close(); err != nil {
		l.swarm.T.Fatal(err)
	}
	told, err := checker.ReadJournal(l.path)
	if err != nil {
		l.swarm.T.Fatal(err)
	}
	return told
}

func (l *Load) client(ctx context.Context, i int, pause time.Duration) {
	rnd := rand.New(rand.NewPCG(l.swarm.seed, uint64(i)+1000))
	seed := make([]byte, ed25519.SeedSize)
	seed[0], seed[1] = byte(i), 0xc1
	key := ed25519.NewKeyFromSeed(seed)
	for n := uint64(1); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(rnd.Int64N(int64(pause)))):
		}
		r := &consortium.Record{Nonce: n, Subject: fmt.Sprintf("client-%d/%d", i, n%17), MediaType: "text/plain", Body: make([]byte, rnd.IntN(200))}
		if rnd.IntN(20) == 0 {
			r.NotAfter = l.height() + uint64(rnd.IntN(4)) // some end before they are committed
		}
		r.Sign(key, l.swarm.genesis.Hash())
		ack := parley.Committed
		if rnd.IntN(2) == 0 {
			ack = parley.Accepted
		}
		l.write(l.ask[rnd.IntN(len(l.ask))], r, ack)
	}
}

// height is the highest head of a running node.
func (l *Load) height() (height uint64) {
	for _, n := range l.swarm.nodes {
		n.Use(func(p *parley.Node) {
			if c, err := p.Chain(); err == nil {
				height = max(height, c.Height)
			}
		})
	}
	return height
}

// write hands one record to n, when it runs, and keeps the answer.
func (l *Load) write(n *Node, r *consortium.Record, ack parley.Ack) {
	life := n.life.Load()
	if life == nil {
		return
	}
	done, ok := life.enter()
	if !ok {
		return
	}
	defer done()
	raw := r.Encode()
	e := checker.Entry{Kind: checker.Submit, Node: n.Name, ID: consortium.RecordID(raw)}
	l.keep(e)
	ctx, cancel := context.WithTimeout(l.swarm.T.Context(), patience)
	defer cancel()
	life.whenEnding(ctx, cancel)
	got, err := life.run.Submit(ctx, parley.Draft{Raw: hex.EncodeToString(raw)}, ack)
	refused, isRefused := errors.AsType[*consortium.RecordError](err)
	switch {
	case isRefused && checker.Final(refused.Reason):
		e.Kind, e.Reason = checker.Rejected, string(refused.Reason)
	case isRefused:
		e.Kind, e.Reason = checker.Refused, string(refused.Reason)
	case err != nil:
		e.Kind, e.Reason = checker.Unknown, err.Error()
	case got.Status == "committed":
		e.Kind, e.Height, e.Index, e.Block = checker.Committed, *got.Height, *got.Index, *got.BlockHash
	case got.Status == "pending":
		e.Kind = checker.Accepted
	case got.Status == "rejected":
		e.Kind, e.Reason = checker.Rejected, *got.Reason
	}
	life.tell(func() { l.keep(e) })
}

func (l *Load) keep(e checker.Entry) {
	l.mu.Lock()
	l.answers[e.Kind]++
	l.mu.Unlock()
	if err := l.journal.Write(e); err != nil {
		l.swarm.T.Error(err)
	}
}

// count is how often clients were answered so.
func (l *Load) count(k checker.Kind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[k]
}
