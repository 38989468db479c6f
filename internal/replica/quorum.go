package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/parley-p2p/parley/consortium"
)

// NoQuorum is the title of the finding that nothing is committed.
const NoQuorum = "no_quorum"

const (
	quorumEvery = 2 * time.Second
	// quorumGrace is how long too few validators are borne in silence: some
	// are started after others.
	quorumGrace = 10 * time.Second
)

// quorum watches whether enough validators are connected to commit anything.
type quorum struct {
	height uint64    // of the tip when it was last looked at
	since  time.Time // when there were too few first, zero while there are enough
}

// look finds out at now. A chain that goes on is proof that there are enough,
// whoever is connected to this node.
func (q *quorum) look(now time.Time, connected int, set *consortium.ValidatorSet, height uint64) Finding {
	f := Finding{Code: "PLY-604", Title: NoQuorum, Severity: severityOK}
	moved := height != q.height
	q.height = height
	switch {
	case moved || connected >= set.Quorum():
		q.since = time.Time{}
	case q.since.IsZero():
		q.since = now
	}
	if q.since.IsZero() || now.Sub(q.since) < quorumGrace {
		f.Why = "enough validators are connected again"
		return f
	}
	f.Severity = severityWarn // records are accepted and reads go on
	f.Why = fmt.Sprintf("%d of %d validators are connected, %d needed: records are accepted and reads go on, but nothing is committed and the validators can not be changed until more are back; start them, or mend their network: see parley chain validators",
		connected, set.Len(), set.Quorum())
	return f
}

// watchQuorum looks until ctx ends.
func (w *running) watchQuorum(ctx context.Context) error {
	tick := time.NewTicker(quorumEvery)
	defer tick.Stop()
	var q quorum
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			tip := w.ledger.Tip()
			w.findings.set(q.look(now, w.connected(tip.Config), tip.Set, tip.Head.Height))
		}
	}
}

// connected counts the validators that this node sees, itself among them.
func (w *running) connected(c *consortium.Config) int {
	n := 0
	ready := w.heads()
	for _, v := range c.Validators {
		id, err := v.Key.PeerID()
		if _, ok := ready[id]; err == nil && ok || v.Key == w.self {
			n++
		}
	}
	return n
}
