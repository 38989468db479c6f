package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/event"
)

// TestErrorsGolden pins each error in each form that it has: of the native routes
// and remote calls, of ProvChain, of a beacon node, of JSON-RPC.
func TestErrorsGolden(t *testing.T) {
	s := idleServer(t, nil)
	var b bytes.Buffer
	for _, k := range []kind{
		internalError, badRequest, invalid, unauthenticated, forbidden, notFound, conflict, tooLarge, methodOrType, rateLimited, notOnThisNetwork,
		notReady, tokensOff, full, timedOut, dialFailed, recordRefused,
	} {
		fmt.Fprintf(&b, "%s %s\n", k.code, k.slug)
		for _, path := range []string{"/api/v1/x", "/api/x", "/eth/v1/x", "/parley.v1.NodeService/GetStatus"} {
			p := k.problem("what, and what to do")
			switch k {
			case full:
				p.Limit = "clients"
			case dialFailed:
				p.Class = "refused"
			case recordRefused:
				p.Reason = "expired"
			}
			r := httptest.NewRequest("POST", path, strings.NewReader("{}"))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			s.refuse(w, r, p)
			retry := ""
			if after := w.Header().Get("Retry-After"); after != "" {
				retry = ", Retry-After " + after
			}
			var body bytes.Buffer // without the blanks that protobuf's JSON has by chance
			if err := json.Compact(&body, w.Body.Bytes()); err != nil {
				t.Fatal(err)
			}
			text := regexp.MustCompile(`"(timestamp|value)":"[^"]*"`).ReplaceAllString(body.String(), `"$1":"…"`)
			fmt.Fprintf(&b, "  %s %d %s%s\n    %s\n", path, w.Code, w.Header().Get("Content-Type"), retry, text)
		}
		fmt.Fprintf(&b, "  JSON-RPC\n    %s\n", bytes.TrimSpace(rpcErrorBody(json.RawMessage("1"), rpcErrorOf(k.problem("what, and what to do")))))
	}
	golden(t, "errors.golden", b.Bytes())
}

// TestStreamGolden pins what the event stream sends beside events, and how both
// its forms wrap them.
func TestStreamGolden(t *testing.T) {
	s := idleServer(t, nil)
	var b bytes.Buffer
	f, err := encodeEvent(event.Envelope{V: 1, Seq: 1882367144759911, TS: time.Date(2026, 11, 20, 10, 0, 0, 123_456_789, time.UTC), Type: "peer.unbanned",
		Data: event.PeerUnbanned{Target: "192.0.2.1", By: "token:ops"}})
	if err != nil {
		t.Fatal(err)
	}
	q := testQueue(t, "")
	for i := range queueSize + 2 {
		q.push(frame{seq: uint64(i + 1), name: "block.stored"})
	}
	left, _ := q.take(time.Now())
	if err := q.obey([]byte(`{"ping":7}`)); err != nil {
		t.Fatal(err)
	}
	pong, _ := q.take(time.Now())
	for _, f := range []frame{f, message("hello", hello{Boot: "0011223344556677", Seq: 1882367144759910, Resumed: true}), left[queueSize], pong[0]} {
		fmt.Fprintf(&b, "%s\n%s", f.data, f.sse())
	}
	var whole any
	if err := json.Unmarshal(message("hello", hello{Boot: s.boot, Snapshot: s.snapshot()}).data, &whole); err != nil {
		t.Fatal(err)
	}
	form, err := json.MarshalIndent(shape(whole), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(append(form, '\n'))
	golden(t, "stream.golden", b.Bytes())
}
