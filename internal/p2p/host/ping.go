package host

import (
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"golang.org/x/time/rate"
)

const (
	pingTime  = 30 * time.Second // of one stream
	pingRate  = 4                // answers a second
	pingBurst = 4
)

// pinger answers pings, to each peer on one stream at a time and a few a second.
// The library's own answers strangers as fast as they ask, on two streams each,
// and is the dearest thing that they can ask for.
type pinger struct {
	mu   sync.Mutex // guards busy
	busy map[peer.ID]struct{}
}

func (p *pinger) handle(st network.Stream) {
	defer st.Reset() //nolint:errcheck // whatever became of it
	from := st.Conn().RemotePeer()
	p.mu.Lock()
	_, second := p.busy[from]
	p.busy[from] = struct{}{}
	p.mu.Unlock()
	if second {
		return
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.busy, from)
	}()
	_ = st.SetDeadline(time.Now().Add(pingTime))
	allowed := rate.NewLimiter(pingRate, pingBurst)
	var b [ping.PingSize]byte
	for {
		if _, err := io.ReadFull(st, b[:]); err != nil {
			return
		}
		if wait := allowed.Reserve().Delay(); wait > 0 {
			<-time.After(wait) // at most a quarter of a second
		}
		if _, err := st.Write(b[:]); err != nil {
			return
		}
	}
}
