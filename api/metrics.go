package api

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/internal/tracing"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	clients  *prometheus.GaugeVec
	dropped  *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

// Labels from closed sets.
var (
	streams  = []string{"ws", "sse", "rpc", "teranode", "grpc"}
	refusals = []string{"token", "scope", "tokens_off", "rate", "host", "origin", "clients", "connections", "busy"}
)

const (
	noRoute     = "other" // label of requests that meet no route
	statusRoute = "/api/v1/status"
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_api_requests_total", Help: "Answered requests."}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "parley_api_request_seconds", Help: "Time to answer; streams are left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"route"}),
		clients: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "parley_api_clients", Help: "Clients that stay connected: of the event stream, of JSON-RPC, of the frames of Teranode."}, []string{"stream"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_api_events_dropped_total", Help: "Events that a slow client did not get."}, []string{"stream"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_api_refused_total", Help: "Requests and connections that were turned away."}, []string{"reason"}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.clients, m.dropped, m.refused} {
		errs = append(errs, reg.Register(c))
	}
	// Series of a route are made by its first request: those of all would be 200 KB
	// of zeros in each scrape. One route has them from the start, for the names.
	m.requests.WithLabelValues(statusRoute, http.MethodGet, strconv.Itoa(http.StatusOK))
	m.seconds.WithLabelValues(statusRoute)
	for _, stream := range streams {
		m.clients.WithLabelValues(stream)
		m.dropped.WithLabelValues(stream)
	}
	for _, reason := range refusals {
		m.refused.WithLabelValues(reason)
	}
	return m, errors.Join(errs...)
}

func (m *metrics) done(r *route, method string, status int, took time.Duration, span trace.Span) {
	pattern := noRoute
	if r != nil {
		pattern = r.pattern
		if !r.stream {
			tracing.Observe(m.seconds.WithLabelValues(pattern), took.Seconds(), span)
		}
	}
	m.requests.WithLabelValues(pattern, methodLabel(method), strconv.Itoa(status)).Inc()
}

func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return noRoute
}
