package dialer

import (
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	poisonShare  = .5  // of new, by one source group
	poisonFrom   = 256 // entries of new: a small book has one teller
	poisonGroups = 8   // that they claim to be in: a site has few
	skewMost     = 2 * time.Second
	skewPeers    = 3 // outbound ones whose clocks are heard; fewer say nothing of ours
	unseenAfter  = time.Minute
	unseenPeers  = 2 // that gossip and could; one may be at fault itself
	gossipPrefix = "/meshsub/"
)

// poisoned raises and clears the alarm that one part of the network told of most
// of the new peers. Whom the configuration named to be asked is left out.
func (s *Slots) poisoned() {
	st := s.book.Stats()
	is := st.New >= poisonFrom && st.NewGroups >= poisonGroups && st.SourceShare > poisonShare && !strings.HasPrefix(st.SourceGroup, "kind:")
	s.fns.Alarms.Set(alarmPoisoned, is, "one source group told of most of the new peers in the address book", map[string]any{
		"group": st.SourceGroup, "share": st.SourceShare, "new": st.New, "groups": st.NewGroups,
	})
}

// announced raises and clears the alarm that most peers do not know that we
// gossip: who does has opened a stream for it to us.
func (s *Slots) announced(peers map[peer.ID]Peer, now time.Time) {
	could, knows := 0, 0
	h := s.dial.host
	if h != nil && slices.ContainsFunc(h.Mux().Protocols(), gossips) {
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
	s.fns.Alarms.Set(alarmUnknown, could >= unseenPeers && 2*knows < could, "most peers do not know that this node gossips: restart it", map[string]any{
		"peers": could, "know": knows,
	})
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
