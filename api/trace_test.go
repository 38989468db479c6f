package api

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A request has a span with its route and status, within the trace of its
// caller; streams and what meets no route have none.
func TestTraced(t *testing.T) {
	kept := tracetest.NewInMemoryExporter()
	s := &Server{tracer: sdk.NewTracerProvider(sdk.WithSyncer(kept)).Tracer("test")}
	r := httptest.NewRequest(http.MethodGet, "/x/7", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	for _, rt := range []*route{{pattern: "/x/{id}"}, {pattern: "/events", stream: true}, nil} {
		_, span := s.traced(r, rt)
		endSpan(span, http.StatusServiceUnavailable)
	}
	spans := kept.GetSpans()
	if len(spans) != 1 || spans[0].Name != "http" || spans[0].Status.Code != codes.Error || spans[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Fatalf("spans %+v", spans)
	}
	got := attribute.NewSet(spans[0].Attributes...)
	want := attribute.NewSet(attribute.String("http.request.method", "GET"), attribute.String("http.route", "/x/{id}"), attribute.Int("http.response.status_code", 503))
	if !got.Equals(&want) {
		t.Errorf("attributes %v", spans[0].Attributes)
	}
}

// Without a tracer a request costs no more than before.
func TestUntracedIsFree(t *testing.T) {
	s := &Server{}
	r := httptest.NewRequest(http.MethodGet, "/x/7", nil)
	rt := &route{pattern: "/x/{id}"}
	if n := testing.AllocsPerRun(1000, func() {
		_, span := s.traced(r, rt)
		endSpan(span, http.StatusOK)
	}); n != 0 {
		t.Errorf("%v allocations without a tracer", n)
	}
}
