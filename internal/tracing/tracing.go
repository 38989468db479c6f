// Package tracing owns how rooms make spans: by a tracer that is handed to
// them, and at no cost where there is none.
package tracing

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// off is the span of those who trace nothing.
var off trace.Span = noop.Span{}

// Start begins a span, a child of the one in ctx, and returns a ctx with it. A
// nil tracer traces nothing and allocates nothing. Attributes are worth their
// making only where the span IsRecording.
func Start(ctx context.Context, t trace.Tracer, name string) (context.Context, trace.Span) {
	if t == nil {
		return ctx, off
	}
	return t.Start(ctx, name)
}

// End ends a span; err, where it is not nil, is how it failed.
func End(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// Observe puts a value into a histogram, with the trace that it comes from as
// its exemplar where that trace is kept.
func Observe(h prometheus.Observer, value float64, span trace.Span) {
	if c := span.SpanContext(); c.IsSampled() {
		if e, ok := h.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(value, prometheus.Labels{"trace_id": c.TraceID().String()})
			return
		}
	}
	h.Observe(value)
}
