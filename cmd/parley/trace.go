package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/config"
)

const (
	traceDrain    = 2 * time.Second // for the last spans, at the end
	traceGrumbles = 10 * time.Minute
)

// newTracer sends spans to telemetry.otlp_endpoint. They wait in a bounded
// queue, and are dropped where it is full: nobody waits for their receiver.
// Without an endpoint the tracer is nil. ratio may change meanwhile. The caller
// MUST call stop.
func newTracer(ctx context.Context, cfg *config.Loaded, version string, log *slog.Logger) (t trace.Tracer, ratio *sampler, stop func(), err error) {
	ratio = &sampler{}
	ratio.set(cfg.Telemetry.SampleRatio)
	if cfg.Telemetry.OTLPEndpoint == "" {
		return nil, ratio, func() {}, nil
	}
	log = log.With("room", "telemetry")
	grumble := rate.Sometimes{Interval: traceGrumbles}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		grumble.Do(func() { log.Warn("traces not delivered", "setting", "telemetry.otlp_endpoint", "err", err) })
	}))
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(tracesURL(cfg.Telemetry.OTLPEndpoint)))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("telemetry.otlp_endpoint: %w", err)
	}
	name := cfg.Telemetry.ServiceName
	if name == "" {
		name = "parley"
	}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithAttributes(
		attribute.String("service.name", name), attribute.String("service.version", version), attribute.String("service.instance.id", cfg.Node.Name)))
	if err != nil {
		log.Warn("resource of traces", "err", err) // OTEL_RESOURCE_ATTRIBUTES; the rest is there
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about),
		sdk.WithSampler(sdk.ParentBased(ratio, sdk.WithRemoteParentSampled(ratio)))) // whoever sends a traceparent does not decide what we keep
	stop = func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceDrain)
		defer cancel()
		if err := provider.Shutdown(end); err != nil {
			log.Warn("last traces not delivered", "err", err)
		}
	}
	return provider.Tracer("parley", trace.WithInstrumentationVersion(version)), ratio, stop, nil
}

// sampler keeps a part of all traces, which may change.
type sampler struct {
	now atomic.Pointer[sdk.Sampler]
}

func (s *sampler) set(ratio float64) {
	next := sdk.TraceIDRatioBased(ratio)
	s.now.Store(&next)
}

// take is for telemetry.sample_ratio that was read again.
func (s *sampler) take(cfg config.Config) (act func(), err error) {
	return func() { s.set(cfg.Telemetry.SampleRatio) }, nil
}

// ShouldSample implements [sdk.Sampler].
func (s *sampler) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	return (*s.now.Load()).ShouldSample(p)
}

// Description implements [sdk.Sampler].
func (s *sampler) Description() string { return (*s.now.Load()).Description() }

// tracesURL is the place for traces of an endpoint that may have others too.
func tracesURL(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint // the configuration has refused it
	}
	if !strings.HasSuffix(u.Path, "/v1/traces") {
		u = u.JoinPath("v1/traces")
	}
	return u.String()
}
