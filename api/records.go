package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

const (
	maxRecordBody = 128 << 10 // bytes of a submitted record as JSON
	maxBatchBody  = 4 << 20
	defaultWait   = 10 * time.Second // for a block
	maxWait       = time.Minute
)

func (s *Server) recordRoutes() {
	operation(s, http.MethodPost, "records", anybody, "Submit a record; one that the author did not sign needs scope admin", s.submit,
		func(op *huma.Operation) { op.MaxBodyBytes = maxRecordBody + humaSpare }, also(http.StatusAccepted))
	s.raw(route{method: http.MethodPost, pattern: prefix + "records/batch", access: anybody, maxBody: maxBatchBody, serve: s.batch}, huma.Operation{
		OperationID: "post-records-batch", Summary: "Submit records, one JSON object a line; answers one line each, in order",
	}, form{
		query: []*huma.Param{param("ack", huma.TypeString, "committed or accepted"), param("timeout", huma.TypeString, "to wait for the blocks")},
		takes: []string{linesType, "application/jsonl"}, gives: linesType,
	})
	operation(s, http.MethodGet, "records/{id}", read, "One record with its state", s.record)
	operation(s, http.MethodGet, "records", read, "The records of a subject or an author", s.history, s.large)
}

// wait says how far a record must have come before the answer.
type wait struct {
	ack     parley.Ack
	timeout time.Duration
}

func parseWait(ack, timeout string) (wait, error) {
	w := wait{parley.Ack(ack), defaultWait}
	if ack == "" {
		w.ack = parley.Committed
	}
	if w.ack != parley.Accepted && w.ack != parley.Committed {
		return w, badRequest.problem("ack: want accepted or committed")
	}
	if timeout != "" {
		d, err := time.ParseDuration(timeout)
		if err != nil || d <= 0 || d > maxWait {
			return w, badRequest.problem("timeout: want a duration such as 10s, at most " + maxWait.String())
		}
		w.timeout = d
	}
	return w, nil
}

type submitted struct {
	Status   int
	Location string `header:"Location"`
	Body     parley.Record
}

type newRecord struct {
	Ack     string `query:"ack" enum:"accepted,committed" default:"committed"`
	Timeout string `query:"timeout" maxLength:"16" default:"10s"`
	Body    parley.Draft
}

func (s *Server) submit(ctx context.Context, in *newRecord) (*submitted, error) {
	w, err := parseWait(in.Ack, in.Timeout)
	if err != nil {
		return nil, err
	}
	r, err := s.take(ctx, callerOf(ctx), in.Body, w)
	if err != nil {
		return nil, err
	}
	if r.Status == "committed" {
		return &submitted{Status: http.StatusOK, Body: r}, nil
	}
	return &submitted{Status: http.StatusAccepted, Location: prefix + "records/" + r.ID.String(), Body: r}, nil
}

// take submits one draft for a caller.
func (s *Server) take(ctx context.Context, c caller, d parley.Draft, w wait) (parley.Record, error) {
	if signed := d.Raw != "" || d.Sig != ""; !signed && !c.admin {
		return parley.Record{}, scopeProblem("a record that its author did not sign is signed by this node, which needs a token of scope admin")
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	r, err := s.node.Submit(ctx, d, w.ack)
	if err == nil && r.Status == "rejected" {
		return r, rejected(r)
	}
	return r, err
}

// rejected is the answer for a record that will never be committed.
func rejected(r parley.Record) *problem {
	p := recordRefused.problem("record " + r.ID.String() + " was rejected for good")
	p.Status = http.StatusGone
	if r.Reason != nil {
		p.Reason = *r.Reason
		p.Detail += ": " + p.Reason
	}
	return p
}

type recordPath struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *Server) record(_ context.Context, in *recordPath) (*answer[parley.Record], error) {
	id, err := chain.ParseHash(in.ID)
	if err != nil {
		return nil, badRequest.problem("record id: want 64 hex digits")
	}
	r, err := s.node.Record(id)
	if err != nil {
		return nil, err
	}
	if r.Status == "rejected" {
		return nil, rejected(r)
	}
	return &answer[parley.Record]{r}, nil
}

type recordsQuery struct {
	Page
	Subject string `query:"subject" maxLength:"1024"`
	Author  string `query:"author" maxLength:"72"`
	Order   string `query:"order" enum:"asc,desc" default:"desc"`
}

func (s *Server) history(_ context.Context, in *recordsQuery) (*answer[list[parley.Record]], error) {
	if (in.Subject == "") == (in.Author == "") {
		return nil, badRequest.problem("give one of subject and author")
	}
	if _, err := s.node.Chain(); err != nil {
		return nil, err
	}
	r := parley.Range{Desc: in.Order == "desc", Limit: in.Limit, After: in.Cursor}
	var records []parley.Record
	var next string
	var err error
	if in.Subject != "" {
		records, next, err = s.node.History(in.Subject, r)
	} else {
		key, bad := consortium.ParsePublicKey(in.Author)
		if bad != nil {
			return nil, badRequest.problem("author: want 64 hex digits")
		}
		records, next, err = s.node.ByAuthor(key, r)
	}
	if err != nil {
		return nil, err
	}
	return listOf(records, next), nil
}
