package parley

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// An AmbiguousError says that a text stands for several peers.
type AmbiguousError struct {
	Text  string
	Peers []Peer // some of them, at least two
	More  int    // those that are left out
}

func (e *AmbiguousError) Error() string {
	var list []string
	for _, p := range e.Peers {
		about := []string{p.State}
		for _, word := range []string{p.Name, cmp.Or(p.Address, p.Addr)} {
			if word != "" {
				about = append(about, word)
			}
		}
		list = append(list, fmt.Sprintf("%s (%s)", p.ID, strings.Join(about, ", ")))
	}
	if e.More > 0 {
		list = append(list, fmt.Sprintf("and %d more", e.More))
	}
	return fmt.Sprintf("%.80q may be %s: name it by its id", e.Text, strings.Join(list, " or "))
}

// unknownPeerError is an [ErrNotFound].
type unknownPeerError struct{ text string }

func (e *unknownPeerError) Error() string {
	return fmt.Sprintf("no peer is known by %.80q: see parley peers list, and with --state known those that are not connected", e.text)
}
func (e *unknownPeerError) Is(target error) bool { return target == ErrNotFound }

const (
	maxCandidates = 5 // that are told of
	leastShort    = 4 // characters of an id; fewer fit many
	mostShort     = 9 // characters that are compared as a number
)

// FindPeer finds the peer that an operator means: by its id, by the end or the
// beginning of one, by its address, the text of a static peer, or its name. A
// text that stands for several peers is an *[AmbiguousError], one that stands
// for none an [ErrNotFound]. A whole id need not be known. Names are what peers
// call themselves: who is connected comes before who was, unless strict asks
// for a name that nobody else had lately.
func (n *Node) FindPeer(text string, strict bool) (peer.ID, error) {
	text = strings.TrimSpace(text)
	if id, err := peer.Decode(text); err == nil {
		return id, nil
	}
	if a, err := multiaddr.NewMultiaddr(text); err == nil {
		if _, id := peer.SplitAddr(a); id != "" {
			return id, nil
		}
	}
	found := n.byPlaceOrName(text, strict)
	if len(found) == 0 {
		found = n.byShort(text)
	}
	return n.only(text, found)
}

// FindPast is FindPeer among those too of whom the history alone knows.
func (n *Node) FindPast(ctx context.Context, text string) (peer.ID, error) {
	id, err := n.FindPeer(text, false)
	short, ok := parseShort(text)
	if err == nil || !ok || short.tail == "" {
		return id, err
	}
	past, perr := n.history.EndingIn(ctx, short.tail, maxCandidates+1)
	if perr != nil || len(past) == 0 {
		return id, err
	}
	return n.only(text, past)
}

// only is the one that was found.
func (n *Node) only(text string, found []peer.ID) (peer.ID, error) {
	slices.Sort(found)
	found = slices.Compact(found)
	switch {
	case text == "":
		return "", fmt.Errorf("%w: no peer is named: give its id, the end of one, its address or its name, as parley peers list shows them", ErrBadPeer)
	case len(found) == 0:
		return "", &unknownPeerError{text}
	case len(found) == 1:
		return found[0], nil
	}
	e := &AmbiguousError{Text: text, More: max(0, len(found)-maxCandidates)}
	for _, id := range found[:len(found)-e.More] {
		e.Peers = append(e.Peers, n.noted(id, "").Peer)
	}
	return "", e
}

// byPlaceOrName finds peers by what stands for them whole.
func (n *Node) byPlaceOrName(text string, strict bool) []peer.ID {
	var found, named []peer.ID
	for _, p := range n.shake.Peers() {
		switch text {
		case n.peerAddress(p), p.Addr.String():
			found = append(found, p.ID)
		case p.Name:
			named = append(named, p.ID)
		}
	}
	for _, s := range n.dial.Static() {
		if s.Item == text && s.ID != "" {
			found = append(found, s.ID)
		}
	}
	if len(found) > 0 {
		return found
	}
	for _, v := range n.Validators() { // the chain's word
		if v.Name == text && v.Peer != "" && v.Peer != n.host.ID() {
			named = append(named, v.Peer)
		}
	}
	if strict || len(named) == 0 {
		named = append(named, n.history.Named(text)...)
	}
	if len(named) > 0 {
		return named
	}
	return n.knownAt(text)
}

// knownAt finds the peers that the address book has at host:port or a
// multiaddr.
func (n *Node) knownAt(text string) (found []peer.ID) {
	at, err := netip.ParseAddrPort(text)
	ip := at.Addr()
	if err != nil {
		a, err := multiaddr.NewMultiaddr(text)
		if err != nil || len(a) == 0 {
			return nil
		}
		if ip, err = netip.ParseAddr(a[0].Value()); err != nil {
			return nil
		}
	}
	for _, e := range n.book.At(ip) {
		if slices.ContainsFunc(e.Addrs, func(a multiaddr.Multiaddr) bool { return a.String() == text || hostPort(a) == text }) {
			found = append(found, e.ID)
		}
	}
	return found
}

// byShort finds peers by a part of their ids.
func (n *Node) byShort(text string) (found []peer.ID) {
	short, ok := parseShort(text)
	if !ok {
		return nil
	}
	known := n.book.IDs()
	for _, p := range n.shake.Peers() {
		known = append(known, p.ID)
	}
	for _, s := range n.dial.Static() {
		known = append(known, s.ID)
	}
	for _, id := range known {
		if short.fits(id) {
			found = append(found, id)
		}
	}
	return found
}

// shortID is the end or the beginning of a peer id, as lists show them.
type shortID struct {
	tail  string // base58, "" = it can only be a beginning
	sum   uint64 // of the tail's last characters, as a number
	mod   uint64 // 58 to the number of these
	first peer.ID
	last  peer.ID // of those that begin so; "" = it can only be an end
}

const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

func parseShort(text string) (s shortID, ok bool) {
	bare := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(text), "…"), "...")
	head := strings.TrimSuffix(strings.TrimSuffix(bare, "…"), "...")
	if len(head) < leastShort || len(head) > 64 {
		return s, false
	}
	s.mod = 1
	for i := range len(head) {
		digit := strings.IndexByte(base58, head[i])
		if digit < 0 {
			return s, false
		}
		if i >= len(head)-mostShort {
			s.sum, s.mod = s.sum*58+uint64(digit), s.mod*58
		}
	}
	if head == bare {
		s.tail = head
	}
	const whole = len("12D3KooWQvs8GbqBFCgyg38T6utVWJCLWVCMFTQyvMrX9E7rKw6Q") // of an Ed25519 key
	if bare == strings.TrimSpace(text) && len(head) < whole {
		first, err := peer.Decode(head + strings.Repeat("1", whole-len(head)))
		last, lerr := peer.Decode(head + strings.Repeat("z", whole-len(head)))
		if err == nil && lerr == nil {
			s.first, s.last = first, last
		}
	}
	return s, true
}

// fits reports whether an id ends or begins so. It makes no text of most ids:
// there may be many.
func (s shortID) fits(id peer.ID) bool {
	if s.last != "" && s.first <= id && id <= s.last {
		return true
	}
	if s.tail == "" {
		return false
	}
	rest := uint64(0)
	for i := range len(id) {
		rest = (rest<<8 | uint64(id[i])) % s.mod
	}
	return rest == s.sum && strings.HasSuffix(id.String(), s.tail)
}
