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

	mu    sync.Mutex // guards crowd
	crowd *crowd
}

func newLobby(refused func(remote ma.Multiaddr, why string)) *lobby {
	return &lobby{refused: refused, crowd: newCrowd(maxLobby)}
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
	return c, e.lobby.enter(c, scope), nil
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
		if l.remove(place) {
			l.turnOut(c, "the transport's handshake: not done within "+lobbyTime.String())
		}
	})
	return &seat{ConnManagementScope: scope, leave: sync.OnceFunc(func() {
		late.Stop()
		l.remove(place)
	})}
}

// remove reports whether place was taken.
func (l *lobby) remove(place *list.Element) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.crowd.list.Len()
	l.crowd.remove(place)
	return l.crowd.list.Len() < n
}

func (l *lobby) turnOut(c net.Conn, why string) {
	if l.refused != nil {
		l.refused(c.(manet.Conn).RemoteMultiaddr(), why)
	}
	_ = c.Close() // its upgrade fails and frees the rest
}
