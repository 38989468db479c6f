package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley"
)

const (
	maxImport = 16 << 20 // bytes
	linesType = "application/x-ndjson"
)

func (s *Server) bookRoutes() {
	operation(s, http.MethodGet, "addrbook", admin, "The address book: tried peers first, then new ones", s.addrbook, s.large)
	s.raw(route{method: http.MethodGet, pattern: prefix + "addrbook/export", access: admin, places: s.dumps, serve: s.exportBook}, huma.Operation{
		OperationID: "get-addrbook-export", Summary: "The address book as JSON lines, with the signed records",
	}, form{gives: linesType})
	s.raw(route{method: http.MethodPost, pattern: prefix + "addrbook/import", access: admin, maxBody: maxImport, places: s.dumps, serve: s.importBook}, huma.Operation{
		OperationID: "post-addrbook-import", Summary: "Add the peers of JSON lines, as an export has them; bad lines are left out and told",
	}, form{takes: []string{linesType}, gives: "application/json", answer: reflect.TypeFor[parley.ImportedAddresses]()})
}

func (s *Server) addrbook(_ context.Context, in *struct {
	Page
	Table  string `query:"table" enum:"new,tried"`
	Source string `query:"source" maxLength:"32" doc:"a kind: static, bootstrap, dns, dht, pex, mdns, inbound or operator"`
	Group  string `query:"group" maxLength:"64" doc:"such as 4:203.0 or as:64500"`
	Q      string `query:"q" maxLength:"256" doc:"part of an id or an address"`
}) (*answer[list[parley.BookEntry]], error) {
	entries, next, err := s.node.AddressBook(parley.BookFilter{
		Table: in.Table, Source: in.Source, Group: in.Group, Q: in.Q, After: in.Cursor, Limit: in.Limit,
	})
	if err != nil {
		return nil, err
	}
	return listOf(entries, next), nil
}

func (s *Server) exportBook(w http.ResponseWriter, r *http.Request) {
	began := &lazyHeader{ResponseWriter: w, contentType: linesType}
	switch err := s.node.ExportAddresses(began); {
	case err == nil:
	case !began.wrote:
		s.refuse(w, r, s.problemOf(err))
	default: // the reader is gone
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) importBook(w http.ResponseWriter, r *http.Request) {
	if !isLines(r.Header.Get("Content-Type")) {
		p := methodOrType.problem("want " + linesType)
		p.Status = http.StatusUnsupportedMediaType
		s.refuse(w, r, p)
		return
	}
	body, p := s.wholeBody(w, r)
	if p != nil {
		s.refuse(w, r, p)
		return
	}
	done, err := s.node.ImportAddresses(body)
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	s.log.Info("addresses imported", "added", done.Added, "refused", done.RefusedLines)
	writeJSON(w, http.StatusOK, done)
}

// wholeBody reads a body of which all or nothing is judged.
func (s *Server) wholeBody(w http.ResponseWriter, r *http.Request) (io.Reader, *problem) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every connection has one
	body, err := io.ReadAll(r.Body)
	if err != nil {
		p := badRequest.problem("read the body: " + err.Error())
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			p = s.problemOf(err)
		}
		return nil, p
	}
	_ = rc.SetReadDeadline(time.Time{})
	return bytes.NewReader(body), nil
}
