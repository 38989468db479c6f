package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

func TestDraftOf(t *testing.T) {
	for _, c := range []struct{ line, subject, body, fault string }{
		{line: `{"subject":"a","event":"x", "n" : 1.50 }`, subject: "a", body: `{"event":"x","n" : 1.50}`},
		{line: `{"event":"<&>\u00e9é","subject":"b"}`, subject: "b", body: `{"event":"<&>\u00e9é"}`},
		{line: `{"subject":"c"}`, subject: "c", body: `{}`},
		{line: `{"body":{"subject":"no"},"subject":"d"}`, subject: "d", body: `{"body":{"subject":"no"}}`},
		{line: `{"s\u0075bject":"e","x":[]}`, subject: "e", body: `{"x":[]}`},
		{line: `{}`, fault: "no key"},
		{line: `[]`, fault: "want an object"},
		{line: `{"subject":"a"} {}`, fault: "no JSON"},
		{line: `{"subject":"a","subject":"b"}`, fault: "two subjects"},
		{line: `{"subject":null}`, fault: "want a string"},
		{line: `{"subject":"a","x":"` + strings.Repeat("x", maxLine) + `"}`, fault: "longer than"},
	} {
		draft, nonce, err := draftOf([]byte(c.line))
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%.60s: error %v, want %q", c.line, err, c.fault)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		var d parley.Draft
		if err := json.Unmarshal(draft, &d); err != nil {
			t.Errorf("%s: draft %s: %v", c.line, draft, err)
			continue
		}
		if d.Subject != c.subject || string(d.Body) != c.body || d.MediaType != jsonMedia || *d.Nonce != nonce || nonce >= 1<<nonceBits {
			t.Errorf("%s: draft %s", c.line, draft)
		}
	}
}

func FuzzDraftOf(f *testing.F) {
	f.Add([]byte(`{"subject":"a","event":"x", "n" : 1.50 }`))
	f.Add([]byte(`{"s\u0075bject":"e","x":[],"":null}`))
	f.Add([]byte("{\"subject\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || bytes.ContainsRune(line, '\n') {
			return // not a line
		}
		draft, _, err := draftOf(line)
		if err != nil {
			return
		}
		if !json.Valid(draft) || bytes.ContainsRune(draft, '\n') {
			t.Fatalf("%q gives %q", line, draft)
		}
		var whole map[string]json.RawMessage
		var d struct {
			Body map[string]json.RawMessage `json:"body"`
		}
		if json.Unmarshal(line, &whole) != nil || json.Unmarshal(draft, &d) != nil {
			t.Fatalf("%q gives %q", line, draft)
		}
		if _, kept := d.Body["subject"]; kept || len(d.Body) != len(whole)-1 {
			t.Fatalf("%q gives body %q", line, d.Body)
		}
	})
}

// moody is a node that takes lines in the end only.
type moody struct {
	mu       sync.Mutex
	requests int
	seen     map[string]int // how often each draft came
	most     int            // lines of one request
}

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	if m.requests == 1 { // too many requests
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"title":"Rate limited","status":429,"code":"PLY-010"}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := 0
	for line := range strings.Lines(string(body)) {
		m.seen[line]++
		n++
		switch {
		case strings.Contains(line, "bad"):
			fmt.Fprintln(w, `{"title":"Refused","status":400,"code":"PLY-017","reason":"bad_subject","detail":"so it is"}`)
		case m.seen[line] == 1 && n%3 == 1:
			fmt.Fprintln(w, `{"title":"Refused","status":429,"code":"PLY-017","reason":"author_limit"}`)
		case m.seen[line] == 1 && n%3 == 2:
			fmt.Fprintln(w, `{"id":"00","status":"pending"}`)
		case strings.Contains(line, "old"):
			fmt.Fprintln(w, `{"id":"00","status":"committed","height":3}`)
		default:
			fmt.Fprintln(w, `{"id":"00","status":"committed","height":4}`)
		}
	}
	m.most = max(m.most, n)
}

func TestLoadGoesOnUntilEachLineHasItsVerdict(t *testing.T) {
	node := &moody{seen: map[string]int{}}
	server := httptest.NewServer(node)
	defer server.Close()
	var file bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&file, "{\"subject\":\"s\",\"n\":%d}\n", i)
	}
	file.WriteString("{\"subject\":\"old\"}\r\n\n{\"subject\":\"bad\"}\n{\"subject\":\"s\",\"n\":7}\nnonsense\n")
	file.WriteString(`{"subject":"s","x":"` + strings.Repeat("x", 2*maxLine) + "\"}\n{\"subject\":\"last\"}")
	size := int64(file.Len())
	l := newLoader(&client{base: server.URL, http: server.Client()}, size, "committed")
	l.before = 3
	var talk bytes.Buffer
	if err := l.run(t.Context(), &file, newBar(&globals{err: &talk})); err != nil {
		t.Fatal(err)
	}
	if s := l.sum; s.Loaded != 1001 || s.Known != 2 || s.Refused != 3 || s.Lines != 1006 {
		t.Errorf("summary %+v", s)
	}
	if l.read != size {
		t.Errorf("counted %d bytes of %d", l.read, size)
	}
	for _, f := range l.sum.Faults {
		if want := map[int]string{1003: "bad_subject: so it is", 1005: "no JSON", 1006: "longer than"}[f.Line]; want == "" || !strings.Contains(f.Why, want) {
			t.Errorf("fault %+v, want %q", f, want)
		}
	}
	if node.most > batchLines {
		t.Errorf("%d lines in one request", node.most)
	}
}

func TestLoadStopsAtARefusalThatStays(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"title":"Unauthenticated","detail":"this needs a token","status":401,"code":"PLY-004"}`)
	}))
	defer server.Close()
	l := newLoader(&client{base: server.URL, http: server.Client()}, 0, "committed")
	err := l.run(t.Context(), strings.NewReader("{\"subject\":\"a\"}\n"), newBar(&globals{err: &bytes.Buffer{}}))
	if exitCode(t.Context(), err) != exitRefused {
		t.Fatalf("error %v", err)
	}
}

func TestBar(t *testing.T) {
	var out bytes.Buffer
	b := &bar{w: &out, width: 60, began: time.Now().Add(-10 * time.Second)}
	b.show(25, 100, "25 records")
	b.end()
	if got := out.String(); !strings.Contains(got, "██████░") || !strings.Contains(got, " 25%  25 records, 30s left") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("drew %q", got)
	}
	out.Reset()
	b = &bar{w: &out, began: time.Now(), last: time.Now()}
	b.show(25, 100, "too early for a line")
	b.last = time.Time{}
	b.show(100, 100, "done")
	if out.String() != "100%  done\n" {
		t.Errorf("drew %q", out.String())
	}
}
