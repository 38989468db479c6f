package api

import (
	"context"
	"net/http"

	"github.com/parley-p2p/parley"
)

func (s *Server) gossipRoutes() {
	operation(s, http.MethodGet, "gossip/topics", read, "How the topics of gossip do", s.topics)
	operation(s, http.MethodGet, "gossip/mesh", read, "The peers with whom whole messages are exchanged, by topic", s.mesh)
	operation(s, http.MethodGet, "gossip/traces/{message_id}", read, "The way of one of the newest messages through this node", s.gossipTrace)
}

type tracePath struct {
	MessageID string `path:"message_id" minLength:"40" maxLength:"40" doc:"40 hex digits"`
}

func (s *Server) gossipTrace(_ context.Context, p *tracePath) (*answer[parley.GossipTrace], error) {
	return answerOf(s.node.GossipTrace(p.MessageID))
}

func (s *Server) topics(_ context.Context, p *Page) (*answer[list[parley.GossipTopic]], error) {
	return pageOf(s.node.GossipTopics(), *p)
}

type meshQuery struct {
	Page
	Topic string `query:"topic" maxLength:"64" doc:"such as block; left out = all"`
}

func (s *Server) mesh(_ context.Context, q *meshQuery) (*answer[list[parley.MeshPeer]], error) {
	peers, err := s.node.GossipMesh(q.Topic)
	if err != nil {
		return nil, err
	}
	return pageOf(peers, q.Page)
}
