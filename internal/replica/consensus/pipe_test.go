package consensus

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// Open implements Opener.
func (n *testNode) Open(ctx context.Context, to peer.ID, protocol string) (chain.Stream, error) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	other := n.net.live[to]
	self := n.net.live[n.id]
	if other == nil || self != n || n.net.away[n] != n.net.away[other] || protocol != Protocol(n.net.genesis.Net()) {
		return nil, errors.New("not connected")
	}
	a, b := net.Pipe()
	var link net.Conn
	if n.net.delay == nil {
		link = a
	} else {
		link = slow(a, n.net.delay, &n.wg)
	}
	ours, theirs := &lossy{link, other, n.dumb, n}, b
	n.net.over[b] = [2]*testNode{n, other}
	other.wg.Go(func() {
		if other.unread {
			<-other.ctx.Done()
		} else {
			_ = other.engine.Handle(other.ctx, &pipe{theirs, n.id})
		}
		_ = theirs.Close()
		n.net.mu.Lock()
		defer n.net.mu.Unlock()
		delete(n.net.over, b)
	})
	return &pipe{ours, to}, nil
}

// lossy is the end of a pipe to a node that may be deaf, of one that may be dumb.
type lossy struct {
	net.Conn
	to   *testNode
	dumb *atomic.Bool
	from *testNode
}

func (l *lossy) Write(b []byte) (int, error) {
	if l.to.deaf.Load() || l.dumb.Load() {
		return len(b), nil
	}
	if l.from.twist == nil || len(b) < 2 {
		return l.Conn.Write(b)
	}
	frame, err := wire.ReadFrame(bytes.NewReader(b), len(b))
	m := &smartbftprotos.Message{}
	if err == nil {
		err = proto.Unmarshal(frame, m)
	}
	if err != nil {
		return 0, err
	}
	if m = l.from.twist(l.to, m); m == nil {
		return len(b), nil
	}
	if frame, err = proto.Marshal(m); err != nil {
		return 0, err
	}
	return len(b), wire.WriteFrame(l.Conn, frame)
}

type pipe struct {
	net.Conn
	peer peer.ID
}

func (p *pipe) Peer() peer.ID     { return p.peer }
func (p *pipe) CloseWrite() error { return p.Close() }
func (p *pipe) Reset() error      { return p.Close() }

// reachable are the running nodes on this side of a partition.
func (n *testNode) reachable() []*testNode {
	up := n.net.running()
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return slices.DeleteFunc(up, func(o *testNode) bool { return n.net.away[n] != n.net.away[o] })
}
