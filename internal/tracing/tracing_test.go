package tracing

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// traced is what a room does around its work.
func traced(ctx context.Context, t trace.Tracer, err error) {
	ctx, span := Start(ctx, t, "work")
	if span.IsRecording() {
		span.SetAttributes(attribute.Int("bytes", 7))
	}
	_, inner := Start(ctx, t, "part")
	End(inner, nil)
	End(span, err)
}

func TestSpans(t *testing.T) {
	kept := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(kept))
	traced(t.Context(), provider.Tracer("test"), errors.New("lost"))
	spans := kept.GetSpans()
	if len(spans) != 2 || spans[0].Name != "part" || spans[1].Name != "work" {
		t.Fatalf("spans %v", spans)
	}
	if part, work := spans[0], spans[1]; part.Parent.SpanID() != work.SpanContext.SpanID() || part.Status.Code != codes.Unset ||
		work.Status.Code != codes.Error || work.Status.Description != "lost" || len(work.Attributes) != 1 {
		t.Errorf("%+v\n%+v", part, work)
	}
}

// TestOffIsFree: whoever traces nothing pays nothing.
func TestOffIsFree(t *testing.T) {
	ctx, err := t.Context(), errors.New("lost")
	if n := testing.AllocsPerRun(1000, func() { traced(ctx, nil, err) }); n != 0 {
		t.Errorf("%v allocations without a tracer", n)
	}
}

func BenchmarkOff(b *testing.B) {
	b.ReportAllocs()
	ctx := b.Context()
	for b.Loop() {
		traced(ctx, nil, nil)
	}
}

// BenchmarkUnsampled is of a trace that is not kept, as nine of ten are.
func BenchmarkUnsampled(b *testing.B) {
	provider := sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))
	benchmarkOn(b, provider.Tracer("bench"))
}

func BenchmarkSampled(b *testing.B) {
	provider := sdk.NewTracerProvider()
	benchmarkOn(b, provider.Tracer("bench"))
}

func benchmarkOn(b *testing.B, t trace.Tracer) {
	b.Helper()
	b.ReportAllocs()
	ctx := b.Context()
	for b.Loop() {
		traced(ctx, t, nil)
	}
}
