package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/parley-p2p/parley"
)

func (s *Server) chainRoutes() {
	operation(s, http.MethodGet, "chain", read, "The chain in short", func(context.Context, *none) (*answer[parley.Chain], error) {
		c, err := s.node.Chain()
		return &answer[parley.Chain]{c}, err
	})
	operation(s, http.MethodGet, "chain/head", read, "The tip", func(context.Context, *none) (*answer[parley.StatusHead], error) {
		c, err := s.node.Chain()
		return &answer[parley.StatusHead]{c.Head}, err
	})
	operation(s, http.MethodGet, "chain/heads", read, "Each peer's tip beside ours", func(_ context.Context, p *Page) (*answer[list[parley.PeerHead]], error) {
		return pageOf(s.node.Heads(), *p)
	})
	s.validatorRoutes()
	operation(s, http.MethodGet, "chain/blocks", read, "Blocks, genesis included", s.blocks, s.large)
	operation(s, http.MethodGet, "chain/blocks/{ref}", read, "One block, by height or hash", func(_ context.Context, in *blockRef) (*answer[parley.Block], error) {
		b, err := s.node.Block(in.Ref)
		return &answer[parley.Block]{b}, err
	})
	operation(s, http.MethodGet, "chain/blocks/{ref}/records", read, "The records of a block in their order", func(_ context.Context, in *blockRecordsQuery) (*answer[list[parley.Record]], error) {
		rs, next, err := s.node.BlockRecordsPage(in.Ref, parley.Range{Limit: in.Limit, After: in.Cursor})
		if err != nil {
			return nil, err
		}
		return listOf(rs, next), nil
	}, s.large)
}

type blockRef struct {
	Ref string `path:"ref" maxLength:"64" doc:"height or hash"`
}

type blockRecordsQuery struct {
	Page
	Ref string `path:"ref" maxLength:"64" doc:"height or hash"`
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
