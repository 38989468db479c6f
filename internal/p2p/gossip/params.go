package gossip

import (
	"log/slog"
	"net"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/internal/wire"
)

const (
	queueSize     = 4_096    // RPCs per peer; the library's 32 loses a third of a burst
	validateQueue = 1_024    // messages before validation, all topics
	largeQueue    = 128      // as validateQueue, of chunks
	validateMost  = 1_024    // messages in validation, all topics; pubsub loses what is over, which pace keeps from coming
	validateTopic = 512      // of them of one topic, so that none starves the others
	bigMessage    = 16 << 10 // bytes from which IDONTWANT is worth its message
	rpcOverhead   = 64 << 10 // around the largest message, and room for control
	// A node asks one peer for this many messages a second. Their answer is
	// one RPC, which must stay below maxMessages.
	maxAsked = 256

	gossipBelow = -40. // score from which a peer is told and asked nothing; see chargeNoise
	ipWeight    = -5.
)

// kind is what differs between the instances.
type kind struct {
	protocols     []protocol.ID
	features      pubsub.GossipSubFeatureTest
	params        pubsub.GossipSubParams
	validateQueue int  // messages before validation, all topics
	ahead         int  // messages of all peers that are read and not judged, or 4 of each
	flood         bool // ours go to all at once and not to the mesh alone
}

func mainKind() kind {
	return kind{
		// Without floodsub, whose peers would be sent everything.
		protocols: []protocol.ID{pubsub.GossipSubID_v13, pubsub.GossipSubID_v12, pubsub.GossipSubID_v11},
		features:  pubsub.GossipSubDefaultFeatures, params: meshParams(),
		validateQueue: validateQueue, ahead: mostAhead, flood: true, // small networks have no mesh for a second
	}
}

func largeKind(net string) kind {
	return kind{
		protocols: []protocol.ID{protocol.ID("/parley/" + net + "/chunk/1")},
		features:  func(pubsub.GossipSubFeature, protocol.ID) bool { return true },
		params:    largeParams(), validateQueue: largeQueue, ahead: maxAheadOf,
	}
}

func (g *Gossip) options() []pubsub.Option {
	quiet := slog.New(slog.DiscardHandler) // it warns of every broken peer; our own words are in verdict
	return []pubsub.Option{
		pubsub.WithLogger(quiet),
		pubsub.WithRPCLogger(quiet),
		pubsub.WithGossipSubParams(g.kind.params),
		pubsub.WithGossipSubProtocols(g.kind.protocols, g.kind.features),
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID),
		pubsub.WithMaxMessageSize(g.maxRPC()),
		pubsub.WithPeerOutboundQueueSize(queueSize),
		pubsub.WithValidateQueueSize(g.kind.validateQueue),
		pubsub.WithValidateThrottle(validateMost),
		pubsub.WithFloodPublish(g.kind.flood),
		pubsub.WithPeerExchange(false),
		pubsub.WithPeerScore(g.scoreParams()),
		pubsub.WithPeerScoreInspect(g.keepScores, time.Second),
		pubsub.WithPeerGater(pubsub.DefaultPeerGaterParams()),
		pubsub.WithSubscriptionFilter(g.guard),
		pubsub.WithPeerFilter(g.takes),
		pubsub.WithAppSpecificRpcInspector(g.guard.inspect),
		pubsub.WithBlacklist(blacklist{g.rep}),
		pubsub.WithRawTracer(g.tracer),
	}
}

func meshParams() pubsub.GossipSubParams {
	params := pubsub.DefaultGossipSubParams()
	params.D, params.Dlo, params.Dhi, params.Dout = 8, 6, 12, 3 // Dout MUST be below D/2
	params.MaxIHaveLength = maxAsked
	params.IDontWantMessageThreshold = bigMessage
	params.Connectors = 0 // no peer exchange: discovery is not gossip's
	return params
}

// largeParams are those of topic chunk: three copies of a message on its way
// and not six are sent for it.
func largeParams() pubsub.GossipSubParams {
	params := meshParams()
	params.D, params.Dlo, params.Dhi, params.Dout = 4, 3, 6, 1
	params.MaxIDontWantLength = maxIDs // the library's 10 are a sixteenth of a message
	return params
}

func messageID(m *pb.Message) string {
	id := wire.MessageID(m.GetTopic(), m.GetData())
	return string(id[:])
}

// scoreParams are those of DEFENCE 10.1.
func (g *Gossip) scoreParams() (*pubsub.PeerScoreParams, *pubsub.PeerScoreThresholds) {
	return &pubsub.PeerScoreParams{
			Topics:        map[string]*pubsub.TopicScoreParams{},
			TopicScoreCap: 40,
			AppSpecificScore: func(p peer.ID) float64 {
				return -float64(g.rep.Score(p).Points)
			},
			AppSpecificWeight:           1,
			IPColocationFactorWeight:    ipWeight,
			IPColocationFactorThreshold: 8,
			IPColocationFactorWhitelist: private, // one machine may hold a whole network
			BehaviourPenaltyWeight:      -5,
			BehaviourPenaltyThreshold:   6,
			BehaviourPenaltyDecay:       pubsub.ScoreParameterDecay(10 * time.Minute),
			DecayInterval:               time.Second,
			DecayToZero:                 0.01,
			RetainScore:                 time.Hour,
		}, &pubsub.PeerScoreThresholds{
			GossipThreshold:             gossipBelow,
			PublishThreshold:            -60,
			GraylistThreshold:           -80,
			AcceptPXThreshold:           1_000, // out of reach
			OpportunisticGraftThreshold: 2,
		}
}

// topicScore gives the weights of a topic by its class. Missing deliveries
// (P3) do not count: suppressed duplicates look like them.
func topicScore(name string) *pubsub.TopicScoreParams {
	p := &pubsub.TopicScoreParams{
		SkipAtomicValidation: true,
		TopicWeight:          0.25,
		TimeInMeshWeight:     0.01, TimeInMeshQuantum: time.Second, TimeInMeshCap: 300,
		FirstMessageDeliveriesWeight: 0.1, FirstMessageDeliveriesCap: 100,
		FirstMessageDeliveriesDecay:    pubsub.ScoreParameterDecay(10 * time.Minute),
		InvalidMessageDeliveriesWeight: -10,
		InvalidMessageDeliveriesDecay:  pubsub.ScoreParameterDecay(time.Hour),
	}
	switch name {
	case "block":
		p.TopicWeight, p.FirstMessageDeliveriesWeight, p.FirstMessageDeliveriesCap = 1, 1, 20
	case "subtree", "chunk": // parts of a block
		p.TopicWeight, p.FirstMessageDeliveriesCap = 0.5, 200
	}
	return p
}

var private = func() (nets []*net.IPNet) {
	for _, s := range []string{"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"} {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			panic(err)
		}
		nets = append(nets, n)
	}
	return nets
}()
