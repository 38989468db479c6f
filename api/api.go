// Package api owns what people and programs see of a node over HTTP: the
// native routes, the event stream, other systems' routes, metrics and probes.
package api

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// Options of a [Server]. The zero value logs nothing and counts for itself.
type Options struct {
	Log      *slog.Logger
	Registry *prometheus.Registry // also what /metrics on the ops listener shows
	Tracer   trace.Tracer         // makes a span of each request; nil = none
	Lines    *Log                 // of the process, for those who may read it; nil = it is nobody's business
}

// Server serves one node. Its event streams work while Run runs.
type Server struct {
	node    *parley.Node
	cfg     config.Config
	log     *slog.Logger
	reg     *prometheus.Registry
	metrics *metrics
	hub     *hub
	conns   *connCount // of the API's listeners but the socket
	dumps   *slots
	lists   *slots
	queries *slots       // of the DHT
	tails   *slots       // of gossip
	readers *slots       // of the log
	lines   *Log         // nil = not shown
	tracer  trace.Tracer // nil = requests are not traced
	ops     net.Listener // nil = none
	boot    string       // tells one start of the node from the next

	adopting sync.Mutex // held while live and origins are replaced
	live     atomic.Pointer[live]
	origins  atomic.Pointer[origins]
	stays    stays
	cert     *certificate // nil = plain HTTP
	rpc      *rpc.Server  // nil = not served
	rpcFrom  uint64       // the head when the node started

	mux    *http.ServeMux
	routes map[string]*route // by pattern
	huma   huma.API

	services []string // of remote calls
}

// New reads or makes the token secret, opens the ops listener and lays out the
// routes. It starts nothing; a server that is not run MUST be closed. A
// *[parley.StartError] means that a restart will not help.
func New(n *parley.Node, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	s := &Server{
		node: n, cfg: n.Config(), log: o.Log.With("room", "api"), reg: o.Registry,
		dumps:   newSlots(dumpsAtOnce, 0, "as many dumps run as may, or one to this address: try again, or use a token"),
		lists:   newSlots(listsAtOnce, listWait, "too many large lists are asked for: try again, or use a token"),
		queries: newSlots(queriesAtOnce, listWait, "as many queries of the DHT run as may: try again"),
		tails:   newSlots(followersAtOnce, 0, "as many follow gossip as may: try again"),
		readers: newSlots(followersAtOnce, 0, "as many read the log as may: try again"),
		lines:   o.Lines, tracer: o.Tracer,
		mux: http.NewServeMux(), routes: map[string]*route{},
	}
	var boot [8]byte
	_, _ = rand.Read(boot[:]) // never fails, by its documentation
	s.boot = hex.EncodeToString(boot[:])
	var err error
	if err := s.adopt(); err != nil {
		return nil, &parley.StartError{Code: 101, Err: err}
	}
	if s.cert, err = openCertificate(s.cfg, s.log); err != nil {
		return nil, &parley.StartError{Code: 101, Err: err}
	}
	if s.metrics, err = newMetrics(s.reg); err != nil {
		return nil, fmt.Errorf("metrics of the api: %w", err)
	}
	s.conns = newConnCount(maxConns, s.metrics)
	if s.ops, err = s.listenOps(); err != nil {
		return nil, err
	}
	s.hub = newHub(n.Events(), s.cfg.API.MaxClients, s.metrics)
	s.hub.flatten = s.teranodeFrame
	s.huma = s.newHuma()
	s.nodeRoutes()
	s.configRoutes()
	s.logRoutes()
	s.peerRoutes()
	s.bookRoutes()
	s.banRoutes()
	s.dhtRoutes()
	s.gossipRoutes()
	s.messageRoutes()
	s.chainRoutes()
	s.recordRoutes()
	s.proofRoutes()
	s.backupRoutes()
	s.bundleRoutes()
	s.devnetRoutes()
	s.streamRoutes()
	if err := s.compatRoutes(); err != nil {
		return nil, err
	}
	s.probeRoutes()
	s.grpcServices()
	s.documentRoutes()
	s.docsRoutes()
	return s, nil
}

// Boot tells this start of the node from others, as hello of the event stream
// does.
func (s *Server) Boot() string { return s.boot }

// route is one entry of the table of routes.
type route struct {
	method  string
	pattern string
	access  access
	maxBody int64    // bytes, or noBodyLimit
	stream  bool     // never ends by itself: not timed, and but for remote calls a token may stand in the query
	grpc    bool     // a remote call, by gRPC and its like
	places  *slots   // bound of large answers, nil = none
	query   []string // names that it takes, nil = any, as other systems do
	serve   http.HandlerFunc
}

const (
	defaultMaxBody = 1 << 20
	noBodyLimit    = -1 // each message of the body has its own
)

// handle adds a route. Every route enters here.
func (s *Server) handle(r route) {
	if r.maxBody == 0 {
		r.maxBody = defaultMaxBody
	}
	switch {
	case r.places != nil && r.grpc && r.stream:
		r.serve = s.inPlace(r.places, r.serve)
	case r.places != nil:
		r.serve = s.within(r.places, r.serve)
	}
	key := r.method + " " + r.pattern
	s.mux.HandleFunc(key, r.serve)
	s.routes[key] = &r
}

// get adds a route of another system's shape.
func (s *Server) get(pattern string, a access, serve http.HandlerFunc) {
	s.handle(route{method: http.MethodGet, pattern: pattern, access: a, serve: serve})
}

// getLarge adds one whose answer may be large.
func (s *Server) getLarge(pattern string, places *slots, serve http.HandlerFunc) {
	s.handle(route{method: http.MethodGet, pattern: pattern, access: read, places: places, serve: serve})
}

// raw adds a route that is served by hand and described in the document.
func (s *Server) raw(r route, op huma.Operation, f form) {
	s.describe(&op, r, f)
	r.query = queryOf(&op)
	s.huma.OpenAPI().AddOperation(&op)
	s.handle(r)
}

// humaAdapter makes operations of huma entries of the table of routes.
type humaAdapter struct{ *Server }

// Keys of an operation's metadata.
const (
	accessKey = "access"
	placesKey = "places"
	alsoKey   = "also"
)

func (a humaAdapter) Handle(op *huma.Operation, serve func(huma.Context)) {
	places, _ := op.Metadata[placesKey].(*slots)
	a.handle(route{
		method: op.Method, pattern: op.Path, access: op.Metadata[accessKey].(access), maxBody: op.MaxBodyBytes, places: places, query: queryOf(op),
		serve: func(w http.ResponseWriter, r *http.Request) { serve(humago.NewContext(op, r, w)) },
	})
}

func (a humaAdapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

func (s *Server) newHuma() huma.API {
	c := huma.DefaultConfig("parley", s.node.Version().Version)
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil // the document is served by documentRoutes
	c.Info.Description = "A peer-to-peer node for blockchain networks."
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", BearerFormat: "JWT"}}
	c.Transformers = []huma.Transformer{func(ctx huma.Context, _ string, v any) (any, error) {
		if p, ok := v.(*problem); ok && p.Instance == "" {
			u := ctx.URL()
			p.Instance = u.Path
		}
		return v, nil
	}}
	return huma.NewAPI(c, humaAdapter{s})
}

// documentRoutes serve the description of the native routes.
func (s *Server) documentRoutes() {
	document := func(pattern, mediaType string, make func() ([]byte, error)) {
		once := sync.OnceValues(make)
		s.get(pattern, open, func(w http.ResponseWriter, r *http.Request) {
			b, err := once()
			if err != nil {
				s.refuse(w, r, s.problemOf(err))
				return
			}
			serveTagged(w, r, b, tagOf(b), mediaType)
		})
	}
	s.describeNull()
	doc := s.huma.OpenAPI()
	document("/openapi.json", "application/openapi+json", doc.MarshalJSON)
	document("/openapi.yaml", "application/openapi+yaml", doc.YAML)
	document("/openapi-3.0.json", "application/openapi+json", s.downgrade)
}
