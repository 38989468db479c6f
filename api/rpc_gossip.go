package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

func (s *Server) gossipService() {
	grpcService(s, parleyv1connect.NewGossipServiceHandler, parleyv1connect.GossipServiceHandler(gossipCalls{s}), map[string]grpcRule{
		"ListTopics": {access: read}, "GetMesh": {access: read}, "GetTrace": {access: read}, "Tail": {access: read, stream: true},
		"Publish": {access: admin, maxBody: int(s.cfg.Sidecar.MaxMessage) + besideData},
	})
}

type gossipCalls struct{ s *Server }

func (c gossipCalls) ListTopics(ctx context.Context, r *connect.Request[pb.ListTopicsRequest]) (*connect.Response[pb.ListTopicsResponse], error) {
	return asked[pb.ListTopicsResponse](ctx, c.s.topics, pageIn(r.Msg))
}

func (c gossipCalls) GetMesh(ctx context.Context, r *connect.Request[pb.GetMeshRequest]) (*connect.Response[pb.GetMeshResponse], error) {
	return asked[pb.GetMeshResponse](ctx, c.s.mesh, &meshQuery{*pageIn(r.Msg), r.Msg.GetTopic()})
}

func (c gossipCalls) GetTrace(ctx context.Context, r *connect.Request[pb.GetTraceRequest]) (*connect.Response[pb.GossipTrace], error) {
	return asked[pb.GossipTrace](ctx, c.s.gossipTrace, &tracePath{r.Msg.GetMessageId()})
}

func (c gossipCalls) Publish(ctx context.Context, r *connect.Request[pb.GossipPublishRequest]) (*connect.Response[pb.GossipPublishResponse], error) {
	id, err := c.s.node.PublishMessage(ctx, r.Msg.GetTopic(), r.Msg.GetData())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GossipPublishResponse{MessageId: id}), nil
}

const maxTailTopics = 64

func (c gossipCalls) Tail(ctx context.Context, r *connect.Request[pb.TailRequest], to *connect.ServerStream[pb.TailMessage]) error {
	s, m, who := c.s, r.Msg, callerOf(ctx)
	switch {
	case len(m.GetTopics()) > maxTailTopics:
		return badRequest.problem("more topics than there are: leave them out for all")
	case m.GetData() && !who.admin:
		return scopeProblem("the bytes of messages need a token of scope admin: ask without data")
	}
	leave := s.tails.take(ctx, who, remoteAddr(callOf(ctx).r))
	if leave == nil {
		p := rateLimited.problem(s.tails.busy)
		p.refused = "busy"
		return p
	}
	defer leave()
	tail := s.node.TailGossip(m.GetTopics(), m.GetData())
	defer tail.Close()
	if err := to.Send(nil); err != nil { // the head of the answer, so that the client knows that it follows
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tail.Wake():
		}
		for _, v := range tail.Take() {
			message, err := tailed(v)
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = to.Send(message)
			}
			if err != nil {
				return err
			}
		}
	}
}

// tailed makes a message of one that was judged, or of word of those that were
// left out.
func tailed(v parley.TailedMessage) (*pb.TailMessage, error) {
	if v.ID == "" {
		return &pb.TailMessage{Lost: v.Lost}, nil
	}
	return shown[pb.TailMessage](v)
}
