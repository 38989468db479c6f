package discovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	linger    = 20 * time.Second // an unused connection of ours may be asked again within that
	maxVisits = 256              // peers to whom we are connected only to ask
)

var (
	errNotReady   = errors.New("it is connected and no peer of ours")
	errManyVisits = fmt.Errorf("%d peers are being asked already", maxVisits)
)

// visits are the connections that discovery makes to ask somebody. They are
// closed soon after the last question, unless somebody else wants them.
type visits struct {
	d    *Discovery
	mu   sync.Mutex // guards below
	open map[peer.ID]*visit
}

type visit struct {
	users int
	ours  bool            // there was no connection before
	idle  time.Time       // since then without a user
	from  addrbook.Source // who told us of the peer
	over  bool            // we part
}

func newVisits(d *Discovery) *visits { return &visits{d: d, open: map[peer.ID]*visit{}} }

func (v *visits) connected(p peer.ID) bool {
	return v.d.host.Network().Connectedness(p) == network.Connected
}

// enter connects to a peer, where it is not yet, and keeps the connection until
// leave, which MUST be called after nil. Where there is no room, the one that was
// not asked for the longest time gives way. from tells how we heard of it.
func (v *visits) enter(ctx context.Context, info peer.AddrInfo, from addrbook.Source, needReady bool) error {
	v.mu.Lock()
	e := v.open[info.ID]
	var idle peer.ID
	if e != nil && e.over { // its connection goes: ours is a new one
		e = &visit{ours: true, from: from}
		v.open[info.ID] = e
	}
	if e == nil {
		if len(v.open) >= maxVisits {
			idle = v.longestIdle()
			delete(v.open, idle)
		}
		if len(v.open) >= maxVisits {
			v.mu.Unlock()
			return fmt.Errorf("visit %s: %w", info.ID, errManyVisits)
		}
		e = &visit{ours: !v.connected(info.ID), from: from}
		v.open[info.ID] = e
	}
	e.users++
	v.mu.Unlock()
	if idle != "" {
		v.part(ctx, idle)
	}
	err := v.reach(ctx, info, needReady)
	if err != nil {
		v.leave(info.ID)
	}
	return err
}

// again connects once more to a peer that is being visited, where the connection
// went meanwhile: it may have been one of theirs, who did not know that we ask.
func (v *visits) again(ctx context.Context, info peer.AddrInfo, needReady bool) bool {
	if v.connected(info.ID) {
		return false
	}
	v.mu.Lock()
	if e := v.open[info.ID]; e != nil {
		e.ours = true
	}
	v.mu.Unlock()
	return v.reach(ctx, info, needReady) == nil
}

// longestIdle is who was asked the longest ago and is not being asked; "" =
// nobody. The caller holds mu.
func (v *visits) longestIdle() (p peer.ID) {
	for id, e := range v.open {
		if e.users == 0 && !e.over && (p == "" || e.idle.Before(v.open[p].idle)) {
			p = id
		}
	}
	return p
}

func (v *visits) reach(ctx context.Context, info peer.AddrInfo, needReady bool) error {
	if !v.connected(info.ID) || needReady && !v.d.fns.Ready(info.ID) {
		if err := v.d.fns.Connect(ctx, info); err != nil {
			return fmt.Errorf("reach %s: %w", info.ID, err)
		}
	}
	if needReady && !v.d.fns.Ready(info.ID) {
		return fmt.Errorf("reach %s: %w", info.ID, errNotReady)
	}
	return nil
}

func (v *visits) leave(p peer.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.open[p]
	if e == nil {
		return
	}
	if e.users--; e.users == 0 {
		e.idle = time.Now()
		if !e.ours || !v.connected(p) {
			delete(v.open, p)
		}
	}
}

// cause tells how we heard of a peer to whom we connected ourselves.
func (v *visits) cause(p peer.ID) (addrbook.Source, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.open[p]; e != nil && e.ours {
		return e.from, true
	}
	return addrbook.Source{}, false
}

// Visits reports whether p is connected because we dialled it to ask it.
func (d *Discovery) Visits(p peer.ID) bool {
	_, ours := d.visits.cause(p)
	return ours
}

func (v *visits) run(ctx context.Context) {
	tick := time.NewTicker(linger / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			v.sweep(ctx, now)
		}
	}
}

// sweep parts with the peers whom nobody has asked for a while.
func (v *visits) sweep(ctx context.Context, now time.Time) {
	done := map[peer.ID]*visit{}
	v.mu.Lock()
	for p, e := range v.open {
		if e.users == 0 && !e.over && now.Sub(e.idle) >= linger {
			e.over = true
			done[p] = e
		}
	}
	v.mu.Unlock()
	for p, e := range done {
		v.part(ctx, p)
		v.mu.Lock()
		if v.open[p] == e {
			delete(v.open, p)
		}
		v.mu.Unlock()
	}
}

// part leaves a peer unless somebody wants it. Where it came to us as well, only
// our own way to it is closed.
func (v *visits) part(ctx context.Context, p peer.ID) {
	if v.d.fns.Wanted(p) {
		return
	}
	var ours []network.Conn
	conns := v.d.host.Network().ConnsToPeer(p)
	for _, c := range conns {
		if c.Stat().Direction == network.DirOutbound {
			ours = append(ours, c)
		}
	}
	if len(ours) == len(conns) && len(ours) > 0 {
		v.d.fns.Leave(ctx, p)
		return
	}
	for _, c := range ours {
		_ = c.Close()
	}
}

// closeAll parts with everybody whom we only asked.
func (v *visits) closeAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	v.mu.Lock()
	left := v.open
	v.open = map[peer.ID]*visit{}
	v.mu.Unlock()
	for p, e := range left {
		if e.ours {
			v.part(ctx, p)
		}
	}
}
