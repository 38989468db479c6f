package parley

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// Errors of changes by hand; the first is the caller's fault, the second says
// that the state of things is against it.
var (
	ErrBadPeer      = errors.New("bad peer")
	ErrPeerConflict = errors.New("not possible as things stand")
)

// DialError says why a connection by hand came to nothing; its Class is that of
// a static peer.
type DialError = dialer.DialError

const (
	addWait     = 5 * time.Second // for what is added to show who it is
	addLook     = 20 * time.Millisecond
	byHandWords = "the operator disconnected"
)

// AddedPeer is a static peer that was just added, as far as it came.
type AddedPeer struct {
	ID        peer.ID `json:"id,omitempty"` // absent = not known yet
	Item      string  `json:"item"`
	State     string  `json:"state"` // connected | trying | paused
	Class     string  `json:"class,omitempty"`
	LastError string  `json:"last_error,omitempty"`
	Note      string  `json:"note,omitempty"` // what the operator should know
}

// RemovedPeer tells what the removal of a peer did.
type RemovedPeer struct {
	ID    peer.ID  `json:"id,omitempty"`   // absent = none was met yet, or several were
	Items []string `json:"items"`          // static peers that are none any more
	Note  string   `json:"note,omitempty"` // what the operator should know
}

// PeerNote is a peer after a change, with what the operator should know.
type PeerNote struct {
	Peer
	Note string `json:"note,omitempty"`
}

// PeerDetail is all about one peer.
type PeerDetail struct {
	Peer
	Protocols  []string      `json:"protocols"`
	Addresses  []string      `json:"addresses"` // all that are known here
	Streams    []PeerStreams `json:"streams"`
	Reputation Reputation    `json:"reputation"`
	Supervisor *StaticPeer   `json:"static_peer,omitempty"` // how trying goes, of one that is kept
}

// PeerStreams counts the open streams of one protocol.
type PeerStreams struct {
	Protocol string `json:"protocol"`
	In       int    `json:"in"`
	Out      int    `json:"out"`
}

// Reputation is how a peer behaved.
type Reputation = reputation.Score

// HistoryEntry is one thing that happened with a connection.
type HistoryEntry struct {
	At        time.Time `json:"at"`
	Event     string    `json:"event"`          // connected | disconnected | refused
	Peer      peer.ID   `json:"peer,omitempty"` // absent = refused before it was known
	Direction string    `json:"direction"`
	Addr      string    `json:"addr"`
	By        string    `json:"by"`     // us | them: who ended or refused it
	Reason    string    `json:"reason"` // in words
	Goodbye   uint64    `json:"goodbye"`
	DurationS float64   `json:"duration_s"`

	Seq uint64 `json:"-"` // where to go on
}

// peerFault makes errors of the dialer those of the face.
func peerFault(what string, err error) error {
	var dial *DialError
	switch {
	case err == nil, errors.As(err, &dial), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, dialer.ErrDouble), errors.Is(err, dialer.ErrMember), errors.Is(err, dialer.ErrSeveral), errors.Is(err, dialer.ErrFull):
		return fmt.Errorf("%s: %w: %w", what, ErrPeerConflict, err)
	case errors.Is(err, dialer.ErrNotStatic):
		return fmt.Errorf("%s: %w: it is neither connected nor a static peer", what, ErrNotFound)
	}
	return err
}

// parseTarget reads an address in the form of a static peer.
func parseTarget(text string) (item string, id peer.ID, err error) {
	text = strings.TrimSpace(text)
	if item, err = config.ParsePeer(text); err != nil {
		return "", "", fmt.Errorf("%w: %q %w", ErrBadPeer, text, err)
	}
	if strings.HasPrefix(item, "/") {
		addr, err := multiaddr.NewMultiaddr(item)
		if err != nil {
			return "", "", fmt.Errorf("%w: %q: %w", ErrBadPeer, text, err)
		}
		_, id = peer.SplitAddr(addr)
	}
	return item, id, nil
}

// AddPeer makes what address names a static peer, over restarts too, and with
// trusted, for which the address must end in /p2p/ID, a trusted one. It waits
// up to 5 s for the first attempt to end.
func (n *Node) AddPeer(ctx context.Context, address string, trusted bool) (AddedPeer, error) {
	item, id, err := parseTarget(address)
	if err != nil {
		return AddedPeer{}, err
	}
	if trusted && id == "" {
		return AddedPeer{}, fmt.Errorf("%w: %q names no peer id to trust: give /ip4/…/tcp/PORT/p2p/ID, or trust the peer by its id once it is connected", ErrBadPeer, address)
	}
	if err := n.dial.Add(item); errors.Is(err, dialer.ErrSelf) {
		return AddedPeer{}, fmt.Errorf("%w: %q: %w", ErrBadPeer, address, err)
	} else if err != nil {
		return AddedPeer{}, peerFault(item, err)
	}
	if trusted {
		if err := n.dial.Trust(id); err != nil {
			return AddedPeer{}, peerFault(item, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, addWait)
	defer cancel()
	tick := time.NewTicker(addLook)
	defer tick.Stop()
	for {
		s, ok := n.dial.Find(item)
		switch {
		case !ok:
			return AddedPeer{}, fmt.Errorf("%s: %w: it was removed again", item, ErrPeerConflict)
		case s.Class == dialer.ClassSelf:
			_, err := n.dial.Remove(item)
			return AddedPeer{}, errors.Join(fmt.Errorf("%w: %q is this node itself", ErrBadPeer, address), err)
		case s.State == dialer.Connected, s.Tries > 0, ctx.Err() != nil:
			return AddedPeer{ID: s.ID, Item: s.Item, State: string(s.State), Class: string(s.Class), LastError: s.LastError}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// RemovePeer ends that a peer, in the forms of [Node.FindPeer], or a static
// peer, by its text, is kept, and closes the connection.
func (n *Node) RemovePeer(ctx context.Context, what string) (RemovedPeer, error) {
	out := RemovedPeer{Items: []string{}}
	r, err := n.dial.Remove(what)
	if errors.Is(err, dialer.ErrNotStatic) {
		id, ferr := n.FindPeer(what, false)
		if ferr != nil {
			return out, ferr
		}
		out.ID = id
		r, err = n.dial.Remove(id.String())
	}
	connected, is := n.Peer(out.ID)
	switch {
	case errors.Is(err, dialer.ErrNotStatic) && is:
		n.leave(ctx, out.ID, byHandWords)
		out.Note = strings.Join(comesBack(connected), "; ")
		return out, nil
	case err != nil:
		return out, peerFault(what, err)
	}
	out.Items = append(out.Items, r.Items...)
	var notes []string
	for _, id := range r.Peers {
		if n.dial.Has(id) {
			continue
		}
		p, is := n.Peer(id)
		n.leave(ctx, id, byHandWords)
		if is {
			notes = append(notes, comesBack(p)...)
		}
	}
	if len(r.Peers) == 1 {
		out.ID = r.Peers[0]
	}
	if len(r.Config) > 0 {
		notes = append(notes, fmt.Sprintf("%s is in the configuration: it stays away until the next start; take it out of p2p.static_peers (PEERS) to keep it away", strings.Join(r.Config, ", ")))
	}
	if r.Member {
		notes = append(notes, "the peer is a member of the network as well, and stays connected as one")
	}
	out.Note = strings.Join(notes, "; ")
	return out, nil
}

// leave says goodbye to p, where it is connected, and keeps our slots from
// taking it up again for a while.
func (n *Node) leave(ctx context.Context, p peer.ID, why string) {
	n.dial.Leave(p)
	n.shake.Disconnect(ctx, p, wire.GoodbyeShutdown, why)
}

// comesBack says how to keep a peer away that was just disconnected, if it came
// by itself.
func comesBack(p Peer) []string {
	if p.Direction != "inbound" {
		return nil
	}
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		host = p.Addr
	}
	return []string{fmt.Sprintf("it had dialled this node and may do so again: to keep it out, have this node taken out of its PEERS, or block %s in the firewall", host)}
}

// ConnectPeer connects once with a peer, in the forms of [Node.FindPeer] or by
// an address in the form of a static peer. It returns when the peer is ready,
// within 30 s. A dial that fails is a *[DialError].
func (n *Node) ConnectPeer(ctx context.Context, target string) (PeerNote, error) {
	began := time.Now()
	if id, err := n.knownTarget(target); err != nil {
		return PeerNote{}, err
	} else if id != "" {
		if err := n.connectID(ctx, id); err != nil {
			return PeerNote{}, err
		}
		return n.connectedNote(id, "", began), nil
	}
	item, _, err := parseTarget(target)
	if err != nil {
		return PeerNote{}, err
	}
	id, err := n.dial.Connect(ctx, item)
	if err != nil {
		return PeerNote{}, peerFault(item, err)
	}
	return n.connectedNote(id, item, began), nil
}

// knownTarget is the peer that a text without an address stands for, "" where
// it is to be dialled as it is: a name of a host too.
func (n *Node) knownTarget(target string) (peer.ID, error) {
	if _, err := peer.Decode(target); err != nil && strings.ContainsAny(target, ":/.") {
		return "", nil
	}
	id, err := n.FindPeer(target, false)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return id, err
}

// connectedNote is a peer after a connection by hand, and what was not done for
// it. item is the address that was asked for, "" = none.
func (n *Node) connectedNote(id peer.ID, item string, began time.Time) PeerNote {
	p := n.noted(id, "")
	if p.State != "connected" || !p.ConnectedAt.Before(inMS(began)) {
		return p
	}
	p.Note = fmt.Sprintf("it was connected already, %s at %s since %s: nothing was dialled", p.Direction, p.Addr, p.ConnectedAt.Format(time.DateTime))
	if item != "" {
		p.Note = fmt.Sprintf("%s is %s, which was connected already, %s at %s since %s: the connection is kept as it is", item, id, p.Direction, p.Addr, p.ConnectedAt.Format(time.DateTime))
	}
	return p
}

func (n *Node) connectID(ctx context.Context, id peer.ID) error {
	_, connected := n.shake.Peer(id)
	addrs := n.addrsOf(id)
	if len(addrs) == 0 && !connected && id != n.host.ID() {
		return fmt.Errorf("%w: no address of %s is known: give one, such as /ip4/…/tcp/PORT/p2p/ID", ErrNotFound, id)
	}
	return peerFault(id.String(), n.dial.ConnectPeer(ctx, peer.AddrInfo{ID: id, Addrs: addrs}))
}

// addrsOf is where a peer may be found, as far as anybody here knows.
func (n *Node) addrsOf(id peer.ID) []multiaddr.Multiaddr {
	addrs := n.host.Peerstore().Addrs(id)
	for _, s := range n.dial.Static() {
		if s.ID == id {
			addrs = append(addrs, s.Addresses...)
		}
	}
	if e, ok := n.book.Get(id); ok {
		addrs = append(addrs, e.Addrs...)
	}
	return multiaddr.Unique(addrs)
}

// DisconnectPeer says goodbye to a connected peer and closes the connection.
func (n *Node) DisconnectPeer(ctx context.Context, id peer.ID) (PeerNote, error) {
	p, ok := n.Peer(id)
	if !ok {
		return PeerNote{}, fmt.Errorf("%w: %s is not connected", ErrNotFound, id)
	}
	n.leave(ctx, id, byHandWords)
	note := strings.Join(comesBack(p), "; ")
	if n.dial.Has(id) {
		note = "this node keeps the peer and connects again: parley peers remove ends that for a static peer"
	}
	p.State, p.Ready = "known", false // the table forgets it a moment later
	return PeerNote{p, note}, nil
}

// TrustPeer makes a peer, which need not be known, a trusted one: it is never
// evicted and never banned for points. It is so over restarts.
func (n *Node) TrustPeer(id peer.ID) (PeerNote, error) {
	if err := n.dial.Trust(id); errors.Is(err, dialer.ErrSelf) {
		return PeerNote{}, fmt.Errorf("%w: %s: %w", ErrBadPeer, id, err)
	} else if err != nil {
		return PeerNote{}, peerFault(id.String(), err)
	}
	return n.noted(id, ""), nil
}

// UntrustPeer takes the trust back.
func (n *Node) UntrustPeer(id peer.ID) (PeerNote, error) {
	was, comesBack, err := n.dial.Untrust(id)
	switch {
	case err != nil:
		return PeerNote{}, err
	case !was:
		return PeerNote{}, fmt.Errorf("%w: %s is no trusted peer", ErrNotFound, id)
	case comesBack:
		return n.noted(id, "the configuration trusts the peer: it is so again from the next start on; take it out of p2p.trusted_peers"), nil
	}
	return n.noted(id, ""), nil
}

// PenalizePeer gives a peer points by hand, 1 to 100, which lead where all
// points lead. note says why.
func (n *Node) PenalizePeer(id peer.ID, points int, note string) (PeerNote, error) {
	switch {
	case id == n.host.ID():
		return PeerNote{}, fmt.Errorf("%w: %s is this node itself", ErrBadPeer, id)
	case points < 1 || points > reputation.MostByHand:
		return PeerNote{}, fmt.Errorf("%w: %d points: want 1 to %d", ErrBadPeer, points, reputation.MostByHand)
	}
	n.rep.PenalizeByHand(id, points, note)
	return n.noted(id, ""), nil
}

// noted is a peer as it is now, known or not.
func (n *Node) noted(id peer.ID, note string) PeerNote {
	if p, ok := n.Peer(id); ok {
		return PeerNote{p, note}
	}
	p, _ := n.known(id)
	return PeerNote{p, note}
}

// PeerDetail tells all about a peer that is connected or known.
func (n *Node) PeerDetail(id peer.ID) (PeerDetail, bool) {
	d := PeerDetail{Protocols: []string{}, Addresses: texts(n.addrsOf(id)), Streams: n.streamsOf(id), Reputation: n.rep.Score(id)}
	p, ok := n.Peer(id)
	if !ok {
		if p, ok = n.known(id); !ok {
			return d, false
		}
	}
	d.Peer = p
	protocols, err := n.host.Peerstore().GetProtocols(id)
	if err == nil { // else none are known
		for _, name := range protocols {
			d.Protocols = append(d.Protocols, string(name))
		}
		slices.Sort(d.Protocols)
	}
	if d.Reputation.Reasons == nil {
		d.Reputation.Reasons = []reputation.Reason{}
	}
	for _, s := range n.StaticPeers() {
		if s.ID == id {
			d.Supervisor = &s
		}
	}
	return d, true
}

// streamsOf counts the open streams with a peer, in the order of protocols.
func (n *Node) streamsOf(id peer.ID) []PeerStreams {
	list := []PeerStreams{}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		for _, st := range c.GetStreams() {
			name := string(st.Protocol())
			i := slices.IndexFunc(list, func(s PeerStreams) bool { return s.Protocol == name })
			if i < 0 {
				i = len(list)
				list = append(list, PeerStreams{Protocol: name})
			}
			if st.Stat().Direction == network.DirInbound {
				list[i].In++
			} else {
				list[i].Out++
			}
		}
	}
	slices.SortFunc(list, func(a, b PeerStreams) int { return cmp.Compare(a.Protocol, b.Protocol) })
	return list
}

// PeerHistory lists what happened with connections, newest first: of one peer,
// or of all where id is "". It returns at most limit entries below the one
// numbered before; 0 = from the newest on.
func (n *Node) PeerHistory(ctx context.Context, id peer.ID, before uint64, limit int) ([]HistoryEntry, error) {
	entries, err := n.history.Page(ctx, id, before, limit)
	list := make([]HistoryEntry, len(entries))
	for i, e := range entries {
		list[i] = HistoryEntry{
			At: inMS(e.At), Event: e.Event, Peer: e.Peer, Direction: e.Direction, Addr: e.Addr, By: e.By, Reason: e.Reason, Goodbye: e.Goodbye,
			DurationS: e.Duration.Seconds(), Seq: e.Seq,
		}
	}
	return list, err
}

// sourceOf says who told us of a peer that we dialled, "" = nobody knows.
func (n *Node) sourceOf(id peer.ID) string {
	if n.dial.ByHand(id) {
		return string(addrbook.Operator)
	}
	first, anchor := n.book.Origin(id) // asked for each peer of each table: no copy
	if anchor {
		return "anchor"
	}
	return string(first)
}
