package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley"
)

const batchAtOnce = 256 // lines submitted at the same time: a subtree

// batch submits the records of a body, one JSON object a line, and answers
// with one line each in the same order: the record, or a problem.
func (s *Server) batch(w http.ResponseWriter, r *http.Request) {
	how, err := parseWait(r.URL.Query().Get("ack"), r.URL.Query().Get("timeout"))
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	if !isLines(r.Header.Get("Content-Type")) {
		p := methodOrType.problem("want application/x-ndjson or application/jsonl")
		p.Status = http.StatusUnsupportedMediaType
		s.refuse(w, r, p)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every connection has one
	body, err := io.ReadAll(r.Body)
	if err != nil {
		p := badRequest.problem("read the body: " + err.Error())
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			p = s.problemOf(err)
		}
		s.refuse(w, r, p)
		return
	}
	_ = rc.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	s.answerLines(r.Context(), w, rc, body, how)
}

// isLines keeps out what a form of a foreign page could send.
func isLines(contentType string) bool {
	if contentType == "" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch mediaType {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/json", "application/octet-stream":
		return true
	}
	return false
}

// isText tells a list of plain lines.
func isText(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "text/plain"
}

// answerLines works on several lines at once and writes the answers in order.
func (s *Server) answerLines(ctx context.Context, w io.Writer, rc *http.ResponseController, body []byte, how wait) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan chan any, batchAtOnce)
	go func() {
		defer close(answers)
		for line := range bytes.Lines(body) {
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			a := make(chan any, 1)
			select {
			case answers <- a:
			case <-ctx.Done():
				return
			}
			go func() { a <- s.takeLine(ctx, line, how) }()
		}
	}()
	broken := false
	for a := range answers {
		v := <-a
		if broken {
			continue // wait for the rest: nobody listens
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := huma.DefaultJSONFormat.Marshal(w, v); err != nil {
			broken = true
			cancel()
			continue
		}
		if len(answers) == 0 {
			_ = rc.Flush()
		}
	}
}

func (s *Server) takeLine(ctx context.Context, line []byte, how wait) any {
	d, err := parseLine(line)
	if err == nil {
		var r parley.Record
		if r, err = s.take(ctx, callerOf(ctx), d, how); err == nil {
			return r
		}
	}
	p := s.problemOf(err)
	p.Instance = prefix + "records/batch"
	return p
}

// parseLine reads a draft, or a line of tx load: there the record's body is
// made of the keys beside subject, as they stand.
func parseLine(line []byte) (parley.Draft, error) {
	if raw, ok := rawLine(line); ok {
		return parley.Draft{Raw: raw}, nil
	}
	var d parley.Draft
	keys, err := splitObject(line)
	if err != nil {
		return d, badRequest.problem("not a JSON object: " + err.Error())
	}
	body := []byte{'{'}
	subject := false
	for _, k := range keys {
		switch k.name {
		case "body", "body_base64", "raw":
			dec := json.NewDecoder(bytes.NewReader(line))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&d); err != nil {
				return d, badRequest.problem("not a draft: " + err.Error())
			}
			return d, nil
		case "subject":
			if err := json.Unmarshal(k.value, &d.Subject); err != nil || subject {
				return d, badRequest.problem("subject: want one string")
			}
			subject = true
			continue
		}
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = append(append(append(body, k.text...), ':'), k.value...)
	}
	if !subject {
		return d, badRequest.problem("a line needs a subject")
	}
	d.Body = append(body, '}')
	return d, nil
}

// rawLine reads a line that is {"raw":"hex digits"} and nothing else: programs
// that sign send millions of them.
func rawLine(line []byte) (raw string, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"raw":"`))
	if !ok {
		return "", false
	}
	if rest, ok = bytes.CutSuffix(rest, []byte(`"}`)); !ok {
		return "", false
	}
	for _, c := range rest {
		if !hexDigits[c] {
			return "", false
		}
	}
	return string(rest), true
}

// hexDigits are the lower-case ones: a table, for comparing guesses wrong at
// every second digit.
var hexDigits = func() (is [256]bool) {
	for _, c := range []byte("0123456789abcdef") {
		is[c] = true
	}
	return is
}()

// member is one key of an object, with the bytes that it stood in.
type member struct {
	name        string
	text, value []byte
}

// splitObject takes an object apart and keeps the bytes and order of its keys.
func splitObject(b []byte) ([]member, error) {
	if !json.Valid(b) {
		return nil, errors.New("bad syntax")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want an object")
	}
	var members []member
	for dec.More() {
		from := dec.InputOffset()
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("key %v is not a string", t)
		}
		var v json.RawMessage
		text := bytes.TrimLeft(b[from:dec.InputOffset()], ", \t\r\n")
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		members = append(members, member{name, text, v})
	}
	return members, nil
}
