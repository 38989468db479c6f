package api

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"connectrpc.com/connect"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/event"
)

const (
	blocksAtOnce = 64 // of WatchBlocks, in one step
	watchAtOnce  = 64 // clients of WatchBlocks, with a token and without
)

func (s *Server) chainService() {
	watchers := newSlots(watchAtOnce, listWait, "too many watch the blocks, or one does from this address: use a token")
	grpcService(s, parleyv1connect.NewChainServiceHandler, parleyv1connect.ChainServiceHandler(chainCalls{s}), map[string]grpcRule{
		"GetChain": {access: read}, "GetHead": {access: read}, "ListHeads": {access: read}, "GetBlock": {access: read},
		"ListBlocks": {access: read, places: s.lists}, "ListValidators": {access: read}, "GetRecord": {access: read},
		"ListRecords": {access: read, places: s.lists}, "GetProof": {access: read, places: s.lists},
		"WatchBlocks":      {access: read, places: watchers, stream: true},
		"ChangeValidators": {access: admin}, "SubmitRecord": {access: anybody, maxBody: maxRecordBody},
	})
}

type chainCalls struct{ s *Server }

func (c chainCalls) GetChain(context.Context, *connect.Request[pb.GetChainRequest]) (*connect.Response[pb.Chain], error) {
	chain, err := c.s.node.Chain()
	return answered[pb.Chain](chain, err)
}

func (c chainCalls) GetHead(ctx context.Context, _ *connect.Request[pb.GetHeadRequest]) (*connect.Response[pb.StatusHead], error) {
	return asked[pb.StatusHead](ctx, c.s.head, &none{})
}

func (c chainCalls) ListHeads(ctx context.Context, r *connect.Request[pb.ListHeadsRequest]) (*connect.Response[pb.ListHeadsResponse], error) {
	return asked[pb.ListHeadsResponse](ctx, c.s.heads, pageIn(r.Msg))
}

func (c chainCalls) GetBlock(ctx context.Context, r *connect.Request[pb.GetBlockRequest]) (*connect.Response[pb.Block], error) {
	return asked[pb.Block](ctx, c.s.block, &blockRef{Ref: r.Msg.GetRef()})
}

func (c chainCalls) ListBlocks(ctx context.Context, r *connect.Request[pb.ListBlocksRequest]) (*connect.Response[pb.ListBlocksResponse], error) {
	in := &blocksQuery{Page: *pageIn(r.Msg), Order: r.Msg.GetOrder()}
	if r.Msg.From != nil {
		in.From = strconv.FormatUint(r.Msg.GetFrom(), 10)
	}
	return asked[pb.ListBlocksResponse](ctx, c.s.blocks, in)
}

func (c chainCalls) ListValidators(ctx context.Context, r *connect.Request[pb.ListValidatorsRequest]) (*connect.Response[pb.ListValidatorsResponse], error) {
	return asked[pb.ListValidatorsResponse](ctx, c.s.validators, pageIn(r.Msg))
}

func (c chainCalls) ChangeValidators(ctx context.Context, r *connect.Request[pb.ChangeValidatorsRequest]) (*connect.Response[pb.Change], error) {
	m := r.Msg
	in := &validatorsChange{Timeout: m.GetTimeout(), Body: parley.ChangeRequest{
		Remove: m.GetRemove(), AddAdmins: m.GetAddAdmins(), RemoveAdmins: m.GetRemoveAdmins(), Threshold: int(m.GetThreshold()),
		Change: m.GetChange(), Approvals: m.GetApprovals(), Force: m.GetForce(), AcceptTwo: m.GetAcceptTwo(), DryRun: m.GetDryRun(),
	}}
	for _, a := range m.GetAdd() {
		in.Body.Add = append(in.Body.Add, parley.Candidate{Key: a.GetKey(), Name: a.GetName(), Addresses: a.GetAddresses()})
	}
	if err := fits(in); err != nil {
		return nil, err
	}
	out, err := c.s.changeValidators(ctx, in)
	if err != nil {
		return nil, err
	}
	return answered[pb.Change](out.Body, nil)
}

func (c chainCalls) SubmitRecord(ctx context.Context, r *connect.Request[pb.SubmitRecordRequest]) (*connect.Response[pb.Record], error) {
	m := r.Msg
	in := &newRecord{Ack: m.GetAck(), Timeout: m.GetTimeout(), Body: parley.Draft{
		Subject: m.GetSubject(), MediaType: m.GetMediaType(), BodyBase64: m.GetBodyBase64(), Nonce: m.Nonce,
		NotAfter: m.GetNotAfter(), Author: m.GetAuthor(), Sig: m.GetSig(), Raw: m.GetRaw(),
	}}
	if m.GetBody() != "" {
		if in.Body.Body = json.RawMessage(m.GetBody()); !json.Valid(in.Body.Body) {
			return nil, badRequest.problem("body: want JSON text; body_base64 takes any octets")
		}
	}
	if err := fits(in); err != nil {
		return nil, err
	}
	out, err := c.s.submit(ctx, in)
	if err != nil {
		return nil, err
	}
	return recordShown(out.Body)
}

func (c chainCalls) GetRecord(ctx context.Context, r *connect.Request[pb.GetRecordRequest]) (*connect.Response[pb.Record], error) {
	in := &recordPath{ID: r.Msg.GetId()}
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := c.s.record(ctx, in)
	if err != nil {
		return nil, err
	}
	return recordShown(a.Body)
}

// recordMessage keeps a body that is JSON as it stands, for its hash is of its
// bytes.
func recordMessage(r parley.Record) (*pb.Record, error) {
	body := r.Body
	r.Body = nil
	m, err := shown[pb.Record](r)
	if err != nil {
		return nil, err
	}
	m.Body = string(body)
	return m, nil
}

func recordShown(r parley.Record) (*connect.Response[pb.Record], error) {
	m, err := recordMessage(r)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

func (c chainCalls) ListRecords(ctx context.Context, r *connect.Request[pb.ListRecordsRequest]) (*connect.Response[pb.ListRecordsResponse], error) {
	l, err := c.records(ctx, r.Msg)
	if err != nil {
		return nil, err
	}
	out := &pb.ListRecordsResponse{Count: int32(l.Count)} //nolint:gosec // at most 1000
	if l.NextCursor != nil {
		out.NextCursor = *l.NextCursor
	}
	for _, record := range l.Items {
		m, err := recordMessage(record)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, m)
	}
	return connect.NewResponse(out), nil
}

func (c chainCalls) records(ctx context.Context, m *pb.ListRecordsRequest) (l list[parley.Record], err error) {
	var a *answer[list[parley.Record]]
	if m.GetBlock() == "" {
		in := &recordsQuery{Page: *pageIn(m), Subject: m.GetSubject(), Author: m.GetAuthor(), Order: m.GetOrder()}
		if err = fits(in); err == nil {
			a, err = c.s.history(ctx, in)
		}
	} else {
		if m.GetSubject() != "" || m.GetAuthor() != "" || m.GetOrder() == "desc" {
			return l, badRequest.problem("the records of a block come whole and in their order: leave subject, author and order out")
		}
		in := &blockRecordsQuery{Page: *pageIn(m), Ref: m.GetBlock()}
		if err = fits(in); err == nil {
			a, err = c.s.blockRecords(ctx, in)
		}
	}
	if err != nil {
		return l, err
	}
	return a.Body, nil
}

func (c chainCalls) GetProof(ctx context.Context, r *connect.Request[pb.GetProofRequest]) (*connect.Response[pb.ProofFile], error) {
	in := &recordPath{ID: r.Msg.GetId()}
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := c.s.proof(ctx, in)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(a.Body)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ProofFile{Json: string(b)}), nil
}

// WatchBlocks reads the blocks from the disk; events only wake it. So none is
// missed, however slow the client is.
func (c chainCalls) WatchBlocks(ctx context.Context, r *connect.Request[pb.WatchBlocksRequest], to *connect.ServerStream[pb.Block]) error {
	sub := c.s.node.Events().Subscribe()
	defer sub.Close()
	chain, err := c.s.node.Chain()
	if err != nil {
		return err
	}
	next := chain.Height + 1
	if r.Msg.From != nil {
		next = r.Msg.GetFrom()
	}
	if next > math.MaxInt64 {
		return badRequest.problem("from: want a height")
	}
	if err := to.Send(nil); err != nil { // the header alone: it says that from here on none is missed
		return err
	}
	for {
		if next, err = c.sendBlocks(to, next); err != nil {
			return err
		}
		for stored := false; !stored; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-sub.Wake():
				events, lost := sub.Take(takeAtOnce)
				stored = lost > 0 || slices.ContainsFunc(events, func(e event.Envelope) bool { return e.Type == event.BlockStored{}.Type() })
			}
		}
	}
}

// sendBlocks sends what there is from height next on, and tells what comes next.
func (c chainCalls) sendBlocks(to *connect.ServerStream[pb.Block], next uint64) (uint64, error) {
	for {
		chain, err := c.s.node.Chain()
		if err != nil || next > chain.Height {
			return next, err
		}
		blocks, _, err := c.s.node.Blocks(parley.Range{Limit: blocksAtOnce, After: strconv.FormatUint(next, 10)})
		if err != nil {
			return next, err
		}
		for _, b := range blocks {
			m, err := shown[pb.Block](b)
			if err != nil {
				return next, err
			}
			if err := to.Send(m); err != nil {
				return next, err
			}
			next = b.Height + 1
		}
	}
}

// paged is a request for a part of a list.
type paged interface {
	GetLimit() int32
	GetCursor() string
}

func pageIn(m paged) *Page { return &Page{Limit: int(m.GetLimit()), Cursor: m.GetCursor()} }
