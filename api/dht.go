package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
)

const (
	queriesAtOnce = 2
	queryLimit    = 150 * time.Second // over the longest that the DHT takes: a lookup, then a store
)

func (s *Server) dhtRoutes() {
	operation(s, http.MethodGet, "dht", read, "How the DHT stands", func(context.Context, *none) (*answer[parley.DHT], error) {
		return &answer[parley.DHT]{s.node.DHT()}, nil
	})
	operation(s, http.MethodGet, "dht/table", read, "The table of the DHT by buckets, far ones first", s.dhtTable)
	operation(s, http.MethodPost, "dht/find-node", admin, "Look for a peer, and for those nearest to its id", s.findNode, s.asksDHT)
	operation(s, http.MethodPost, "dht/find-providers", admin, "Look for peers that say that they have something", s.findProviders, s.asksDHT)
	operation(s, http.MethodPost, "dht/provide", admin, "Tell that this node has something, again each 12 h; peers = those that took it", s.provide, s.asksDHT)
	operation(s, http.MethodGet, "dht/values", read, "Look a signed value up", s.dhtValue, s.asksDHT)
	operation(s, http.MethodPut, "dht/values", admin, "Sign a value of at most 3840 bytes and store it, again each 12 h", s.putDHTValue, s.asksDHT)
	s.raw(route{method: http.MethodPost, pattern: prefix + "dht/crawl", access: admin, places: s.queries, serve: s.crawlDHT}, huma.Operation{
		OperationID: "post-dht-crawl", Summary: "Ask each peer of the DHT for its whole table: one JSON object a line, as each is done",
	}, form{gives: linesType})
}

func (s *Server) dhtTable(_ context.Context, p *Page) (*answer[list[parley.DHTBucket]], error) {
	buckets, err := s.node.DHTTable()
	if err != nil {
		return nil, err
	}
	return pageOf(buckets, *p)
}

type nodeQuery struct {
	Body struct {
		Peer string `json:"peer" minLength:"1" maxLength:"256" doc:"peer id"`
	}
}

func (s *Server) findNode(ctx context.Context, in *nodeQuery) (*answer[parley.DHTNodes], error) {
	id, err := peer.Decode(in.Body.Peer)
	if err != nil {
		return nil, badRequest.problem(fmt.Sprintf("%.80q is no peer id: want base58 such as 12D3KooW…, as in parley peers list -o wide", in.Body.Peer))
	}
	return answerOf(s.node.FindNode(ctx, id))
}

type providersQuery struct {
	Body struct {
		ProviderKey
		Limit int `json:"limit,omitempty" minimum:"1" maximum:"128" doc:"20 unless told"`
	}
}

func (s *Server) findProviders(ctx context.Context, in *providersQuery) (*answer[parley.DHTNodes], error) {
	return answerOf(s.node.FindProviders(ctx, in.Body.Key, in.Body.Limit))
}

type provided struct{ Body ProviderKey }

func (s *Server) provide(ctx context.Context, in *provided) (*answer[parley.DHTNodes], error) {
	return answerOf(s.node.Provide(ctx, in.Body.Key))
}

type valueQuery struct {
	ValueKey
	Quorum int `query:"quorum" minimum:"0" maximum:"20" doc:"end once so many peers gave the same value; 0 = ask all of the nearest"`
}

func (s *Server) dhtValue(ctx context.Context, in *valueQuery) (*answer[parley.DHTValue], error) {
	return answerOf(s.node.GetDHTValue(ctx, in.Key, in.Quorum))
}

type newValue struct {
	ValueKey
	Body struct {
		Value []byte `json:"value" doc:"base64"`
	}
}

func (s *Server) putDHTValue(ctx context.Context, in *newValue) (*answer[parley.DHTValue], error) {
	return answerOf(s.node.PutDHTValue(ctx, in.Key, in.Body.Value))
}

// ProviderKey is what is provided. Only an exported name is seen in a body.
type ProviderKey struct {
	Key string `json:"key" minLength:"1" maxLength:"1024" doc:"a CID, or any other text, which stands for its hash"`
}

// ValueKey is the key of a value. Only an exported name is seen in a query.
type ValueKey struct {
	Key string `query:"key" required:"true" minLength:"1" maxLength:"256" doc:"/parley/KIND/AUTHOR, or KIND alone, of which this node is the author"`
}

// asksDHT makes an operation wait for a place, and gives it time.
func (s *Server) asksDHT(op *huma.Operation) {
	op.Metadata[placesKey] = s.queries
	op.BodyReadTimeout = queryLimit // it goes on for the answer: past it the request would be taken for gone
}

// crawlDHT streams a crawl. One that fails on its way is cut off.
func (s *Server) crawlDHT(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	began := &lazyHeader{ResponseWriter: w, contentType: linesType}
	lines, rc := json.NewEncoder(began), http.NewResponseController(w)
	var broken error
	err := s.node.CrawlDHT(ctx, func(c parley.DHTCrawled) {
		if broken != nil {
			return
		}
		if broken = lines.Encode(c); broken != nil {
			cancel()
			return
		}
		_ = rc.Flush()
	})
	switch {
	case err == nil && broken == nil:
	case !began.wrote:
		s.refuse(w, r, s.problemOf(err))
	default:
		panic(http.ErrAbortHandler)
	}
}

// dhtProblem is the answer for what the DHT could not do; nil = the error is
// another's.
func dhtProblem(err error) *problem {
	switch {
	case errors.Is(err, parley.ErrBadDHT):
		return badRequest.problem(err.Error())
	case errors.Is(err, parley.ErrDHTValue):
		return tooLarge.problem(err.Error())
	case errors.Is(err, parley.ErrDHTOff):
		return conflict.problem(err.Error())
	case errors.Is(err, parley.ErrDHTFull):
		p := full.problem(err.Error())
		p.Limit = "dht"
		return p
	case errors.Is(err, parley.ErrDHTNotReady):
		return notReady.problem(err.Error())
	}
	return nil
}
