package api

import (
	"context"

	"connectrpc.com/connect"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

func (s *Server) nodeService() {
	grpcService(s, parleyv1connect.NewNodeServiceHandler, parleyv1connect.NodeServiceHandler(nodeCalls{s}), map[string]grpcRule{
		"GetStatus": {access: read}, "GetNode": {access: read}, "GetHealth": {access: read},
		"ReloadConfig": {access: admin}, "WatchEvents": {access: read, stream: true},
		"GetConfig": {access: admin}, "PatchConfig": {access: admin}, "SetLogLevel": {access: admin},
	})
}

type nodeCalls struct{ s *Server }

func (c nodeCalls) GetStatus(context.Context, *connect.Request[pb.GetStatusRequest]) (*connect.Response[pb.Status], error) {
	return answered[pb.Status](c.s.node.Status(), nil)
}

func (c nodeCalls) GetNode(context.Context, *connect.Request[pb.GetNodeRequest]) (*connect.Response[pb.Node], error) {
	return answered[pb.Node](c.s.node.Info(), nil)
}

func (c nodeCalls) GetHealth(context.Context, *connect.Request[pb.GetHealthRequest]) (*connect.Response[pb.Health], error) {
	return answered[pb.Health](c.s.node.Health(), nil)
}

func (c nodeCalls) ReloadConfig(ctx context.Context, r *connect.Request[pb.ReloadConfigRequest]) (*connect.Response[pb.ReloadedConfig], error) {
	return asked[pb.ReloadedConfig](ctx, c.s.reload, &reloadQuery{Force: r.Msg.GetForce()})
}

func (c nodeCalls) GetConfig(ctx context.Context, _ *connect.Request[pb.GetConfigRequest]) (*connect.Response[pb.GetConfigResponse], error) {
	return asked[pb.GetConfigResponse](ctx, c.s.config, &none{})
}

func (c nodeCalls) PatchConfig(ctx context.Context, r *connect.Request[pb.PatchConfigRequest]) (*connect.Response[pb.ReloadedConfig], error) {
	return asked[pb.ReloadedConfig](ctx, c.s.patchConfig, &configPatch{Force: r.Msg.GetForce(), Body: r.Msg.GetPatch().AsMap()})
}

func (c nodeCalls) SetLogLevel(ctx context.Context, r *connect.Request[pb.SetLogLevelRequest]) (*connect.Response[pb.LogLevels], error) {
	a, err := c.s.setLogLevels(ctx, &newLevels{r.Msg.GetLevels()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.LogLevels{Levels: a.Body}), nil
}

func (c nodeCalls) WatchEvents(ctx context.Context, r *connect.Request[pb.WatchEventsRequest], to *connect.ServerStream[pb.Watched]) error {
	return c.s.watch(ctx, r.Msg.GetTypes(), r.Msg.Since, to)
}
