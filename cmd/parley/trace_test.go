package main

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// receiver takes traces by OTLP over HTTP, as a collector does.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex // guards below
	spans  []received
	faults []string
}

type received struct {
	*otlp.Span
	service, instance string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.take(req); err != "" {
			r.mu.Lock()
			r.faults = append(r.faults, err)
			r.mu.Unlock()
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) take(req *http.Request) string {
	if req.URL.Path != "/v1/traces" || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/x-protobuf" {
		return req.Method + " " + req.URL.Path + " " + req.Header.Get("Content-Type")
	}
	var body io.Reader = http.MaxBytesReader(nil, req.Body, 8<<20)
	if req.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			return err.Error()
		}
		body = z
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return err.Error()
	}
	var all collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &all); err != nil {
		return err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range all.ResourceSpans {
		service, instance := text(rs.Resource.Attributes, "service.name"), text(rs.Resource.Attributes, "service.instance.id")
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				r.spans = append(r.spans, received{s, service, instance})
			}
		}
	}
	return ""
}

// text is an attribute's value where that is text.
func text(attributes []*common.KeyValue, key string) string {
	for _, kv := range attributes {
		if kv.Key == key {
			return kv.Value.GetStringValue()
		}
	}
	return ""
}

// of are the spans of a name that a node sent.
func (r *receiver) of(instance, name string) (spans []received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.instance == instance && s.Name == name {
			spans = append(spans, s)
		}
	}
	return spans
}

// child is the span of that name within p, nil = none.
func (r *receiver) child(p received, name string) *received {
	for _, s := range r.of(p.instance, name) {
		if string(s.ParentSpanId) == string(p.SpanId) && string(s.TraceId) == string(p.TraceId) {
			return &s
		}
	}
	return nil
}

// TestTraces: two processes send what they do to a receiver: how they met, how
// one caught up, and a block from its arrival to the disk.
func TestTraces(t *testing.T) {
	r := newReceiver(t)
	settings := func(name string, more ...string) []string {
		return append(more, "node.name="+name, "telemetry.otlp_endpoint="+r.URL, "telemetry.sample_ratio=1", "telemetry.service_name=chain-7")
	}
	a := startFleetNode(t, "a", settings("anna")...)
	submit(a, "before")
	ops := freeAddr()
	b := startFleetNode(t, "b", settings("ben", "p2p.static_peers="+a.addr, "ops.listen="+ops)...)
	b.until("it has caught up", patience, func() bool {
		var c parley.Chain
		return b.get("chain", &c) == nil && c.Height >= 1
	})
	b.until("it has the next block by gossip", patience, func() bool { // once both are in the mesh
		submit(a, "after")
		return len(r.of("ben", "relay")) > 0
	})
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.addr+"/api/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-"+trace+"-"+span+"-01")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()

	var block received
	var store *received
	b.until("a block, whole", patience, func() bool {
		for _, block = range r.of("ben", "block") {
			if v := r.child(block, "validate"); v != nil && r.child(block, "relay") != nil {
				if store = r.child(*v, "store"); store != nil { // which begins when it is found good
					return true
				}
			}
		}
		return false
	})
	if text(block.Attributes, "peer") != a.id || len(block.ParentSpanId) != 0 || store.EndTimeUnixNano < block.StartTimeUnixNano || block.service != "chain-7" {
		t.Errorf("block %v, store %v", block, store)
	}
	for _, want := range []struct{ node, name, key, value string }{
		{"ben", "dial", "peer", a.id}, {"ben", "handshake", "direction", "outbound"}, {"anna", "handshake", "direction", "inbound"},
		{"ben", "sync.range", "peer", a.id}, {"anna", "http", "http.route", "/api/v1/status"},
	} {
		b.until(want.name+" of "+want.node, patience, func() bool {
			for _, s := range r.of(want.node, want.name) {
				if text(s.Attributes, want.key) == want.value {
					return true
				}
			}
			return false
		})
	}
	a.until("the request within its caller's trace", patience, func() bool {
		for _, s := range r.of("anna", "http") {
			if hex.EncodeToString(s.TraceId) == trace && hex.EncodeToString(s.ParentSpanId) == span {
				return true
			}
		}
		return false
	})
	for histogram, name := range map[string]string{
		"parley_gossip_validate_seconds": "block", "parley_handshake_seconds": "handshake", "parley_api_request_seconds": "http",
	} {
		b.until("an exemplar of "+histogram, patience, func() bool { return r.exemplar(t, "http://"+ops+"/metrics", histogram, "ben", name) })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d spans", len(r.spans))
	if len(r.faults) > 0 {
		t.Errorf("the receiver refused: %s", strings.Join(r.faults, "\n"))
	}
}

// exemplar tells whether a bucket of a histogram names the trace of a span.
func (r *receiver) exemplar(t *testing.T, url, histogram, instance, name string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(histogram+`_bucket.* # \{trace_id="(\w+)"\}`).FindAllSubmatch(page, -1) {
		for _, s := range r.of(instance, name) {
			if hex.EncodeToString(s.TraceId) == string(m[1]) {
				return true
			}
		}
	}
	return false
}

func submit(n *fleetNode, subject string) {
	n.t.Helper()
	if _, err := n.api.Do(n.t.Context(), http.MethodPost, "records", map[string]any{"subject": subject, "body": map[string]int{"n": 1}}, nil); err != nil {
		n.t.Fatal(err)
	}
}

func TestTracesURL(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://h:4318": "http://h:4318/v1/traces", "http://h:4318/": "http://h:4318/v1/traces", "https://h/otlp": "https://h/otlp/v1/traces",
		"https://h/otlp/v1/traces": "https://h/otlp/v1/traces",
	} {
		if got := tracesURL(endpoint); got != want {
			t.Errorf("%s: %s, want %s", endpoint, got, want)
		}
	}
}

// A ratio that is read again acts on the next trace.
func TestSampleRatioIsReadAgain(t *testing.T) {
	var s sampler
	kept := func() (n int) {
		for i := range 1000 {
			id := trace.TraceID{8: byte(i >> 2), 9: byte(i), 15: 1} // 8 and 9 decide
			if s.ShouldSample(sdk.SamplingParameters{TraceID: id}).Decision == sdk.RecordAndSample {
				n++
			}
		}
		return n
	}
	for ratio, want := range map[float64][2]int{0: {0, 0}, 1: {1000, 1000}, 0.5: {400, 600}} {
		cfg := config.Default()
		cfg.Telemetry.SampleRatio = ratio
		act, err := s.take(cfg)
		if err != nil {
			t.Fatal(err)
		}
		act()
		if n := kept(); n < want[0] || n > want[1] {
			t.Errorf("of 1000 traces at %v %d are kept", ratio, n)
		}
	}
}
