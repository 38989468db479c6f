package history

import (
	"cmp"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// Kinds of an entry.
const (
	Connected    = "connected" // and its handshake ended well
	Disconnected = "disconnected"
	Refused      = "refused"
)

const placeHandshake = "handshake" // of a refusal: the connection still ends

const maxText = 256 // bytes of an address or a reason, which may be a peer's words

// Entry is one thing that happened with one connection.
type Entry struct {
	Seq       uint64
	At        time.Time
	Event     string  // connected | disconnected | refused
	Peer      peer.ID // "" = refused before it was known
	Direction string  // inbound | outbound
	Addr      string
	Name      string // as the peer calls itself, of a connected one
	By        string // us | them: who ended or refused it
	Reason    string // in words
	Goodbye   uint64 // code as received, 0 = none came
	Duration  time.Duration

	familiar bool // its handshake ended well
}

// goodbyes are the reasons of peers that give no words of their own.
var goodbyes = map[uint64]string{
	wire.GoodbyeShutdown: "the peer stops", wire.GoodbyeWrongNetwork: "wrong network", wire.GoodbyeFault: "the peer found a fault",
	wire.GoodbyeTooManyPeers: "the peer has too many peers", wire.GoodbyeBadScore: "the peer holds our score to be too bad",
	wire.GoodbyeBanned: "the peer has banned us",
}

// maxRefused is how many refusals wait for the end of their connection.
const maxRefused = 1024

// follow keeps who is connected and familiar, and who was refused in a
// handshake and is still connected. Only the loop uses it.
type follow struct{ familiar, refused map[peer.ID]struct{} }

func newFollow() follow {
	return follow{familiar: map[peer.ID]struct{}{}, refused: map[peer.ID]struct{}{}}
}

// entry makes an entry of an event; ok is false for one that is none.
func (f follow) entry(e event.Envelope) (v Entry, ok bool) {
	switch d := e.Data.(type) {
	case event.PeerReady:
		f.familiar[d.Peer] = struct{}{}
		delete(f.refused, d.Peer)
		v = Entry{Event: Connected, Peer: d.Peer, Direction: d.Direction, Addr: d.Addr, Name: bounded(d.Name), familiar: true}
	case event.PeerDisconnected:
		_, familiar := f.familiar[d.Peer]
		_, refused := f.refused[d.Peer]
		delete(f.familiar, d.Peer)
		delete(f.refused, d.Peer)
		if refused && !familiar {
			return v, false // the refusal told of it, and why
		}
		v = Entry{
			Event: Disconnected, Peer: d.Peer, Direction: d.Direction, Addr: d.Addr, By: d.By, Goodbye: d.Goodbye,
			Duration: time.Duration(d.DurationS * float64(time.Second)), familiar: familiar,
		}
		v.Reason = cmp.Or(d.Reason, d.Text, goodbyes[d.Goodbye], "the connection broke, no goodbye came")
	case event.PeerRefused:
		_, familiar := f.familiar[d.Peer]
		if d.Place == placeHandshake && d.Peer != "" && len(f.refused) < maxRefused {
			f.refused[d.Peer] = struct{}{}
		}
		v = Entry{Event: Refused, Peer: d.Peer, Direction: d.Direction, Addr: d.Addr, By: d.By, Reason: d.Reason, familiar: familiar}
	default:
		return v, false
	}
	v.At = e.TS
	v.Addr, v.Reason = bounded(v.Addr), bounded(v.Reason)
	return v, true
}

func bounded(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "")
}
