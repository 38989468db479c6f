package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/parley-p2p/parley"
)

func (s *Server) chainRoutes() {
	operation(s, http.MethodGet, "chain", read, "The chain in short", func(context.Context, *none) (*answer[parley.Chain], error) {
		return answerOf(s.node.Chain())
	})
	operation(s, http.MethodGet, "chain/head", read, "The tip", s.head)
	operation(s, http.MethodGet, "chain/heads", read, "Each peer's tip beside ours", s.heads)
	s.validatorRoutes()
	operation(s, http.MethodGet, "chain/blocks", read, "Blocks, genesis included", s.blocks, s.large)
	operation(s, http.MethodGet, "chain/blocks/{ref}", read, "One block, by height or hash", s.block, s.byHash)
	operation(s, http.MethodGet, "chain/blocks/{ref}/records", read, "The records of a block in their order", s.blockRecords, s.large, s.byHash)
}

func (s *Server) head(context.Context, *none) (*answer[parley.StatusHead], error) {
	c, err := s.node.Chain()
	return answerOf(c.Head, err)
}

func (s *Server) heads(_ context.Context, p *Page) (*answer[list[parley.PeerHead]], error) {
	return pageOf(s.node.Heads(), *p)
}

type blockRef struct {
	Ref string `path:"ref" maxLength:"64" doc:"height or hash"`
}

func (s *Server) block(_ context.Context, in *blockRef) (*answer[parley.Block], error) {
	return answerOf(s.node.Block(in.Ref))
}

type blockRecordsQuery struct {
	Page
	Ref string `path:"ref" maxLength:"64" doc:"height or hash"`
}

func (s *Server) blockRecords(_ context.Context, in *blockRecordsQuery) (*answer[list[parley.Record]], error) {
	rs, next, err := s.node.BlockRecordsPage(in.Ref, parley.Range{Limit: in.Limit, After: in.Cursor})
	if err != nil {
		return nil, err
	}
	return listOf(rs, next), nil
}

type blocksQuery struct {
	Page
	From  string `query:"from" maxLength:"20" pattern:"^[0-9]+$" doc:"height to begin with"`
	Order string `query:"order" enum:"asc,desc" default:"asc"`
}

func (s *Server) blocks(_ context.Context, q *blocksQuery) (*answer[list[parley.Block]], error) {
	r := parley.Range{Desc: q.Order == "desc", Limit: q.Limit, After: q.Cursor}
	if q.Cursor == "" && q.From != "" {
		from, err := strconv.ParseUint(q.From, 10, 53)
		if err != nil {
			return nil, badRequest.problem("from: want a height")
		}
		c, err := s.node.Chain()
		if err != nil {
			return nil, err
		}
		if from > c.Height && !r.Desc {
			return listOf([]parley.Block{}, ""), nil // not there yet
		}
		r.After = strconv.FormatUint(min(from, c.Height), 10)
	}
	bs, next, err := s.node.Blocks(r)
	if err != nil {
		return nil, err
	}
	return listOf(bs, next), nil
}
