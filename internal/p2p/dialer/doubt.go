package dialer

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	poisonShare  = .5  // of new, by one source group
	poisonFrom   = 256 // entries of new: a small book has one teller
	poisonGroups = 8   // that they claim to be in: a site has few
	deadShare    = .3  // of tried, where tests of the book met nobody …
	deadWithin   = time.Hour
	deadFrom     = 8 // … and fewer of them say nothing
	skewMost     = 2 * time.Second
	skewPeers    = 3           // outbound ones whose clocks are heard; fewer say nothing of ours
	unseenAfter  = time.Minute // after that it counts; and how often they are told again
	unseenPeers  = 2           // that gossip and could; one may be at fault itself
	gossipPrefix = "/meshsub/"
	renewAgain   = 15 * time.Minute // pubsub opens a stream anew four times within ten
)

// tested notes what became of a look at a peer of tried that a newcomer wants
// to replace. What fails while nobody is connected may be our own line.
func (s *Slots) tested(h *hold, class Class, now time.Time) {
	switch {
	case !h.test || h.alone:
	case class == "":
		delete(s.dead, h.id)
	default:
		s.dead[h.id] = now
	}
}

// poisoned raises and clears the alarm that one part of the network told of most
// of the new peers, or that newcomers push at the places of proven peers of whom
// many are not there any more. Whom the configuration named to be asked is left
// out.
func (s *Slots) poisoned(now time.Time) {
	maps.DeleteFunc(s.dead, func(_ peer.ID, at time.Time) bool { return now.Sub(at) >= deadWithin })
	st := s.book.Stats()
	one := st.New >= poisonFrom && st.NewGroups >= poisonGroups && st.SourceShare > poisonShare && !strings.HasPrefix(st.SourceGroup, "kind:")
	gone := len(s.dead) >= deadFrom && float64(len(s.dead)) > deadShare*float64(st.Tried)
	text := "one source group told of most of the new peers in the address book"
	if gone {
		text = "many of the proven peers in the address book are gone, and new ones press for their places"
	}
	s.fns.Alarms.Set(alarmPoisoned, one || gone, text, map[string]any{
		"group": st.SourceGroup, "share": st.SourceShare, "new": st.New, "groups": st.NewGroups, "tried": st.Tried, "gone": len(s.dead),
	})
}

// announced raises and clears the alarm that most peers do not know that we
// gossip: who does has opened a stream for it to us. They are told our protocols
// again each minute. Who knows them and has given us up listens only to what is
// new: so the second time gossip is renewed.
func (s *Slots) announced(peers map[peer.ID]Peer, now time.Time) {
	could, knows := 0, 0
	h := s.dial.host
	switch serves := h != nil && slices.ContainsFunc(h.Mux().Protocols(), gossips); {
	case !serves && now.Sub(s.renewedAt) < unseenAfter:
		return // it is being renewed
	case serves:
		for id, p := range peers {
			theirs, err := h.Peerstore().GetProtocols(id)
			if err != nil || !p.Ready || now.Sub(p.ConnectedAt) < unseenAfter || !slices.ContainsFunc(theirs, gossips) {
				continue
			}
			could++
			if slices.ContainsFunc(h.Network().ConnsToPeer(id), gossipsToUs) {
				knows++
			}
		}
	}
	unknown := could >= unseenPeers && 2*knows < could
	s.fns.Alarms.Set(alarmUnknown, unknown, "most peers do not know that this node gossips", map[string]any{
		"peers": could, "know": knows,
	})
	switch {
	case !unknown:
		s.told = false
	case now.Sub(s.toldAt) < unseenAfter:
	case s.told && s.fns.Renew != nil && now.Sub(s.renewedAt) >= renewAgain:
		s.toldAt, s.renewedAt = now, now
		s.fns.Renew()
	default:
		s.toldAt, s.told = now, true
		s.tellAgain()
	}
}

// tellAgain has identify look at our protocols anew, and tell every peer where
// they are not what it told last.
func (s *Slots) tellAgain() {
	e, err := s.dial.host.EventBus().Emitter(new(levent.EvtLocalProtocolsUpdated))
	if err == nil {
		err = errors.Join(e.Emit(levent.EvtLocalProtocolsUpdated{}), e.Close())
	}
	if err != nil {
		s.log.Warn("the protocols of this node are not told again", "err", err)
	}
}

func gossips[P ~string](p P) bool { return strings.HasPrefix(string(p), gossipPrefix) }

func gossipsToUs(c network.Conn) bool {
	return slices.ContainsFunc(c.GetStreams(), func(s network.Stream) bool {
		return s.Stat().Direction == network.DirInbound && gossips(s.Protocol())
	})
}

// clocks raises and clears the alarm that our clock is not that of the peers
// whom we dialled. Those who dialled us could all be one.
func (s *Slots) clocks(peers map[peer.ID]Peer) {
	var ahead []time.Duration
	for _, p := range peers {
		if p.Ready && !p.Inbound {
			ahead = append(ahead, p.Ahead)
		}
	}
	median := time.Duration(0)
	if len(ahead) >= skewPeers {
		slices.Sort(ahead)
		median = ahead[len(ahead)/2]
	}
	s.fns.Alarms.Set(alarmSkew, median.Abs() > skewMost, "the clocks of most peers differ from ours: check NTP on this machine", map[string]any{
		"ahead_s": median.Seconds(), "peers": len(ahead),
	})
}
