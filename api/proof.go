package api

import (
	"context"
	"net/http"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

func (s *Server) proofRoutes() {
	operation(s, http.MethodGet, "records/{id}/proof", read, "A file that proves a record to who knows the genesis hash alone", s.proof, s.large)
}

func (s *Server) proof(_ context.Context, in *recordPath) (*answer[*consortium.Proof], error) {
	id, err := chain.ParseHash(in.ID)
	if err != nil {
		return nil, badRequest.problem("record id: want 64 hex digits")
	}
	p, err := s.node.Proof(id)
	return &answer[*consortium.Proof]{p}, err
}
