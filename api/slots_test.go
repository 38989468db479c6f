package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley"
)

// TestDumpsAtOnce lets slow readers hold dumps while others ask for one.
func TestDumpsAtOnce(t *testing.T) {
	s := idleServer(t, nil)
	text, err := NewToken(s.cfg, "t", "read", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(l parley.Listener, addr string, header ...string) int {
		got := call(s, l, addr, "GET", "/api/blockchain/dump", "", header...)
		if got.status == http.StatusTooManyRequests && got.header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		return got.status
	}
	hold := func(c caller, addr string) func() {
		leave := s.dumps.take(t.Context(), c, netip.MustParseAddr(addr))
		if leave == nil {
			t.Fatalf("no place for %s", addr)
		}
		return leave
	}
	leave := hold(caller{}, "192.0.2.1")
	if got := ask(parley.Listener{}, "192.0.2.1:9"); got != 429 {
		t.Errorf("a second dump to one address: %d", got)
	}
	if got := ask(parley.Listener{}, "192.0.2.2:9"); got != 200 {
		t.Errorf("a dump to another address: %d", got)
	}
	leaveLoopback := hold(caller{free: true}, "127.0.0.1")
	if got := ask(parley.Listener{}, "192.0.2.2:9"); got != 429 {
		t.Errorf("over the bound of all: %d", got)
	}
	for range dumpsAtOnce - 1 {
		defer hold(caller{token: true}, "192.0.2.1")()
	}
	if got := ask(parley.Listener{Admin: true}, "@"); got != 200 {
		t.Errorf("the socket while strangers hold all places: %d", got)
	}
	if got := ask(parley.Listener{}, "192.0.2.1:9", "Authorization", "Bearer "+text); got != 200 {
		t.Errorf("a token while strangers hold all places: %d", got)
	}
	leave()
	leaveLoopback()
	if got := ask(parley.Listener{}, "192.0.2.1:9"); got != 200 {
		t.Errorf("after the others have left: %d", got)
	}
	if got := counted(t, s.metrics.refused, "parley_api_refused_total"); got != 2 {
		t.Errorf("%v refusals counted", got)
	}
	if len(s.dumps.byAddr) != 0 {
		t.Error("an address without a dump is kept")
	}
}

// TestLargeLists pins which routes are bounded, and that a list waits for its
// place.
func TestLargeLists(t *testing.T) {
	s := idleServer(t, nil)
	for pattern, places := range map[string]*slots{
		"GET /api/v1/records": s.lists, "GET /api/v1/chain/blocks": s.lists, "GET /api/v1/chain/blocks/{ref}/records": s.lists,
		"GET /api/transactions/recent": s.lists, "GET /api/blockchain/blocks": s.lists, "GET /api/blockchain/dump": s.dumps,
		"GET /api/v1/peers": s.lists, "GET /api/v1/addrbook": s.lists, "GET /api/v1/addrbook/export": s.dumps, "POST /api/v1/addrbook/import": s.dumps,
		"POST /api/v1/dht/find-node": s.queries, "POST /api/v1/dht/find-providers": s.queries, "POST /api/v1/dht/provide": s.queries,
		"GET /api/v1/dht/values": s.queries, "PUT /api/v1/dht/values": s.queries, "POST /api/v1/dht/crawl": s.queries,
	} {
		if s.routes[pattern].places != places {
			t.Errorf("%s is not bounded", pattern)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		lists := newSlots(1, listWait, "")
		one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		leave := lists.take(t.Context(), caller{}, one)
		began := time.Now()
		if lists.take(t.Context(), caller{}, two) != nil || time.Since(began) != listWait {
			t.Errorf("refused after %s, want %s", time.Since(began), listWait)
		}
		began = time.Now()
		time.AfterFunc(time.Second, leave)
		if lists.take(t.Context(), caller{}, two) == nil || time.Since(began) != time.Second {
			t.Errorf("after %s: no place", time.Since(began))
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if lists.take(gone, caller{}, one) != nil {
			t.Error("a place for a client that is gone")
		}
	})
}

// pipeWriter is an answer to a reader at the other end of a pipe.
type pipeWriter struct{ net.Conn }

func (pipeWriter) Header() http.Header { return http.Header{} }
func (pipeWriter) WriteHeader(int)     {}

// dueWriter remembers the deadline of its writes.
type dueWriter struct {
	http.ResponseWriter
	due time.Time
}

func (w *dueWriter) SetWriteDeadline(t time.Time) error { w.due = t; return nil }

// TestLargeAnswersTakeTheirTime: no deadline runs while the node makes a large
// answer; in HTTP/2 it would end the stream. One does while it is read.
func TestLargeAnswersTakeTheirTime(t *testing.T) {
	w := &dueWriter{ResponseWriter: httptest.NewRecorder(), due: time.Now().Add(writeTimeout)}
	(&Server{}).within(newSlots(1, 0, ""), func(answer http.ResponseWriter, _ *http.Request) {
		for range 3 {
			if !w.due.IsZero() {
				t.Errorf("the answer has to be made within %s", time.Until(w.due))
			}
			if _, err := answer.Write([]byte("part")); err != nil {
				t.Error(err)
			}
		}
	})(w, httptest.NewRequest("GET", "/", nil))
	if w.due.IsZero() {
		t.Error("no deadline for the rest")
	}
}

// TestSlowReader writes an answer to readers of several speeds.
func TestSlowReader(t *testing.T) {
	const size = 16 << 20
	for _, c := range []struct {
		name  string
		every time.Duration // between 64 KiB; 0 = takes nothing
		ends  time.Duration // most that it is borne
		whole bool
	}{
		{"fast", time.Millisecond, time.Second, true},
		{"just fast enough", paceChunk * time.Second / slowest, time.Minute + 5*time.Second, true},
		{"too slow", 2 * paceChunk * time.Second / slowest, 21 * time.Second, false},
		{"none", 0, slowGrace + time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				var reader sync.WaitGroup
				reader.Go(func() {
					for b := make([]byte, paceChunk); c.every > 0; time.Sleep(c.every) {
						if _, err := io.ReadFull(there, b); err != nil {
							return
						}
					}
				})
				began := time.Now()
				places := newSlots(1, 0, "")
				served, broken := (&Server{}).within(places, func(w http.ResponseWriter, _ *http.Request) {
					_, _ = w.Write(make([]byte, size))
				}), any(nil)
				func() {
					defer func() { broken = recover() }()
					served(pipeWriter{here}, (&http.Request{}).WithContext(t.Context()))
				}()
				if took := time.Since(began); took > c.ends || (broken == nil) != c.whole {
					t.Errorf("after %s: broken off with %v", took, broken)
				}
				if places.enter(caller{}, netip.Addr{}) != nil {
					t.Error("the place is not left")
				}
				_, _ = here.Close(), there.Close()
				reader.Wait()
			})
		})
	}
}

// TestLargeRecords walks through records of which a page by count alone would
// be large.
func TestLargeRecords(t *testing.T) {
	h := start(t, nil)
	h.waitFor("the chain", func() bool { return h.do("GET", "/api/v1/chain", "", "").status == 200 })
	const n, size = 90, 60_000
	var lines bytes.Buffer
	body := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfe}, size))
	for i := range n {
		fmt.Fprintf(&lines, `{"subject":"large","media_type":"x/%d","body_base64":%q}`+"\n", i, body)
		if lines.Len() > maxBatchBody*9/10 || i == n-1 {
			got := h.do("POST", "/api/v1/records/batch", "unix", lines.String(), "Content-Type", "application/x-ndjson")
			if got.status != 200 || strings.Contains(string(got.body), `"code"`) {
				t.Fatalf("%d %.300s", got.status, got.body)
			}
			lines.Reset()
		}
	}
	const most = 16 << 20 // 4 MiB of records in hex and base64
	seen, pages := map[any]bool{}, 0
	for cursor := ""; ; pages++ {
		got := h.do("GET", "/api/v1/records?subject=large&limit=1000&cursor="+cursor, "", "")
		if got.status != 200 || len(got.body) > most {
			t.Fatalf("%d, %d bytes", got.status, len(got.body))
		}
		m := got.json(t)
		for _, r := range m["items"].([]any) {
			seen[r.(map[string]any)["id"]] = true
		}
		next, more := m["next_cursor"].(string)
		if !more {
			break
		}
		cursor = next
	}
	if len(seen) != n || pages == 0 {
		t.Errorf("%d records on %d pages", len(seen), pages+1)
	}
	var recent struct {
		Transactions []struct{ ID, Subject string }
	}
	if err := json.Unmarshal(h.do("GET", "/api/transactions/recent", "", "").body, &recent); err != nil || len(recent.Transactions) != recentRecords {
		t.Fatalf("%d recent records: %v", len(recent.Transactions), err)
	}
	newest := h.do("GET", "/api/v1/records?subject=large&limit=1", "", "").json(t)["items"].([]any)[0].(map[string]any)
	if recent.Transactions[0].ID != newest["id"] {
		t.Errorf("the newest is %v, shown first is %v", newest["id"], recent.Transactions[0].ID)
	}
	height := newest["height"]
	block := h.do("GET", fmt.Sprintf("/api/v1/chain/blocks/%v", height), "", "").json(t)
	var ids []any
	for cursor := ""; ; {
		m := h.do("GET", fmt.Sprintf("/api/v1/chain/blocks/%v/records?limit=7&cursor=%s", height, cursor), "", "").json(t)
		for i, r := range m["items"].([]any) {
			r := r.(map[string]any)
			if r["index"] != float64(len(ids)) || i >= 7 {
				t.Fatalf("record %d of the block has index %v", len(ids), r["index"])
			}
			ids = append(ids, r["id"])
		}
		next, more := m["next_cursor"].(string)
		if !more {
			break
		}
		cursor = next
	}
	if float64(len(ids)) != block["record_count"] || ids[len(ids)-1] != newest["id"] {
		t.Errorf("%d records by pages, the block has %v", len(ids), block["record_count"])
	}
	if got := h.do("GET", fmt.Sprintf("/api/v1/chain/blocks/%v/records?cursor=x", height), "", ""); got.status != 400 || got.json(t)["code"] != "PLY-002" {
		t.Errorf("a wrong cursor: %d %s", got.status, got.body)
	}
}
