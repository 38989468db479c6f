package handshake

import (
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	strangerTimes = 5         // that a peer of another network may come …
	strangerSpan  = time.Hour // … within; each time more is spam
	maxStrangers  = 4_096     // peers that are counted
)

// strangers is when peers of other networks came lately, oldest first, at most
// the last strangerTimes of each.
type strangers map[peer.ID][]time.Time

// often notes that p came, and reports whether that was once too often.
func (s strangers) often(p peer.ID, now time.Time) bool {
	came := slices.DeleteFunc(s[p], func(at time.Time) bool { return now.Sub(at) >= strangerSpan })
	over := len(came) >= strangerTimes
	if over {
		came = came[1:]
	}
	if len(came) == 0 {
		s.makeRoom(now)
	}
	s[p] = append(came, now)
	return over
}

// makeRoom drops who did not come within the span, and of the others any: a
// name costs nothing, so who has many is not counted by it.
func (s strangers) makeRoom(now time.Time) {
	if len(s) < maxStrangers {
		return
	}
	for p, came := range s {
		if now.Sub(came[len(came)-1]) >= strangerSpan {
			delete(s, p)
		}
	}
	for p := range s {
		if len(s) < maxStrangers {
			return
		}
		delete(s, p)
	}
}

// strange charges p where it dialled us again and again though its network is
// another one. Whom we dial ourselves, that is our own doing.
func (s *Handshake) strange(c network.Conn, r *Refusal) {
	if c.Stat().Direction != network.DirInbound || r.Code != wire.WrongNetwork && r.Code != wire.WrongGenesis {
		return
	}
	p := c.RemotePeer()
	s.mu.Lock()
	often := s.strangers.often(p, time.Now())
	s.mu.Unlock()
	if often {
		s.rep.Penalize(p, chain.Spam, fmt.Sprintf("of another network, and here more than %d times within %s", strangerTimes, strangerSpan))
	}
}
