package api

import (
	"context"
	"net/http"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

func (s *Server) validatorRoutes() {
	operation(s, http.MethodGet, "chain/validators", read, "Who signs the next block", s.validators)
	operation(s, http.MethodPost, "chain/validators", admin,
		"Change who signs the blocks: by what to add and remove, or by a change that was prepared; 202 while approvals or the block are missing", s.changeValidators, also(http.StatusAccepted))
}

func (s *Server) validators(_ context.Context, p *Page) (*answer[list[parley.Validator]], error) {
	if s.cfg.Network != config.NetworkConsortium {
		return nil, notOnThisNetwork.problem("who makes blocks is for the program to know on a node of a " + s.cfg.Network + " network")
	}
	return pageOf(s.node.Validators(), *p)
}

type changed struct {
	Status int
	Body   parley.Change
}

type validatorsChange struct {
	Timeout string `query:"timeout" maxLength:"16" default:"10s" doc:"to wait for the block"`
	Body    parley.ChangeRequest
}

func (s *Server) changeValidators(ctx context.Context, in *validatorsChange) (*changed, error) {
	w, err := parseWait("", in.Timeout)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	c, err := s.node.ChangeValidators(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	switch c.Status {
	case parley.ChangeCommitted, parley.ChangePlanned:
		return &changed{http.StatusOK, c}, nil
	}
	return &changed{http.StatusAccepted, c}, nil
}

// caution is the answer for a change that needs a flag.
func caution(e *parley.CautionError) *problem {
	p := conflict.problem(e.Detail + ` (with "` + e.Flag + `": true it is done nevertheless)`)
	p.Reason = e.Flag
	return p
}
