package api

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/internal/tracing"
)

// traced begins the span of a request, within the trace that its headers name.
// Streams never end by themselves and have none.
func (s *Server) traced(r *http.Request, rt *route) (*http.Request, trace.Span) {
	if s.tracer == nil || rt == nil || rt.stream {
		_, span := tracing.Start(r.Context(), nil, "")
		return r, span
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := tracing.Start(ctx, s.tracer, "http")
	if span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", methodLabel(r.Method)), attribute.String("http.route", rt.pattern))
	}
	return r.WithContext(ctx), span
}

// endSpan ends the span of a request.
func endSpan(span trace.Span, status int) {
	if span.IsRecording() {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
	}
	span.End()
}
