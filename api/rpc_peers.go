package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

func (s *Server) peerService() {
	grpcService(s, parleyv1connect.NewPeerServiceHandler, parleyv1connect.PeerServiceHandler(peerCalls{s}), map[string]grpcRule{
		"ListPeers": {access: read, places: s.lists}, "GetPeer": {access: read}, "CountPeers": {access: read}, "GetTopology": {access: read},
		"ListStaticPeers": {access: read}, "GetHistory": {access: read}, "WatchPeers": {access: read, stream: true},
		"AddPeer": {access: admin}, "RemovePeer": {access: admin}, "Connect": {access: admin}, "Disconnect": {access: admin},
		"SetTrusted": {access: admin}, "Penalize": {access: admin},
	})
}

type peerCalls struct{ s *Server }

func (c peerCalls) ListPeers(ctx context.Context, r *connect.Request[pb.ListPeersRequest]) (*connect.Response[pb.ListPeersResponse], error) {
	m := r.Msg
	return asked[pb.ListPeersResponse](ctx, c.s.peers, &peersQuery{
		Page: *pageIn(m), State: m.GetState(), Direction: m.GetDirection(), Source: m.GetSource(), Q: m.GetQ(), Sort: m.GetSort(),
	})
}

func (c peerCalls) GetPeer(ctx context.Context, r *connect.Request[pb.GetPeerRequest]) (*connect.Response[pb.PeerDetail], error) {
	in := &PeerPath{ID: r.Msg.GetId()}
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := c.s.peer(ctx, in)
	if err != nil {
		return nil, err
	}
	m, err := shown[pb.PeerDetail](a.Body)
	if err != nil {
		return nil, err
	}
	if m.Peer, err = shown[pb.Peer](a.Body.Peer); err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

func (c peerCalls) CountPeers(context.Context, *connect.Request[pb.CountPeersRequest]) (*connect.Response[pb.PeerCount], error) {
	return answered[pb.PeerCount](c.s.node.PeerCount(), nil)
}

func (c peerCalls) AddPeer(ctx context.Context, r *connect.Request[pb.AddPeerRequest]) (*connect.Response[pb.AddedPeer], error) {
	in := &newPeer{}
	in.Body.Address, in.Body.Static, in.Body.Trusted = r.Msg.GetAddress(), r.Msg.GetStatic(), r.Msg.GetTrusted()
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := c.s.addPeer(ctx, in)
	if err != nil {
		return nil, err
	}
	return answered[pb.AddedPeer](a.Body, nil)
}

func (c peerCalls) RemovePeer(ctx context.Context, r *connect.Request[pb.RemovePeerRequest]) (*connect.Response[pb.RemovedPeer], error) {
	in := &PeerPath{ID: r.Msg.GetId()}
	if err := fits(in); err != nil {
		return nil, err
	}
	removed, err := c.s.node.RemovePeer(ctx, in.ID)
	return answered[pb.RemovedPeer](removed, err)
}

func (c peerCalls) Connect(ctx context.Context, r *connect.Request[pb.ConnectRequest]) (*connect.Response[pb.PeerNote], error) {
	return noted(ctx, c.s.connectPeer, &PeerPath{ID: r.Msg.GetId()})
}

func (c peerCalls) Disconnect(ctx context.Context, r *connect.Request[pb.DisconnectRequest]) (*connect.Response[pb.PeerNote], error) {
	return noted(ctx, c.s.disconnectPeer, &PeerPath{ID: r.Msg.GetId()})
}

func (c peerCalls) SetTrusted(ctx context.Context, r *connect.Request[pb.SetTrustedRequest]) (*connect.Response[pb.PeerNote], error) {
	set := c.s.untrustPeer
	if r.Msg.GetTrusted() {
		set = c.s.trustPeer
	}
	return noted(ctx, set, &PeerPath{ID: r.Msg.GetId()})
}

func (c peerCalls) Penalize(ctx context.Context, r *connect.Request[pb.PenalizeRequest]) (*connect.Response[pb.PeerNote], error) {
	in := &penalty{PeerPath: PeerPath{ID: r.Msg.GetId()}}
	in.Body.Points, in.Body.Note = int(r.Msg.GetPoints()), r.Msg.GetNote()
	return noted(ctx, c.s.penalizePeer, in)
}

// noted answers with a peer and a note, which REST writes into one object.
func noted[I any](ctx context.Context, change func(context.Context, *I) (*answer[parley.PeerNote], error), in *I) (*connect.Response[pb.PeerNote], error) {
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := change(ctx, in)
	if err != nil {
		return nil, err
	}
	p, err := shown[pb.Peer](a.Body.Peer)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.PeerNote{Peer: p, Note: a.Body.Note}), nil
}

func (c peerCalls) ListStaticPeers(ctx context.Context, r *connect.Request[pb.ListStaticPeersRequest]) (*connect.Response[pb.ListStaticPeersResponse], error) {
	return asked[pb.ListStaticPeersResponse](ctx, c.s.staticPeers, pageIn(r.Msg))
}

func (c peerCalls) GetHistory(ctx context.Context, r *connect.Request[pb.GetHistoryRequest]) (*connect.Response[pb.GetHistoryResponse], error) {
	if r.Msg.GetId() == "" {
		return asked[pb.GetHistoryResponse](ctx, c.s.wholeHistory, pageIn(r.Msg))
	}
	return asked[pb.GetHistoryResponse](ctx, c.s.historyOf, &peerHistoryQuery{PeerPath{r.Msg.GetId()}, *pageIn(r.Msg)})
}

func (c peerCalls) GetTopology(context.Context, *connect.Request[pb.GetTopologyRequest]) (*connect.Response[pb.Topology], error) {
	return answered[pb.Topology](c.s.node.Topology(), nil)
}

func (c peerCalls) WatchPeers(ctx context.Context, r *connect.Request[pb.WatchPeersRequest], to *connect.ServerStream[pb.Watched]) error {
	return c.s.watch(ctx, []string{"peer.connected", "peer.ready", "peer.disconnected", "peer.refused", "peer.penalized", "peer.discouraged", "static_peer.changed"}, r.Msg.Since, to)
}
