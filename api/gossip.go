package api

import (
	"context"
	"net/http"

	"github.com/parley-p2p/parley"
)

func (s *Server) gossipRoutes() {
	operation(s, http.MethodGet, "gossip/topics", read, "How the topics of gossip do", s.topics)
	operation(s, http.MethodGet, "gossip/mesh", read, "The peers with whom whole messages are exchanged, by topic", s.mesh)
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
