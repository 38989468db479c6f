package api

import (
	"context"

	"connectrpc.com/connect"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

func (s *Server) gossipService() {
	grpcService(s, parleyv1connect.NewGossipServiceHandler, parleyv1connect.GossipServiceHandler(gossipCalls{s}), map[string]grpcRule{
		"ListTopics": {access: read}, "GetMesh": {access: read},
	})
}

type gossipCalls struct{ s *Server }

func (c gossipCalls) ListTopics(ctx context.Context, r *connect.Request[pb.ListTopicsRequest]) (*connect.Response[pb.ListTopicsResponse], error) {
	return asked[pb.ListTopicsResponse](ctx, c.s.topics, pageIn(r.Msg))
}

func (c gossipCalls) GetMesh(ctx context.Context, r *connect.Request[pb.GetMeshRequest]) (*connect.Response[pb.GetMeshResponse], error) {
	return asked[pb.GetMeshResponse](ctx, c.s.mesh, &meshQuery{*pageIn(r.Msg), r.Msg.GetTopic()})
}
