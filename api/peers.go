package api

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
)

func (s *Server) peerRoutes() {
	operation(s, http.MethodGet, "peers", read, "Peers", s.peers, s.large) // the known ones can be many
	operation(s, http.MethodGet, "peers/count", read, "Peers by kind", func(context.Context, *none) (*answer[parley.PeerCount], error) {
		return &answer[parley.PeerCount]{s.node.PeerCount()}, nil
	})
	operation(s, http.MethodGet, "peers/{id}", read, "All about one peer", s.peer)
	operation(s, http.MethodGet, "static-peers", read, "Peers that are kept for ever, and how trying goes", s.staticPeers)
	operation(s, http.MethodGet, "peers/history", read, "How connections ended and who was refused, newest first", s.wholeHistory)
	operation(s, http.MethodGet, "peers/{id}/history", read, "What happened with one peer's connections, newest first", s.historyOf)

	operation(s, http.MethodPost, "peers", admin, "Connect once, or with static keep a peer for ever; 202 while who it is is not known", s.addPeer, created, also(http.StatusAccepted))
	operation(s, http.MethodDelete, "peers/{id}", admin, "End that a peer, or a static peer by its text, is kept, and close the connection; 200 where there is something to know", s.removePeer, also(http.StatusNoContent))
	operation(s, http.MethodPost, "peers/{id}/connect", admin, "Connect once with a peer whose address is known", s.connectPeer)
	operation(s, http.MethodPost, "peers/{id}/disconnect", admin, "Close the connection with a peer", s.disconnectPeer)
	operation(s, http.MethodPost, "peers/{id}/trust", admin, "Never evict a peer nor ban it for points", s.trustPeer)
	operation(s, http.MethodPost, "peers/{id}/untrust", admin, "Take the trust back", s.untrustPeer)
	operation(s, http.MethodPost, "peers/{id}/penalize", admin, "Give a peer points by hand; they lead where all points lead", s.penalizePeer)
}

type penalty struct {
	PeerPath
	Body struct {
		Points int    `json:"points" minimum:"1" maximum:"100"`
		Reason string `json:"reason,omitempty" enum:"manual"`
		Note   string `json:"note,omitempty" maxLength:"256" doc:"why"`
	}
}

func (s *Server) penalizePeer(_ context.Context, in *penalty) (*answer[parley.PeerNote], error) {
	return s.onPeer(&in.PeerPath, true, func(id peer.ID) (parley.PeerNote, error) {
		return s.node.PenalizePeer(id, in.Body.Points, in.Body.Note)
	})
}

// onPeer does something with the peer that a path names; strict is for what a
// stranger who takes a name must not get.
func (s *Server) onPeer(p *PeerPath, strict bool, f func(peer.ID) (parley.PeerNote, error)) (*answer[parley.PeerNote], error) {
	id, err := s.node.FindPeer(p.ID, strict)
	if err != nil {
		return nil, err
	}
	return answerOf(f(id))
}

func (s *Server) connectPeer(ctx context.Context, p *PeerPath) (*answer[parley.PeerNote], error) {
	return s.onPeer(p, false, func(id peer.ID) (parley.PeerNote, error) { return s.node.ConnectPeer(ctx, id.String()) })
}

func (s *Server) disconnectPeer(ctx context.Context, p *PeerPath) (*answer[parley.PeerNote], error) {
	return s.onPeer(p, false, func(id peer.ID) (parley.PeerNote, error) { return s.node.DisconnectPeer(ctx, id) })
}

func (s *Server) trustPeer(_ context.Context, p *PeerPath) (*answer[parley.PeerNote], error) {
	return s.onPeer(p, true, s.node.TrustPeer)
}

func (s *Server) untrustPeer(_ context.Context, p *PeerPath) (*answer[parley.PeerNote], error) {
	return s.onPeer(p, false, s.node.UntrustPeer)
}

func (s *Server) staticPeers(_ context.Context, p *Page) (*answer[list[parley.StaticPeer]], error) {
	return pageOf(s.node.StaticPeers(), *p)
}

func (s *Server) wholeHistory(ctx context.Context, p *Page) (*answer[list[parley.HistoryEntry]], error) {
	return s.peerHistory(ctx, "", *p)
}

type peerHistoryQuery struct {
	PeerPath
	Page
}

func (s *Server) historyOf(ctx context.Context, in *peerHistoryQuery) (*answer[list[parley.HistoryEntry]], error) {
	id, err := s.node.FindPast(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return s.peerHistory(ctx, id, in.Page)
}

// PeerPath is the peer that a path names. Only an exported name is seen where
// it is embedded.
type PeerPath struct {
	ID string `path:"id" maxLength:"1024" doc:"peer id, the end or the beginning of one, address or name; several that fit are 409"`
}

// peerHistory pages by the numbers of the entries, so that new ones shift nothing.
func (s *Server) peerHistory(ctx context.Context, id peer.ID, p Page) (*answer[list[parley.HistoryEntry]], error) {
	before := uint64(0)
	if p.Cursor != "" {
		n, err := strconv.ParseUint(p.Cursor, 10, 64)
		if err != nil || n == 0 || n > math.MaxInt64 {
			return nil, badRequest.problem("cursor: want the next_cursor of a page of this list")
		}
		before = n
	}
	entries, err := s.node.PeerHistory(ctx, id, before, p.Limit+1)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(entries) > p.Limit {
		entries = entries[:p.Limit]
		next = strconv.FormatUint(entries[p.Limit-1].Seq, 10)
	}
	return listOf(entries, next), nil
}

// addedPeer is a peer that POST peers made: with its id and state, of a static
// one also with what is known of its first attempt.
type addedPeer struct {
	Status int
	Body   parley.AddedPeer
}

type newPeer struct {
	Body struct {
		Address string `json:"address" minLength:"1" maxLength:"1024" doc:"host[:port], http(s)://host:port or a multiaddr"`
		Static  bool   `json:"static,omitempty" doc:"keep it for ever; else the connection is once"`
		Trusted bool   `json:"trusted,omitempty" doc:"never evict it nor ban it for points"`
	}
}

func (s *Server) addPeer(ctx context.Context, in *newPeer) (*addedPeer, error) {
	if b := in.Body; b.Static {
		p, err := s.node.AddPeer(ctx, b.Address, b.Trusted)
		if err != nil {
			return nil, err
		}
		if p.ID == "" {
			return &addedPeer{http.StatusAccepted, p}, nil
		}
		return &addedPeer{http.StatusCreated, p}, nil
	}
	p, err := s.node.ConnectPeer(ctx, in.Body.Address)
	if err == nil && in.Body.Trusted {
		p, err = s.node.TrustPeer(p.ID)
	}
	if err != nil {
		return nil, err
	}
	return &addedPeer{http.StatusCreated, parley.AddedPeer{ID: p.ID, Item: in.Body.Address, State: p.State, Note: p.Note}}, nil
}

type removedPeer struct {
	Status int
	Body   *parley.RemovedPeer
}

func (s *Server) removePeer(ctx context.Context, in *PeerPath) (*removedPeer, error) {
	r, err := s.node.RemovePeer(ctx, in.ID)
	switch {
	case err != nil:
		return nil, err
	case r.Note == "":
		return &removedPeer{Status: http.StatusNoContent}, nil
	}
	return &removedPeer{http.StatusOK, &r}, nil
}

func (s *Server) peer(_ context.Context, in *PeerPath) (*answer[parley.PeerDetail], error) {
	id, err := s.node.FindPeer(in.ID, false)
	if err != nil {
		return nil, err
	}
	p, ok := s.node.PeerDetail(id)
	if !ok {
		return nil, notFound.problem("no peer " + id.String() + " is connected or known: see parley peers list, and with --state known those that are not connected")
	}
	return &answer[parley.PeerDetail]{p}, nil
}

type peersQuery struct {
	Page
	State     string `query:"state" enum:"connected,known,static,banned" default:"connected" doc:"known: the connected ones, and those that are not; static: those that are kept; banned: those that are refused for what they did"`
	Direction string `query:"direction" enum:"inbound,outbound"`
	Source    string `query:"source" maxLength:"32"`
	Q         string `query:"q" maxLength:"256" doc:"part of id, name, address or agent"`
	Sort      string `query:"sort" enum:"name,latency,connected_at,height,score" default:"connected_at"`
}

func (q *peersQuery) takes(p parley.Peer) bool {
	return (q.Direction == "" || p.Direction == q.Direction) && (q.Source == "" || p.Source == q.Source) && matches(p, q.Q)
}

const bySince = "connected_at" // the order in which those who are not connected come last

func (s *Server) peers(_ context.Context, q *peersQuery) (*answer[list[parley.Peer]], error) {
	var all []parley.Peer
	switch q.State {
	case "static":
		all = s.node.KeptPeers()
	case "banned":
		all = s.node.RefusedPeers()
	default:
		all = s.node.Peers()
	}
	ps := slices.DeleteFunc(all, func(p parley.Peer) bool { return !q.takes(p) })
	if q.State == "known" && q.Sort != bySince { // of the whole book
		away, _ := s.node.KnownPeers("", math.MaxInt, q.takes)
		ps = append(ps, away...)
	}
	slices.SortStableFunc(ps, func(a, b parley.Peer) int { return comparePeers(a, b, q.Sort) })
	if q.State == "known" && q.Sort == bySince {
		return s.knownPage(ps, q)
	}
	return pageOf(ps, q.Page)
}

// awayMark begins the cursor of a page behind the connected peers; the id of
// the last peer follows.
const awayMark = "away."

// knownPage is a page of the connected peers, and then of those that are not:
// of these, who may be many, no more are looked at than it takes.
func (s *Server) knownPage(connected []parley.Peer, q *peersQuery) (*answer[list[parley.Peer]], error) {
	var after peer.ID
	page := []parley.Peer{}
	if text, away := strings.CutPrefix(q.Cursor, awayMark); !away {
		first, err := pageOf(connected, q.Page)
		if err != nil || first.Body.NextCursor != nil {
			return first, err
		}
		page = first.Body.Items
	} else if text != "" {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, badRequest.problem("cursor: want the next_cursor of a page of this list")
		}
		after = id
	}
	away, more := s.node.KnownPeers(after, q.Limit-len(page), q.takes)
	next := ""
	if more {
		if next = awayMark; len(away) > 0 {
			next += away[len(away)-1].ID.String()
		}
	}
	return listOf(append(page, away...), next), nil
}

func matches(p parley.Peer, q string) bool {
	q = strings.ToLower(q)
	for _, text := range []string{p.ID.String(), p.Name, p.Address, p.Addr, p.Agent} {
		if strings.Contains(strings.ToLower(text), q) {
			return true
		}
	}
	return false
}

func comparePeers(a, b parley.Peer, by string) int {
	switch by {
	case "name":
		return strings.Compare(a.Name, b.Name)
	case "latency":
		return cmp.Compare(a.LatencyMS, b.LatencyMS)
	case "height":
		return cmp.Compare(claimedHeight(b), claimedHeight(a)) // highest first, as scores
	case "score":
		return cmp.Compare(b.Score, a.Score)
	}
	switch { // who is not connected comes last
	case a.ConnectedAt.IsZero() && !b.ConnectedAt.IsZero():
		return 1
	case b.ConnectedAt.IsZero() && !a.ConnectedAt.IsZero():
		return -1
	}
	return a.ConnectedAt.Compare(b.ConnectedAt)
}

func claimedHeight(p parley.Peer) uint64 {
	if p.Claimed == nil {
		return 0
	}
	return p.Claimed.Height
}

// peerProblem is the answer for what a change by hand came to; nil = the error
// is another's.
func peerProblem(err error) *problem {
	var dial *parley.DialError
	var several *parley.AmbiguousError
	switch {
	case errors.As(err, &several):
		return conflict.problem(err.Error())
	case errors.As(err, &dial):
		p := dialFailed.problem(string(dial.Class) + ": " + dial.Error())
		p.Class = string(dial.Class)
		return p
	case errors.Is(err, parley.ErrBadPeer):
		return badRequest.problem(err.Error())
	case errors.Is(err, parley.ErrPeerConflict):
		return conflict.problem(err.Error())
	}
	return nil
}
