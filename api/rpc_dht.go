package api

import (
	"context"

	"connectrpc.com/connect"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

func (s *Server) dhtService() {
	query := grpcRule{access: admin, places: s.queries}
	grpcService(s, parleyv1connect.NewDhtServiceHandler, parleyv1connect.DhtServiceHandler(dhtCalls{s}), map[string]grpcRule{
		"GetDht": {access: read}, "GetTable": {access: read}, "GetValue": {access: read, places: s.queries},
		"FindNode": query, "FindProviders": query, "Provide": query, "PutValue": query,
	})
}

type dhtCalls struct{ s *Server }

func (c dhtCalls) GetDht(context.Context, *connect.Request[pb.GetDhtRequest]) (*connect.Response[pb.Dht], error) {
	return answered[pb.Dht](c.s.node.DHT(), nil)
}

func (c dhtCalls) GetTable(ctx context.Context, r *connect.Request[pb.GetTableRequest]) (*connect.Response[pb.GetTableResponse], error) {
	return asked[pb.GetTableResponse](ctx, c.s.dhtTable, pageIn(r.Msg))
}

func (c dhtCalls) FindNode(ctx context.Context, r *connect.Request[pb.FindNodeRequest]) (*connect.Response[pb.DhtNodes], error) {
	in := &nodeQuery{}
	in.Body.Peer = r.Msg.GetPeer()
	return asked[pb.DhtNodes](ctx, c.s.findNode, in)
}

func (c dhtCalls) FindProviders(ctx context.Context, r *connect.Request[pb.FindProvidersRequest]) (*connect.Response[pb.DhtNodes], error) {
	in := &providersQuery{}
	in.Body.Key, in.Body.Limit = r.Msg.GetKey(), int(r.Msg.GetLimit())
	return asked[pb.DhtNodes](ctx, c.s.findProviders, in)
}

func (c dhtCalls) Provide(ctx context.Context, r *connect.Request[pb.ProvideRequest]) (*connect.Response[pb.DhtNodes], error) {
	return asked[pb.DhtNodes](ctx, c.s.provide, &provided{ProviderKey{r.Msg.GetKey()}})
}

func (c dhtCalls) GetValue(ctx context.Context, r *connect.Request[pb.GetValueRequest]) (*connect.Response[pb.DhtValue], error) {
	return asked[pb.DhtValue](ctx, c.s.dhtValue, &valueQuery{ValueKey{r.Msg.GetKey()}, int(r.Msg.GetQuorum())})
}

func (c dhtCalls) PutValue(ctx context.Context, r *connect.Request[pb.PutValueRequest]) (*connect.Response[pb.DhtValue], error) {
	in := &newValue{ValueKey: ValueKey{r.Msg.GetKey()}}
	in.Body.Value = r.Msg.GetValue()
	return asked[pb.DhtValue](ctx, c.s.putDHTValue, in)
}
