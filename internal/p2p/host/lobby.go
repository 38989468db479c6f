package host

import (
	"container/list"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	maxLobby  = 64              // inbound connections over TCP in the handshake of the transport
	lobbyTime = 5 * time.Second // for that handshake; the library gives it 15 s and any number
)

// lobby is the inbound connections over TCP between their arrival and the end
// of the transport's handshake. The library bounds how long each may take; who
// holds many of them could keep everybody else out for that time.
type lobby struct {
	refused func(remote ma.Multiaddr, why string)
	greets  bool // what leaves carries earlyBytes until its peer has greeted

	mu    sync.Mutex // guards crowd
	crowd *crowd
}

func newLobby(refused func(remote ma.Multiaddr, why string), greets bool) *lobby {
	return &lobby{refused: refused, greets: greets, crowd: newCrowd(maxLobby)}
}

// guard has all that u accepts pass through the lobby.
func (l *lobby) guard(u transport.Upgrader) transport.Upgrader { return lobbyUpgrader{u, l} }

type lobbyUpgrader struct {
	transport.Upgrader
	lobby *lobby
}

// UpgradeGatedMaListener implements [transport.Upgrader].
func (u lobbyUpgrader) UpgradeGatedMaListener(t transport.Transport, l transport.GatedMaListener) transport.Listener {
	return &lobbyExit{u.Upgrader.UpgradeGatedMaListener(t, &lobbyEntry{l, u.lobby})}
}

// UpgradeListener implements [transport.Upgrader].
func (u lobbyUpgrader) UpgradeListener(t transport.Transport, l manet.Listener) transport.Listener {
	return u.UpgradeGatedMaListener(t, u.GateMaListener(l))
}

// lobbyEntry yields connections with a seat in the lobby.
type lobbyEntry struct {
	transport.GatedMaListener
	lobby *lobby
}

// Accept implements [transport.GatedMaListener].
func (e *lobbyEntry) Accept() (manet.Conn, network.ConnManagementScope, error) {
	c, scope, err := e.GatedMaListener.Accept()
	if err != nil {
		return nil, nil, err
	}
	s := e.lobby.enter(c, scope)
	if e.lobby.greets {
		s.early = &earlyConn{Conn: c, left: earlyBytes, over: func() {
			if e.lobby.refused != nil {
				e.lobby.refused(c.RemoteMultiaddr(), errEarly.Error())
			}
		}}
		c = s.early
	}
	return c, s, nil
}

// lobbyExit yields connections whose handshake is done.
type lobbyExit struct{ transport.Listener }

// Accept implements [transport.Listener].
func (e *lobbyExit) Accept() (transport.CapableConn, error) {
	c, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if s, ok := c.Scope().(*seat); ok {
		s.leave()
	}
	return c, nil
}

// seat is the scope of a connection that is, or was, in the lobby.
type seat struct {
	network.ConnManagementScope
	leave func()
	early *earlyConn // nil where peers do not greet
}

// Done implements [network.ConnManagementScope].
func (s *seat) Done() {
	s.leave()
	s.ConnManagementScope.Done()
}

// enter seats c, closes it when its time is over, and closes another one where
// the lobby is full.
func (l *lobby) enter(c manet.Conn, scope network.ConnManagementScope) *seat {
	l.mu.Lock()
	place, out := l.crowd.add(c)
	l.mu.Unlock()
	if out != nil {
		l.turnOut(out, "the transport's handshake: too many are under way")
	}
	late := time.AfterFunc(lobbyTime, func() {
		l.mu.Lock()
		still := l.crowd.fail(place)
		l.mu.Unlock()
		if still {
			l.turnOut(c, "the transport's handshake: not done within "+lobbyTime.String())
		}
	})
	return &seat{ConnManagementScope: scope, leave: sync.OnceFunc(func() {
		late.Stop()
		l.remove(place)
	})}
}

func (l *lobby) remove(place *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.crowd.remove(place)
}

func (l *lobby) turnOut(c net.Conn, why string) {
	if l.refused != nil {
		l.refused(c.(manet.Conn).RemoteMultiaddr(), why)
	}
	_ = c.Close() // its upgrade fails and frees the rest
}
